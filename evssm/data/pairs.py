"""What every data set gives: a blurred image, the sharp one that belongs to it, and a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Pair(NamedTuple):
    """Two aligned images in [0, 1], float32; `blurred` is `c h w` (six channels for a dual-pixel view), `sharp`
    `3 h w`."""

    blurred: Tensor
    sharp: Tensor
    name: str


@runtime_checkable
class Pairs(Protocol):
    """A data set: item `i` is a function of `i` alone, so that it can be had in any order and by any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Pair: ...


def each(pairs: Pairs) -> Iterator[Pair]:
    """The items of a data set in order."""
    return (pairs[i] for i in range(len(pairs)))
