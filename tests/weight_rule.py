"""Weights that follow from key names: the rule under which the golden outputs of the official networks were made."""

from collections.abc import Mapping
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def ruled_tensor(key: str, shape: tuple[int, ...], tag: str = "") -> Tensor:
    """The float32 weight that the rule gives to the official key `key`."""
    z = np.random.RandomState(crc32((key + tag).encode()) & 0x7FFFFFFF).standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    fan_in = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
    if last in ("A_logs", "A_log"):
        value = np.log(1.0 + np.arange(shape[-1])) + 0.05 * z
    elif last in ("Ds", "D"):
        value = 1 + 0.1 * z
    elif last in ("dt_projs_bias", "dt_bias") or key.endswith("dt_proj.bias"):
        value = -4 + 0.5 * z
    elif last in ("x_proj_weight", "dt_projs_weight"):
        value = z / np.sqrt(shape[-1])
    elif last in ("fft", "temperature"):
        value = 1 + 0.1 * z
    elif last in ("beta", "gamma"):
        value = 0.5 + 0.1 * z
    elif key.endswith("sca.1.bias"):
        value = 1 + 0.1 * z
    elif ".main.1.main.0.weight" in key:
        value = 0.25 * z / np.sqrt(fan_in)
    elif len(shape) > 1:
        value = z / np.sqrt(fan_in)
    elif last == "weight":
        value = 1 + 0.1 * z
    else:
        value = 0.1 * z
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def ruled_state(shapes: Mapping[str, tuple[int, ...]], tag: str = "") -> dict[str, Tensor]:
    """An official state dict filled by the rule."""
    return {key: ruled_tensor(key, tuple(shape), tag) for key, shape in shapes.items()}


def ruled_image(seed: int, *shape: int) -> Tensor:
    """The float32 input of a golden: uniform in [0, 1)."""
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype(np.float32))
