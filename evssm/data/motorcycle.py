"""Defocus and dual-pixel pairs from the motorcycle, the one photograph at hand with its true disparity.

One scene cannot be split by photograph: training uses its left part, testing its right part, and the strip between
is wider than the blur that reaches into it from both sides. A score here says less than one on held-out scenes,
and nothing of a network that was trained on camera shake too, for that training uses the whole photograph.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np
import torch

from evssm.data.defocus import circles_of_confusion, dual_pixel_views
from evssm.data.kernels import GAMMA
from evssm.data.light import as_files_hold, photograph_light, recoloured
from evssm.data.pairs import Pair
from evssm.photographs import packaged_file

COLUMNS = {"train": (0, 400), "test": (460, 741)}
"""Columns of the left view that each split shows."""

WIDEST = 28
"""Largest blur circle in pixels: what crops of the two splits look at around themselves then does not overlap."""

FOCUSES = (12.0, 30.0, 48.0)
"""Disparities in pixels on which the test images are focused: the far wall, the middle, the motorcycle."""

TEST_CIRCLES = (6.0, 12.0, 24.0)
"""Largest blur circles of the test images, in pixels."""


class DefocusCrops:
    """Pairs of `size x size` crops at random focus and aperture; item `i` is a function of `seed` and `i` alone.

    The largest blur circle that the scene would show is drawn evenly from `circle`, in pixels. `blurred` is the
    photograph of the whole lens, or with `dual_pixel` the left and the right view, six channels. Training crops are
    mirrored (in columns, the views change places) and mildly recoloured. Rounded to 8 bits.

    Raises `ValueError` for an unknown split, a range that is none or beyond `WIDEST`, and crops that do not fit;
    `IndexError` for items outside `length`.
    """

    def __init__(
        self,
        split: str,
        size: int,
        *,
        seed: int,
        dual_pixel: bool = False,
        circle: tuple[float | int, float | int] = (4, 24),
        length: int = 1 << 40,
    ) -> None:
        if split not in COLUMNS:
            raise ValueError(f"no split is called {split!r}; the motorcycle is split into {', '.join(COLUMNS)}")
        if not 0 <= circle[0] <= circle[1] <= WIDEST:
            raise ValueError(f"circle is to lie between {circle[0]} and {circle[1]}; give 0 <= low <= high <= {WIDEST}")
        first, end = COLUMNS[split]
        if seed < 0 or length < 1 or not 0 < size <= end - first:
            raise ValueError(
                f"seed {seed}, size {size}, length {length}: give a seed of 0 or more, and a size up to the "
                f"{end - first} px of the {split} part"
            )
        self.split, self.size, self.seed, self.length = split, size, seed, length
        self.dual_pixel, self.circle = dual_pixel, circle

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < self.length:
            raise IndexError(f"item {i} was asked of {self.length}")
        rng = np.random.default_rng([self.seed, i])
        low, high = float(disparity().min()), float(disparity().max())
        focus, circle = rng.uniform(low, high), rng.uniform(*self.circle)
        first, end = COLUMNS[self.split]
        top = int(rng.integers(len(disparity()) - self.size + 1))
        left = int(rng.integers(first, end - self.size + 1))
        views = _views(focus, circle, top, left, self.size, self.size)
        if self.split == "train":
            views = recoloured(views, rng)
            if rng.random() < 0.5:
                views = views[:, ::-1]
            if rng.random() < 0.5:
                views = views[[1, 0, 2], :, ::-1]
        return _pair(views, self.dual_pixel, f"motorcycle-focus{focus:.1f}-{circle:.1f}px-{i}")


class DefocusTest:
    """The right part of the motorcycle at nine fixed settings: `FOCUSES` times `TEST_CIRCLES`; nothing is random."""

    def __init__(self, *, dual_pixel: bool = False) -> None:
        self.dual_pixel = dual_pixel
        self.settings = [(focus, circle) for focus in FOCUSES for circle in TEST_CIRCLES]

    def __len__(self) -> int:
        return len(self.settings)

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} was asked of {len(self)}")
        focus, circle = self.settings[i]
        return _pair(_test_views(focus, circle), self.dual_pixel, f"motorcycle-focus{focus:g}-{circle:g}px")

    def circles(self, i: int) -> np.ndarray:
        """The true signed blur circle of each point of item `i`, its diameter in pixels, `h w`."""
        focus, circle = self.settings[i]
        return _circles(focus, circle)[:, slice(*COLUMNS["test"])]


@lru_cache(maxsize=1)
def disparity() -> np.ndarray:
    """Disparity of the motorcycle's left view in pixels, `500 741` float32, filled in where it is not known (7 %)."""
    with np.load(packaged_file("skimage", "motorcycle_disp.npz"), allow_pickle=False) as file:
        known = file["arr_0"]
    filled = filled_in(known)
    filled.setflags(write=False)
    return filled


def filled_in(disparity: np.ndarray) -> np.ndarray:
    """The map with every value that is not finite replaced by the smaller, that is farther, of the nearest known ones
    to its left and right: what one view alone sees lies behind. Rows without any known value take those above and
    below. Raises `ValueError` where nothing is known.
    """
    if not np.isfinite(disparity).any():
        raise ValueError("nothing of the disparity is known; give a map with some finite values")
    by_row = _farther_neighbour(disparity)
    return by_row if np.isfinite(by_row).all() else _farther_neighbour(by_row.T).T


def _farther_neighbour(disparity: np.ndarray) -> np.ndarray:
    known, places = np.isfinite(disparity), np.arange(disparity.shape[1])
    before = np.maximum.accumulate(np.where(known, places, -1), 1)
    after = np.minimum.accumulate(np.where(known, places, len(places))[:, ::-1], 1)[:, ::-1]
    framed = np.pad(np.where(known, disparity, np.inf), ((0, 0), (1, 1)), constant_values=np.inf)
    return np.minimum(*(np.take_along_axis(framed, at + 1, 1) for at in (before, after))).astype(np.float32)


def _views(focus: float, circle: float, top: int, left: int, h: int, w: int) -> np.ndarray:
    """Left, right and sharp view of a crop in linear light, `3 h w 3`."""
    light = photograph_light("motorcycle", 1.0)
    reach = ceil(circle) + 2  # a radius to what is hidden at the edge of an object, and one to what hides it
    above, before = max(0, top - reach), max(0, left - reach)
    window = (slice(above, top + h + reach), slice(before, left + w + reach))
    views = dual_pixel_views(light[window], _circles(focus, circle)[window])
    crop = (slice(top - above, top - above + h), slice(left - before, left - before + w))
    return np.stack([views[0][crop], views[1][crop], light[window][crop]])


@lru_cache(maxsize=len(FOCUSES) * len(TEST_CIRCLES))
def _test_views(focus: float, circle: float) -> np.ndarray:
    """`_views` of the whole test part; a second each, and every network to be scored asks for them again."""
    first, end = COLUMNS["test"]
    views = _views(focus, circle, 0, first, len(disparity()), end - first)
    views.setflags(write=False)
    return views


def _circles(focus: float, circle: float) -> np.ndarray:
    """The signed blur circles of the whole scene, the largest of them `circle` pixels wide."""
    whole = disparity()
    aperture = circle / max(focus - whole.min(), whole.max() - focus)
    return circles_of_confusion(whole, float(focus), float(aperture))


def _pair(views: np.ndarray, dual_pixel: bool, name: str) -> Pair:
    lit = views if dual_pixel else np.stack([views[:2].mean(0), views[2]])
    *blurred, sharp = as_files_hold(np.clip(lit, 0, 1) ** np.float32(1 / GAMMA))
    return Pair(torch.cat(blurred), sharp, name)
