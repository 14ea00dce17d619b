"""Pairs from photographs that are on every machine: endless crops to train on, fixed images to test on.

Train and test share no photograph (`evssm.photographs.SPLITS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from evssm.data.kernels import GAMMA
from evssm.data.light import (
    LEAF_PICTURES,
    as_files_hold,
    leaves_light,
    photograph_light,
    recoloured,
    scales_that_hold,
)
from evssm.data.pairs import Pair
from evssm.data.shake import CameraPath, average, random_path, straight_path
from evssm.geometry import GROUP
from evssm.photographs import PHOTOGRAPHS, photograph, photographs_of

ROLL = 0.5
"""Most travel by roll at the corner of a photograph, as a share of the extent."""

SCALES = (1.0, 0.7, 0.5)
"""Sizes at which training sees a photograph: shrunk, it is sharper and shows the same things smaller."""

SOFTNESS = (0.0, 0.0, 1.0)
"""Standard deviations of Gaussians, in pixels, of which training softens a photograph with one before it moves:
photographs are not all sharp, and a network that never saw a soft one sharpens what is no motion. (Found on a test
photograph, so that scores on that one, `chelsea`, are no longer quite unseen.)"""

COLOUR_SHARE = 3
"""How often a scene in colour is drawn for one drawing of a grey texture."""

TEST_EXTENTS = (6, 12, 24, 40)


class EmbeddedCrops:
    """Pairs of `size x size` crops with random camera shake; item `i` is a function of `seed` and `i` alone.

    The paths' extents, pixels between their most distant positions, are drawn evenly from `extent`; with `straight`
    the camera moves evenly along a line of any direction, else along a smooth path with some roll. `leaves` is the
    share of crops of dead leaves instead of photographs, for training only. `noise` is the range of the standard
    deviation of white noise on the blurred image, in [0, 1]. Training crops are also shrunk (`SCALES`), softened
    (`SOFTNESS`), turned and mirrored, and mildly changed in exposure, colour and saturation, alike in both images;
    those of "validation" and "test" are cut as the photographs are. Images are rounded to 8 bits, as files hold them.

    Raises `ValueError` for an unknown split, ranges that are none, and crops that fit into no photograph; `IndexError`
    for items outside `length`.
    """

    def __init__(
        self,
        split: str,
        size: int,
        *,
        seed: int,
        extent: tuple[float | int, float | int] = (4.0, 40.0),
        straight: bool = False,
        leaves: float | int = 0.0,
        noise: tuple[float | int, float | int] = (0.0, 0.0),
        length: int = 1 << 40,
    ) -> None:
        names = photographs_of(split)
        for what, (low, high) in (("extent", extent), ("noise", noise)):
            if not 0 <= low <= high < float("inf"):
                raise ValueError(f"{what} is to lie between {low} and {high}; give two numbers, 0 <= low <= high")
        if seed < 0 or size < 1 or length < 1:
            raise ValueError(f"seed {seed}, size {size}, length {length}: give a seed of 0 or more and 1 pixel or more")
        if not 0 <= leaves <= 1 or (leaves and split != "train"):
            raise ValueError(f"a share of {leaves} dead leaves in {split}: give 0 to 1 for train, and 0 for the others")
        self.split, self.size, self.seed, self.length = split, size, seed, length
        self.extent, self.straight, self.leaves, self.noise = extent, straight, leaves, noise
        around = ceil((1 + ROLL) * extent[1]) + 1  # a path strays from its mean by less than its extent, and by roll
        self.leaves_side = size + 2 * around + 64
        scales = SCALES if split == "train" else (1.0,)
        fitting = {name: scales_that_hold(size + 2 * around, name, scales) for name in names}
        self.sources = {name: kept for name, kept in fitting.items() if kept}
        if not self.sources:
            raise ValueError(
                f"no photograph of the {split} split holds a crop of {size} px and the {around} px around it that "
                f"paths of {extent[1]:g} px may show; ask for smaller ones"
            )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < self.length:
            raise IndexError(f"item {i} was asked of {self.length}")
        rng = np.random.default_rng([self.seed, i])
        light, name = self._source(rng)
        h, w = light.shape[:2]
        extent = rng.uniform(*self.extent)
        path = (
            _straight(rng, extent)
            if self.straight
            else random_path(rng, extent, roll=rng.uniform(0, ROLL), reach=np.hypot(h, w) / 2)
        )
        top, left = self._position(rng, light, ceil(path.reach(h / 2, w / 2)) + 1)
        cut = light[top : top + self.size, left : left + self.size]
        both = np.stack([average(light, path, top, left, self.size, self.size), cut])
        if self.split == "train":
            both = recoloured(both, rng)
        stored = np.clip(both, 0, 1) ** np.float32(1 / GAMMA)
        stored[0] += rng.uniform(*self.noise) * rng.standard_normal(stored[0].shape, np.float32)
        blurred, sharp = as_files_hold(stored)
        if self.split == "train":
            turn = GROUP[rng.integers(len(GROUP))]
            blurred, sharp = turn(blurred).contiguous(), turn(sharp).contiguous()
        return Pair(blurred, sharp, f"{name}-{extent:.1f}px-{i}")

    def _source(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Light to cut the crop from, and its name."""
        if rng.random() < self.leaves:
            return leaves_light(self.seed, int(rng.integers(LEAF_PICTURES)), self.leaves_side), "leaves"
        names = list(self.sources)
        weights = np.array([COLOUR_SHARE if name in PHOTOGRAPHS else 1 for name in names], float)
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        scales = self.sources[name]
        if self.split != "train":
            return photograph_light(name, scales[rng.integers(len(scales))]), name
        softness = SOFTNESS[rng.integers(len(SOFTNESS))]
        return photograph_light(name, scales[rng.integers(len(scales))], softness), name

    def _position(self, rng: np.random.Generator, light: np.ndarray, around: int) -> tuple[int, int]:
        """Of the crop: in training the one of two that shows more, since an empty sky teaches nothing."""
        spare = [n - self.size - 2 * around for n in light.shape[:2]]
        places = [
            (around + int(rng.integers(spare[0] + 1)), around + int(rng.integers(spare[1] + 1)))
            for _ in range(2 if self.split == "train" else 1)
        ]
        return max(places, key=lambda at: _detail(light[at[0] : at[0] + self.size, at[1] : at[1] + self.size]))


class EmbeddedTest:
    """The fixed test set: each held-out photograph along paths of stated extents; see `embedded_test`."""

    def __init__(self, split: str, extents: Sequence[float | int], paths: int, straight: bool) -> None:
        if paths < 1 or not extents or not all(0 <= extent < float("inf") for extent in extents):
            raise ValueError(f"{paths} paths of extents {list(extents)} make no test; give one path and extent or more")
        self.straight = straight
        self.items = [(name, extent, k) for name in photographs_of(split) for extent in extents for k in range(paths)]
        self.around = {
            name: max(self._reach(item) for item in self.items if item[0] == name) for name, *_ in self.items
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} was asked of {len(self)}")
        name, extent, k = self.items[i]
        light, path = self._scene(self.items[i])
        m = self.around[name]
        h, w = light.shape[0] - 2 * m, light.shape[1] - 2 * m
        stored = average(light, path, m, m, h, w) ** np.float32(1 / GAMMA)
        (blurred,) = as_files_hold(stored[None])
        form = "straight-" if self.straight else ""
        return Pair(blurred, photograph(name)[:, m : m + h, m : m + w].clone(), f"{name}-{form}{extent:g}px-{k}")

    def path(self, i: int) -> CameraPath:
        """The exact path of item `i`, about the middle of the photograph, which is the middle of the item."""
        return self._scene(self.items[i])[1]

    def _scene(self, item: tuple[str, float | int, int]) -> tuple[np.ndarray, CameraPath]:
        name, extent, k = item
        light, rng = photograph_light(name, 1.0), np.random.default_rng([*name.encode(), k])
        if self.straight:
            return light, _straight(rng, extent)
        return light, random_path(rng, extent, roll=ROLL / 2, reach=np.hypot(*light.shape[:2]) / 2)

    def _reach(self, item: tuple[str, float | int, int]) -> int:
        light, path = self._scene(item)
        reach = ceil(path.reach(light.shape[0] / 2, light.shape[1] / 2)) + 1
        if 2 * reach >= min(light.shape[:2]):
            raise ValueError(f"a path of {item[1]:g} px leaves nothing of {item[0]}; ask for a smaller extent")
        return reach


def embedded_test(
    *, split: str = "test", extents: Sequence[float | int] = TEST_EXTENTS, paths: int = 1, straight: bool = False
) -> EmbeddedTest:
    """The held-out photographs, each blurred along `paths` fixed paths per extent; nothing is random.

    The extent, in pixels, is the distance of a path's two most distant positions; path k of a photograph has the same
    form at every extent; `straight` ones are even motions along a line. The images of a photograph lose the same
    margin, which its longest path needs so that no reflected border is seen. Sharp images are the files' own pixels.
    """
    return EmbeddedTest(split, extents, paths, straight)


def _straight(rng: np.random.Generator, extent: float | int) -> CameraPath:
    return straight_path(extent, rng.uniform(0, 180))


def _detail(light: np.ndarray) -> float:
    """Mean step between neighbours, of stored values: what there is to be blurred."""
    grey = light[..., 1] ** np.float32(1 / GAMMA)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
