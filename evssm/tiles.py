"""Large images in overlapping tiles, outside the network: bounded memory, at the price of what tiles cannot see.

A network whose receptive field is larger than the overlap gives other values in tiles than at once; tables and files
therefore say that tiles were used, and of which size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evssm.images import SMALLEST
from evssm.shapes import Image, Map

GRID = 32
"""Tiles start at multiples of this many pixels where their steps allow it: the coarsest grid of the networks here, on
which their strided levels and 8 x 8 patches lie as in the whole image."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis: pixels `start` to `stop` of an image of `length`, blended over `overlap`."""

    start: int
    stop: int
    length: int
    overlap: int

    def weights(self) -> Float[Tensor, " n"]:
        """How much each pixel counts. At a border inside the image the outer quarter of the overlap, which has the
        least context, counts nothing; over the middle half the weight rises in a straight line to 1."""
        n, blind = self.stop - self.start, self.overlap // 4
        ramp = max(self.overlap - 2 * blind, 1)
        from_start = torch.arange(n, dtype=torch.float64)
        weight = torch.ones(n, dtype=torch.float64)
        for inside, distance in ((self.start > 0, from_start), (self.stop < self.length, n - 1 - from_start)):
            if inside:
                weight = torch.minimum(weight, ((distance - blind + 0.5) / ramp).clamp(0, 1))
        return weight


def tiled(
    net: Callable[[Image], Map],
    x: Image,
    tile: int,
    overlap: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Map:
    """`net(x)`, computed in tiles of at most `tile x tile` pixels and blended where they overlap.

    The weights of `Span.weights` are divided by their sum, in float64. A network that looks no further than a quarter
    of the overlap, on a grid that divides `GRID`, gives the values of the untiled run; where one tile covers the
    image, the result is that of `net(x)`, bit for bit. Neighbours overlap by `overlap` pixels or more.

    Raises `ValueError` for tiles under 16 pixels, for an overlap as large as the tile, and where `net` changes the
    size.
    """
    h, w = x.shape[-2:]
    if h <= tile and w <= tile:
        _demand(tile, overlap)
        return net(x)
    places = [(r, c) for r in spans(h, tile, overlap) for c in spans(w, tile, overlap)]
    cover = torch.zeros(h, w, dtype=torch.float64, device=x.device)
    total = cover.new_zeros(0)
    for done, (r, c) in enumerate(places):
        if progress:
            progress(done, len(places))
        part = x[..., r.start : r.stop, c.start : c.stop]
        y = net(part.contiguous())
        if y.shape[-2:] != part.shape[-2:]:
            sizes = f"{tuple(y.shape[-2:])} pixels of {tuple(part.shape[-2:])}"
            raise ValueError(f"tiles need a network that keeps the size; this one makes {sizes}")
        if not done:
            total = cover.new_zeros(*y.shape[:2], h, w)
        weight = torch.outer(r.weights(), c.weights()).to(x.device)
        total[..., r.start : r.stop, c.start : c.stop] += weight * y
        cover[r.start : r.stop, c.start : c.stop] += weight
    if progress:
        progress(len(places), len(places))
    return total.div_(cover).to(y.dtype)


def spans(length: int, tile: int, overlap: int) -> tuple[Span, ...]:
    """Tiles of at most `tile` pixels that cover `length`, with steps as equal as `GRID` lets them be."""
    _demand(tile, overlap)
    if length <= tile:
        return (Span(0, length, length, overlap),)
    grid = GRID if tile - overlap >= GRID and tile - GRID >= SMALLEST else 1
    longest, last = (tile - overlap) // grid, -(-(length - tile) // grid)  # in units of the grid
    steps = -(-last // longest)
    starts = [grid * (k * last // steps) for k in range(steps + 1)]
    return tuple(Span(start, min(start + tile, length), length, overlap) for start in starts)


def tiles_of(h: int, w: int, tile: int, overlap: int) -> Iterator[tuple[int, int]]:
    """The sizes of the tiles of an `h x w` image, for those who count their cost."""
    return ((r.stop - r.start, c.stop - c.start) for r in spans(h, tile, overlap) for c in spans(w, tile, overlap))


def _demand(tile: int, overlap: int) -> None:
    if tile < SMALLEST:
        raise ValueError(f"tiles of {tile} pixels are too small; the networks take {SMALLEST} or more (try 512)")
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels cannot overlap by {overlap}; give 0 to {tile - 1} (try {tile // 8})")
