"""A look at the embedded data before anything is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evssm.data.embedded import EmbeddedCrops, embedded_test
from evssm.data.motorcycle import DefocusCrops
from evssm.data.pairs import Pair, Pairs
from evssm.data.video import VideoPairs
from evssm.images import crop_centre

KINDS: dict[str, Callable[[int, int], Pairs]] = {
    "shake": lambda seed, size: EmbeddedCrops("train", size, seed=seed),
    "leaves": lambda seed, size: EmbeddedCrops("train", size, seed=seed, leaves=1.0),
    "test": lambda seed, size: embedded_test(),
    "video": lambda seed, size: VideoPairs("test"),
    "defocus": lambda seed, size: DefocusCrops("train", size, seed=seed),
    "dual-pixel": lambda seed, size: DefocusCrops("train", size, seed=seed, dual_pixel=True),
}
"""Kind -> the data set for a seed and an edge of crops in pixels; "test" and "video" are fixed and of one size."""


def preview(kind: str, n: int, seed: int = 0, size: int = 128) -> list[Pair]:
    """`n` pairs of one of `KINDS`: the first of an endless set, and evenly spread over a fixed one.

    Raises `ValueError` for an unknown kind and where the set has fewer than `n`, `FileNotFoundError` where a package
    with its images is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"no embedded data are called {kind!r}; there are {', '.join(KINDS)}")
    pairs = KINDS[kind](seed, size)
    if not 1 <= n <= len(pairs):
        raise ValueError(f"{n} pairs were asked of the {len(pairs)} of {kind!r}; ask for 1 to {len(pairs)}")
    endless = kind not in ("test", "video")
    return [pairs[int(i)] for i in (range(n) if endless else np.linspace(0, len(pairs) - 1, n).round())]


def contact_sheet(pairs: Sequence[Pair], columns: int = 8) -> Float[Tensor, "3 h w"]:
    """One picture of all pairs, each sharp image under its blurred ones (left and right view of a dual pixel).

    Larger images are cut to their middle, so that all have the size of the smallest; free places are white.
    """
    if not pairs or columns < 1:
        raise ValueError(f"{len(pairs)} pairs in {columns} columns make no picture; give one or more of each")
    h, w = (min(pair.sharp.shape[axis] for pair in pairs) for axis in (1, 2))
    piles = [
        torch.cat([*crop_centre(pair.blurred, h, w).split(3), crop_centre(pair.sharp, h, w)], dim=1) for pair in pairs
    ]
    piles += [torch.ones_like(piles[0])] * (-len(piles) % min(columns, len(piles)))
    columns = min(columns, len(pairs))
    return torch.cat([torch.cat(piles[k : k + columns], dim=2) for k in range(0, len(piles), columns)], dim=1)
