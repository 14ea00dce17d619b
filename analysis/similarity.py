"""How alike two maps of importance are, inside the pixels that could count at all; 1 for equal ones.

Maps are compared by their absolute values relative to their largest, to a thousandth of a decade and down to twelve
decades, so that rounding makes no order where there is none.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float

from evssm.metrics import ssim_map

Field = Float[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]
Measure = Callable[[Field, Field, Mask, tuple[int, int]], float]

DEEPEST = 12
SHOWN = 4  # decades of a picture
EDGE = 3  # px from a border to the middle of SSIM's window
CELL = 8  # px of a cell of HOG's


def rank_correlation(a: Field, b: Field, within: Mask, query: tuple[int, int]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; 0 where one map is the same everywhere."""
    return _correlation(*(_ranks(decades(field)[within]) for field in (a, b)))


def rank_correlation_beyond_distance(a: Field, b: Field, within: Mask, query: tuple[int, int]) -> float:
    """The same after taking from each rank the mean rank at its distance from `query`: all fields fall with distance.

    Two maps that hold nothing but distance are equal by this measure, 1; one such map and another, 0.
    """
    y, x = np.ogrid[: a.shape[0], : a.shape[1]]
    rings = ((y - query[0]) ** 2 + (x - query[1]) ** 2)[within]
    _, ring = np.unique(rings, return_inverse=True)
    left = []
    for field in (a, b):
        ranks = _ranks(decades(field)[within])
        means = np.bincount(ring, weights=ranks) / np.bincount(ring)
        left.append(ranks - means[ring])
    flat = [np.abs(residual).max() < 1e-6 for residual in left]
    return 1.0 if all(flat) else _correlation(*left)


def structural_similarity(a: Field, b: Field, within: Mask, query: tuple[int, int]) -> float:
    """SSIM (Wang et al. 2004, windows of 7 px) of the two as drawn, four decades from black to white; the mean over
    windows whose middle counts. Not-a-number where there is none."""
    drawn = [torch.from_numpy(np.clip(1 + decades(field) / SHOWN, 0, 1))[None, None] for field in (a, b)]
    middle = within[EDGE:-EDGE, EDGE:-EDGE]
    if not middle.any():
        return float("nan")
    return float(ssim_map(*drawn, variant="uniform")[0, 0].numpy()[middle].mean())


def overlap(a: Field, b: Field, within: Mask, query: tuple[int, int]) -> float:
    """The mass that both maps, each of mass 1, have at the same pixels: 1 less half the sum of their differences."""
    m, n = (np.abs(field[within]) / np.abs(field[within]).sum() for field in (a, b))
    return float(np.minimum(m, n).sum())


def gradient_correlation(a: Field, b: Field, within: Mask, query: tuple[int, int]) -> float:
    """Correlation of histograms of oriented gradients (Dalal & Triggs 2005) of the two as drawn, four decades from
    black to white; over cells of 8 px that count as a whole. Not-a-number where there is none."""
    from skimage.feature import hog  # takes a second to import

    rows, columns = (side // CELL for side in within.shape)
    whole = within[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).all(axis=(1, 3))
    if not whole.any():
        return float("nan")
    look = {"orientations": 9, "pixels_per_cell": (CELL, CELL), "cells_per_block": (1, 1), "feature_vector": False}
    drawn = (np.clip(1 + decades(field) / SHOWN, 0, 1) for field in (a, b))
    return _correlation(*(hog(picture, **look)[:, :, 0, 0][whole].ravel() for picture in drawn))


MEASURES: dict[str, Measure] = {
    "rank correlation": rank_correlation,
    "rank correlation beyond distance": rank_correlation_beyond_distance,
    "SSIM": structural_similarity,
    "HOG": gradient_correlation,
    "overlap of mass": overlap,
}


def decades(field: Field) -> Field:
    """log10 of the absolute values relative to the largest, rounded."""
    size = np.abs(np.asarray(field, dtype=np.float64))
    peak = size.max()
    if not np.isfinite(peak) or peak == 0:
        raise ValueError(f"maps are compared relative to their largest value, which is {peak} here")
    return np.round(np.log10(np.maximum(size / peak, 10.0**-DEEPEST)), 3)


def _ranks(values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Ranks from 0, equal values sharing their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[index]


def _correlation(a: Float[np.ndarray, " p"], b: Float[np.ndarray, " p"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    if size > 1e-9:
        return float(a @ b / size)
    return float(np.allclose(a, b))
