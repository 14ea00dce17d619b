"""One number for a region of an image-to-image network's output, which attribution methods ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.sensitivity import EXCLUDE, INCLUDE, Network, Select, chosen_output
from evssm.shapes import Image
from evssm.tiles import GRID

Box = tuple[int, int, int, int]
"""A region: the row and the column of its first pixel, its height and its width."""

SMOOTHING = 1e-8
"""Added to a squared gradient before its root, whose slope at 0 is infinite: a flat region would give NaN. Its root is
1e-4, a fortieth of an 8-bit level."""


def edge_strength(y: Image, box: Box) -> Float[Tensor, " b"]:
    """Sum over the region and channels of sqrt(dx^2 + dy^2), dx and dy being differences to the next column and row.

    The gradient detector of Gu & Dong (2021), for the pixels that have a next row and column in the image; smoothed
    at 0 (`SMOOTHING`) such that a flat region has strength 0.
    """
    top, left, height, width = box
    part = y[..., top : top + height + 1, left : left + width + 1]
    down = part[..., 1:, :-1] - part[..., :-1, :-1]
    right = part[..., :-1, 1:] - part[..., :-1, :-1]
    strength = (down.square() + right.square() + SMOOTHING).sqrt() - SMOOTHING**0.5
    return strength.sum(dim=(1, 2, 3))


def value_sum(y: Image, box: Box) -> Float[Tensor, " b"]:
    """Sum of the values in the region over its pixels and channels."""
    top, left, height, width = box
    return y[..., top : top + height, left : left + width].sum(dim=(1, 2, 3))


REDUCTIONS: dict[str, Callable[[Any, Box], Tensor]] = {"grad": edge_strength, "sum": value_sum}
"""How a region becomes one number."""


@dataclass(frozen=True)
class RegionScalar:
    """A function of images `b c h w` to one number per image, of what `net` makes of them in `box`.

    `reduce` is "grad", `edge_strength`, or "sum", `value_sum`. `residual="exclude"` takes F(x) - x for F(x). `select`,
    a function or an index, picks the image of a network that returns several. The input is handed over as a copy, so a
    network may overwrite it. Raises `ValueError` for unknown choices, and when called for a region outside the output
    and for outputs that are no images of the input's size.
    """

    net: Network
    box: Box
    reduce: str = "grad"
    select: Select | None = None
    residual: str = INCLUDE

    def __post_init__(self) -> None:
        for what, asked, known in (
            ("reduction", self.reduce, REDUCTIONS),
            ("residual", self.residual, (INCLUDE, EXCLUDE)),
        ):
            if asked not in known:
                raise ValueError(f'no {what} "{asked}" of a region; choose from {", ".join(known)}')

    def __call__(self, x: Image) -> Float[Tensor, " b"]:
        y = chosen_output(self.net(x.clone()), self.select)
        if y.ndim != 4 or len(y) != len(x) or y.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"the network made {tuple(y.shape)} of an input {tuple(x.shape)}; a region of it needs b c h w with "
                "equal b, h and w: try `select=`, or a function that crops or resizes the output"
            )
        check_box(self.box, y.shape[-2], y.shape[-1])
        if self.residual == EXCLUDE:
            if y.shape != x.shape:
                raise ValueError(
                    f"F(x) - x needs equal shapes, but these are {tuple(y.shape)} and {tuple(x.shape)}; "
                    'try residual="include"'
                )
            y = y - x
        return REDUCTIONS[self.reduce](y, self.box)


def check_box(box: Any, h: int, w: int) -> Box:
    """The region, once it is sure to be four whole numbers and to lie in an image of `h w` pixels, and a `ValueError`
    otherwise."""
    try:
        top, left, height, width = (index(number) for number in box)
    except (TypeError, ValueError):
        raise ValueError(
            f"a region is (row, column, height, width) in whole pixels, got {box!r}; try (0, 0, 32, 32)"
        ) from None
    if min(top, left) < 0 or min(height, width) < 1 or top + height > h or left + width > w:
        raise ValueError(
            f"the region of {height} x {width} px at ({top}, {left}) does not lie in the image of {h} x {w} px"
        )
    return top, left, height, width


def middle_box(h: int, w: int, height: int, width: int) -> Box:
    """The region of that size in the middle of an image of `h w` pixels; no larger than the image."""
    height, width = min(height, h), min(width, w)
    return ((h - height) // 2, (w - width) // 2, height, width)


def around(
    image: Float[Tensor, "*b c h w"], box: Box, margin: int
) -> tuple[Float[Tensor, "*b c _ _"], Box, tuple[int, int]]:
    """What surrounds a region: the cut, the region in it, and the (row, column) at which the cut begins.

    `margin` pixels or more on each side, where the image has them. The cut begins and ends at multiples of `GRID`, the
    coarsest grid that networks here lay over an image, so that it lies on that grid as the whole image does; it has
    `GRID` pixels or more where the image has them.
    """
    h, w = image.shape[-2:]
    top, left, height, width = check_box(box, h, w)
    if margin < 0:
        raise ValueError(f"{margin} pixels around a region are too few; give 0 or more")
    first = [max(0, start - margin) // GRID * GRID for start in (top, left)]
    last = [
        min(length, -(-(start + size + margin) // GRID) * GRID)
        for start, size, length in ((top, height, h), (left, width, w))
    ]
    first = [start if end - start >= GRID else max(0, start - GRID) for start, end in zip(first, last, strict=True)]
    cut = image[..., first[0] : last[0], first[1] : last[1]]
    return cut.contiguous(), (top - first[0], left - first[1], height, width), (first[0], first[1])


def scalar_without_gradient(scalar: Callable[[Tensor], Tensor], x: Image) -> float:
    """The number of a single image, `1 c h w`."""
    with torch.no_grad():
        return float(scalar(x))
