"""Dead leaves: endless pictures with the edges, occlusions and spectrum of photographs, and nobody's rights in them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evssm.data.kernels import GAMMA

SUPERSAMPLED = 2
"""Samples per pixel and axis, averaged in linear light: edges are as soft as a sensor's."""

SMALLEST = 2.0
"""Radius in pixels under which no leaf is drawn: the pixel hides what is smaller."""

COVERAGE = 0.998


def dead_leaves(
    rng: np.random.Generator, h: int, w: int, *, palette: Float[Tensor, "n 3"] | None = None
) -> Float[Tensor, "3 {h} {w}"]:
    """A picture in [0, 1] of leaves of all sizes lying on each other (Lee, Mumford and Huang 2001).

    Each leaf has a colour out of `palette` (any, without one), is shaded across, and is plain, striped or speckled.
    """
    n = SUPERSAMPLED
    index, centres = leaf_map(rng, h * n, w * n, smallest=SMALLEST * n)
    count = len(centres)
    colours = rng.random((count, 3)) if palette is None else palette.numpy()[rng.integers(len(palette), size=count)]
    rows, columns = np.indices(index.shape, np.float32)
    rows -= centres[index, 0]
    columns -= centres[index, 1]
    shade = rng.normal(0, 0.15 / max(h, w) / n, (count, 2)).astype(np.float32)
    period, angle = np.exp(rng.uniform(np.log(3 * n), np.log(24 * n), count)), rng.uniform(0, np.pi, count)
    waves = (2 * np.pi / period * np.stack([np.sin(angle), np.cos(angle)])).astype(np.float32)
    kind, strength = rng.integers(3, size=count), rng.uniform(0.05, 0.25, count)
    striped, speckled = ((strength * (kind == k)).astype(np.float32) for k in (1, 2))
    relief = 1 + shade[index, 0] * rows + shade[index, 1] * columns
    relief += striped[index] * np.sin(waves[0, index] * rows + waves[1, index] * columns)
    relief += speckled[index] * rng.standard_normal(index.shape, np.float32)
    light: np.ndarray = np.clip(colours.astype(np.float32)[index] * relief[..., None], 0, 1) ** np.float32(GAMMA)
    light = light.reshape(h, n, w, n, 3).mean((1, 3))
    return torch.from_numpy(light ** np.float32(1 / GAMMA)).permute(2, 0, 1).contiguous()


def leaf_map(
    rng: np.random.Generator, h: int, w: int, *, smallest: float | int, coverage: float | int = COVERAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Which leaf each sample shows, `h w`, and the leaves' centres, `n 2`: discs, ellipses and boxes.

    Leaves fall from front to back, so that none is painted that is not seen, until `coverage` of the samples show
    one; leaf 0, in the middle, is the ground. Radii have density r^-3, which makes the picture look alike at every
    scale, between `smallest` and half the longer side. Raises `ValueError` for a coverage not in [0, 1) and for leaves
    that may fall between the samples, under radius 1.
    """
    if smallest < 1:
        raise ValueError(f"leaves of radius {smallest} fall between the samples; give 1 or more")
    if not 0 <= coverage < 1:
        raise ValueError(f"a coverage of {coverage} cannot be reached; give a share from 0 to below 1")
    index, centres = np.zeros((h, w), np.int32), [(h / 2, w / 2)]
    radii = np.geomspace(smallest, max(h, w, 2 * smallest) / 2, 2048)
    odds = np.cumsum(radii**-2.0 * (h + 2 * radii) * (w + 2 * radii))  # of touching the picture, per log radius
    hidden, allowed = h * w, (1 - coverage) * h * w
    while hidden > allowed:
        drawn = radii[np.searchsorted(odds, rng.random(256) * odds[-1])]
        for r, row, column, kind, aspect, angle in zip(drawn, *rng.random((5, 256)), strict=True):
            centre = (row * (h + 2 * r) - r, column * (w + 2 * r) - r)
            top, left = max(0, int(centre[0] - r)), max(0, int(centre[1] - r))
            seen = index[top : int(centre[0] + r) + 2, left : int(centre[1] + r) + 2]
            if not seen.size or seen.all():
                continue
            inside = _leaf(seen.shape, (centre[0] - top, centre[1] - left), r, kind, 0.3 + 0.7 * aspect, angle * np.pi)
            inside &= seen == 0
            fresh = int(np.count_nonzero(inside))
            if fresh:
                seen[inside] = len(centres)
                centres.append(centre)
                hidden -= fresh
    return index, np.array(centres, np.float32)


def _leaf(
    shape: tuple[int, ...], centre: tuple[float, float], r: float, kind: float, aspect: float, angle: float
) -> np.ndarray:
    """Where a disc, an ellipse or a box of circumscribed radius `r` lies, a third of the leaves being of each kind."""
    row = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(centre[0])
    column = np.arange(shape[1], dtype=np.float32) - np.float32(centre[1])
    if kind < 1 / 3:
        return row**2 + column**2 <= r**2
    s, c = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    along, across = c * column + s * row, c * row - s * column
    if kind < 2 / 3:
        return along**2 + (across / aspect) ** 2 <= r**2
    side = r / (1 + aspect**2) ** 0.5
    return (np.abs(along) <= side) & (np.abs(across) <= aspect * side)
