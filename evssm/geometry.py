"""The eight symmetries of the square, as values with a product and an inverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class D4:
    """A symmetry of the square acting on the last two axes: transpose, then flip rows and columns.

    EVSSM's two geometric transforms are `TRANSPOSE` and `HALF_TURN`; they commute and are their own inverses, so a
    feature map of EVSSM lies in one of four frames (Kong et al. 2025, Sec. 3.2). A *frame* is the element that took
    the upright map to the stored one: `stored = frame(upright)`, so `frame.inverse(stored)` is the map as the image
    lies.
    """

    transpose: bool = False
    flip_h: bool = False
    flip_w: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """The map `... h w`, turned; a transpose alone is a view, a flip copies."""
        x = x.mT if self.transpose else x
        axes = [axis for axis, on in ((-2, self.flip_h), (-1, self.flip_w)) if on]
        return x.flip(axes) if axes else x

    def __matmul__(self, first: D4) -> D4:
        """The element that acts as `first`, then as `self`."""
        h, w = first.flip_h, first.flip_w
        h, w = (w, h) if self.transpose else (h, w)  # a transpose swaps the flips that it passes
        return D4(self.transpose ^ first.transpose, self.flip_h ^ h, self.flip_w ^ w)

    @property
    def inverse(self) -> D4:
        """The element that undoes this one: the flips first, then the transpose."""
        return D4(self.transpose) @ D4(False, self.flip_h, self.flip_w)

    def size(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of an `h x w` map after the turn."""
        return (w, h) if self.transpose else (h, w)

    def points(self, rc: tuple[Number, Number] | Tensor, h: int, w: int) -> tuple[Number, Number] | Tensor:
        """Where the pixel `(row, column)` of an `h x w` map lies after the turn.

        `rc` is a pair of numbers (whole or not) or a tensor `... 2`; the result is of the same kind.
        """
        if isinstance(rc, Tensor):
            rc = rc.flip(-1) if self.transpose else rc.clone()
            for axis, (on, length) in enumerate(zip((self.flip_h, self.flip_w), self.size(h, w), strict=True)):
                if on:
                    rc[..., axis] = length - 1 - rc[..., axis]
            return rc
        (r, c), (h, w) = (rc[::-1] if self.transpose else rc), self.size(h, w)
        return (h - 1 - r if self.flip_h else r, w - 1 - c if self.flip_w else c)

    def __str__(self) -> str:
        return _NAMES[self]


IDENTITY = D4()
TRANSPOSE = D4(transpose=True)
HALF_TURN = D4(flip_h=True, flip_w=True)
ANTI_TRANSPOSE = TRANSPOSE @ HALF_TURN
GROUP = tuple(D4(*bits) for bits in product((False, True), repeat=3))

_NAMES = {
    IDENTITY: "upright",
    TRANSPOSE: "transposed",
    HALF_TURN: "half turn",
    ANTI_TRANSPOSE: "anti-transposed",
    D4(flip_h=True): "upside down",
    D4(flip_w=True): "mirrored",
    D4(transpose=True, flip_h=True): "quarter turn left",
    D4(transpose=True, flip_w=True): "quarter turn right",
}
