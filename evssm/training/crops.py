"""Endless crops of paired images, addressed by number, so that a run can go on anywhere."""

import numpy as np

from evssm.data.pairs import Pair, Pairs
from evssm.geometry import D4


class RandomCrops:
    """Crop number i of the pairs: a random image, place and turn, which depend on `seed` and i and on nothing else.

    No image is ever resized. Raises `ValueError` for an image smaller than the crop, when it is met.
    """

    def __init__(self, pairs: Pairs, size: int, *, seed: int = 0) -> None:
        self.pairs, self.size, self.seed = pairs, size, seed

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> Pair:
        rng = np.random.default_rng([self.seed, index])
        pair = self.pairs[int(rng.integers(len(self.pairs)))]
        h, w = pair.sharp.shape[-2:]
        if min(h, w) < self.size:
            raise ValueError(f"{pair.name} has {h} x {w} pixels, less than crops of {self.size}; choose smaller crops")
        top, left = (int(rng.integers(side - self.size + 1)) for side in (h, w))
        turn = D4(*(bool(bit) for bit in rng.integers(2, size=3)))
        cut = (..., slice(top, top + self.size), slice(left, left + self.size))
        return Pair(turn(pair.blurred[cut]).contiguous(), turn(pair.sharp[cut]).contiguous(), pair.name)
