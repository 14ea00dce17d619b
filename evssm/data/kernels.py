"""Blur of which everything is known: a straight uniform motion, and convolution with any kernel."""

from __future__ import annotations

from math import ceil, cos, radians, sin

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GAMMA = 2.2
"""Light is the stored value to this power; GoPro's frames were averaged so (Nah et al. 2017, Sec. 2)."""


def to_light(x: Tensor) -> Tensor:
    """Linear light in [0, 1] from stored values; negative ones count as 0."""
    return x.clamp_min(0) ** GAMMA


def from_light(light: Tensor) -> Tensor:
    """The inverse of `to_light`."""
    return light.clamp_min(0) ** (1 / GAMMA)


def motion_kernel(length_px: float | int, angle_deg: float | int) -> Float[Tensor, "k k"]:
    """The point spread of a straight uniform motion of `length_px` pixels, float64, with odd `k`.

    The angle runs from the row to the right, anticlockwise as seen. The line is spread over pixels by linear
    interpolation, integrated exactly: nothing is negative, the sum is 1, the centroid lies in the centre, and the
    second moment is length^2 / 12 along and 0 across the motion, each plus what linear interpolation adds: the mean
    of f (1 - f) over the fractions f of the positions in the same axis, at most 1/4 and, over whole pixels, 1/6.

    Raises `ValueError` for lengths that are negative or not finite.
    """
    if not (0 <= length_px < float("inf") and abs(angle_deg) < float("inf")):
        raise ValueError(
            f"a motion of {length_px} px at {angle_deg} degrees is none; give a finite length of 0 or more"
        )
    half = np.array([-sin(radians(angle_deg)), cos(radians(angle_deg))]) * length_px / 2  # rows run downwards
    half[np.abs(half) < 1e-9] = 0
    reach = ceil(np.abs(half).max())
    crossings = [np.arange(-reach, reach + 1) / h for h in half if h]  # where the line enters another pixel square
    knots = np.unique(np.concatenate([[-1.0, 1.0], *[c[np.abs(c) < 1] for c in crossings]]))
    middle, width = (knots[1:] + knots[:-1]) / 2, np.diff(knots)
    offset = width / 2 / 3**0.5  # two Gauss points are exact for the quadratic between knots
    at = np.concatenate([middle - offset, middle + offset])
    return splat(at[:, None] * half, np.concatenate([width, width]) / 4, reach)


def splat(positions: np.ndarray, weights: np.ndarray, reach: int) -> Float[Tensor, "k k"]:
    """The kernel of `2 reach + 1` pixels with points of these weights at `(row, column)` from its centre, float64.

    Each point is shared by its four pixels as in linear interpolation, which keeps sum and centroid.
    """
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    corner = np.clip(np.floor(positions).astype(int), -reach, reach)
    part = positions - corner
    for row in (0, 1):
        for column in (0, 1):
            share = np.abs(1 - row - part[:, 0]) * np.abs(1 - column - part[:, 1])
            np.add.at(kernel, (corner[:, 0] + reach + row, corner[:, 1] + reach + column), weights * share)
    return torch.from_numpy(kernel[:-1, :-1].copy())


def blur(
    image: Float[Tensor, "*b c h w"], kernel: Float[Tensor, "p q"], *, linear: bool = True
) -> Float[Tensor, "*b c h w"]:
    """The image convolved with a kernel of odd sides, borders reflected without repeating the edge.

    A point becomes the kernel as it stands. With `linear` the averaging is done in linear light (`GAMMA`), as a
    sensor does and as GoPro was made; without, on the stored values.

    Raises `ValueError` for even sides and for images smaller than the reach of the kernel.
    """
    p, q = kernel.shape
    h, w = image.shape[-2:]
    if p % 2 == 0 or q % 2 == 0:
        raise ValueError(f"a kernel of {p} x {q} has no centre pixel; give it odd sides")
    if p // 2 >= h or q // 2 >= w:
        raise ValueError(
            f"a kernel of {p} x {q} reaches beyond the reflection of {h} x {w} pixels; take a larger image"
        )
    x = to_light(image) if linear else image
    x = F.pad(x.reshape(-1, 1, h, w), (q // 2, q // 2, p // 2, p // 2), mode="reflect")
    y = F.conv2d(x, kernel.flip(0, 1).to(x)[None, None]).reshape(image.shape)
    return from_light(y) if linear else y
