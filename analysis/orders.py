"""Orders in which the pixels of an image are taken away: a map's own, nearest first, random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two just outside."""

Order = Int[np.ndarray, " p"]
"""Pixels as places in raster order, the first to go first."""


def by_map(field: Float[np.ndarray, "h w"], within: Bool[np.ndarray, "h w"], generator: np.random.Generator) -> Order:
    """The pixels in `within` by falling absolute value; equal ones in random order, so that none gain by their place.

    Raises `ValueError` for a map with values that are not finite, and for one that is the same everywhere.
    """
    size = np.abs(np.asarray(field, dtype=np.float64))
    if not np.isfinite(size).all():
        raise ValueError("a map to be checked has finite values only; this one has others")
    if np.ptp(size[within]) == 0:
        raise ValueError("this map has one value at every pixel that may go, so it puts them in no order")
    return _rising(-size, within, generator)


def nearest_first(box: Box, within: Bool[np.ndarray, "h w"], generator: np.random.Generator) -> Order:
    """The pixels in `within` by rising Euclidean distance from `box`; equally distant ones in random order."""
    h, w = within.shape
    top, left, bottom, right = box
    y, x = np.ogrid[:h, :w]
    down = np.maximum(0, np.maximum(top - y, y - bottom + 1))
    across = np.maximum(0, np.maximum(left - x, x - right + 1))
    return _rising(down**2 + across**2, within, generator)


def at_random(within: Bool[np.ndarray, "h w"], generator: np.random.Generator) -> Order:
    """The pixels in `within` in random order."""
    return generator.permutation(np.flatnonzero(within))


def _rising(value: np.ndarray, within: np.ndarray, generator: np.random.Generator) -> Order:
    shuffled = at_random(within, generator)
    return shuffled[np.argsort(value.ravel()[shuffled], kind="stable")]


def box_of(query: Sequence[Any] | np.ndarray, h: int, w: int) -> Box:
    """The box that a query means: (row, column), or (top, left, bottom, right) with the last two just outside.

    Raises `ValueError` for one that is empty or not all inside an image of `h w` pixels.
    """
    place = tuple(int(number) for number in query)
    if len(place) == 2:
        place = (*place, place[0] + 1, place[1] + 1)
    if len(place) != 4 or not (0 <= place[0] < place[2] <= h and 0 <= place[1] < place[3] <= w):
        raise ValueError(
            f"query {tuple(query)} is no place in an image of {h} x {w} px; give (row, column), or the box "
            "(top, left, bottom, right) with the last two just outside it"
        )
    return place[0], place[1], place[2], place[3]
