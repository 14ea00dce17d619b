"""Photographs and dead leaves as linear light, kept in memory, and what may be done to light without harming blur."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from evssm.data.dead_leaves import dead_leaves
from evssm.data.kernels import GAMMA
from evssm.photographs import photograph, photographs_of

LEAF_PICTURES = 16
"""Pictures of dead leaves that a seed has: each takes a third of a second to make, and many crops are cut from it."""


def scales_that_hold(least: int, name: str, scales: Sequence[float]) -> list[float]:
    """Those of `scales` at which the photograph still has `least` pixels either way."""
    h, w = photograph_light(name, 1.0).shape[:2]
    return [scale for scale in scales if min(round(h * scale), round(w * scale)) >= least]


@lru_cache(maxsize=128)
def photograph_light(name: str, scale: float, softness: float = 0.0) -> np.ndarray:
    """The photograph in linear light, `h w 3` float32, shrunk by area averaging; kept, and not to be written to.

    `softness` is the standard deviation, in pixels, of a Gaussian that it is averaged with afterwards.
    """
    import cv2

    light: np.ndarray = photograph(name).permute(1, 2, 0).numpy() ** np.float32(GAMMA)
    if scale < 1:
        size = (round(light.shape[1] * scale), round(light.shape[0] * scale))
        light = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    if softness:
        light = cv2.GaussianBlur(light, (0, 0), softness)
    light = np.ascontiguousarray(light)
    light.setflags(write=False)
    return light


@lru_cache(maxsize=4 * LEAF_PICTURES)
def leaves_light(seed: int, k: int, side: int) -> np.ndarray:
    """Picture `k` of dead leaves of a seed in linear light, `side side 3` float32, in the training photographs'
    colours; kept, and not to be written to."""
    rng = np.random.default_rng([seed, k, side])
    names = photographs_of("train")
    palette = photograph(names[rng.integers(len(names))]).flatten(1).T.contiguous()
    light = dead_leaves(rng, side, side, palette=palette).permute(1, 2, 0).numpy() ** np.float32(GAMMA)
    light = np.ascontiguousarray(light)
    light.setflags(write=False)
    return light


def recoloured(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear light of `... 3` with another exposure, white balance and saturation; what commutes with blur."""
    grey = light.mean(-1, keepdims=True)
    light = grey + np.float32(rng.uniform(0.6, 1.3)) * (light - grey)
    gains = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.12, 3))
    return light * gains.astype(np.float32)


def as_files_hold(images: np.ndarray) -> list[Tensor]:
    """Images `n h w 3` as `3 h w` tensors in [0, 1], rounded to 8 bits."""
    levels = np.rint(np.clip(images, 0, 1) * np.float32(255)) / np.float32(255)
    return [x.contiguous() for x in torch.from_numpy(levels).permute(0, 3, 1, 2)]
