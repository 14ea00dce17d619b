"""How networks are trained: every number that a run depends on, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from evssm.loss import Scaling


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training run; the defaults are those of the released options (`options/train/GoPro.yml`).

    `steps` are optimiser steps, each on `batch` crops of `crop x crop` pixels, taken in `accumulate` parts of equal
    size. The learning rate rises over `warmup` steps and falls along a cosine to `last_rate`. Gradients are cut to a
    norm of `clip`. `average` is the decay of the running mean of the weights that is validated and kept (0: none). With
    `start_as_identity` the last convolution starts at zero, so that the fresh network returns its input. Raises
    `ValueError` for settings that cannot be met.
    """

    steps: int = 300_000
    batch: int = 64
    crop: int = 128
    accumulate: int = 1
    rate: float = 1e-3
    last_rate: float = 1e-7
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.9)
    weight_decay: float = 1e-3
    clip: float = 0.01
    frequency_weight: float = 0.1
    scaling: Scaling = "backward"
    average: float = 0.0
    start_as_identity: bool = False
    validate_every: int = 10_000
    checkpoint_every: int = 2_000

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.accumulate, self.validate_every, self.checkpoint_every) < 1:
            raise ValueError("steps, batch, accumulate, validate_every and checkpoint_every are 1 or more")
        if self.batch % self.accumulate:
            raise ValueError(f"a batch of {self.batch} does not divide into {self.accumulate} equal parts")
        if self.crop < 16:
            raise ValueError(f"crops of {self.crop} pixels are too small; every network takes 16 or more")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is the decay of a running mean, 0 to below 1; not {self.average}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `as_dict`; `ValueError` for unknown settings and for values of another kind."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        if unknown := sorted(set(values) - set(kinds)):
            raise ValueError(f"a recipe has no {', '.join(map(repr, unknown))}")
        given = {name: _as_kind(value, kinds[name]) for name, value in values.items()}
        if wrong := [f"{name}={values[name]!r}" for name, value in given.items() if value is None]:
            raise ValueError(f"a recipe cannot have {', '.join(wrong)}; `evssm.training.recipes` has the kinds")
        return cls(**given)


def _as_kind(value: Any, kind: type) -> Any:
    """A value from JSON as a setting whose default is of that kind, `None` where it cannot be one."""
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if kind is tuple:
        parts = [_as_kind(part, float) for part in value] if isinstance(value, (list, tuple)) else []
        return tuple(parts) if len(parts) == 2 and None not in parts else None
    if kind is str:
        return value if value in get_args(Scaling) else None
    return value if type(value) is kind else None


RECIPES: dict[str, TrainConfig] = {
    # Kong et al. 2025: first stage, 128 pixels, 64 crops a step; the second has 256 pixels and 16 crops a step. The
    # released options cover the first; the second's sizes come from readers' notes of the paper, its rates are the
    # first's.
    "paper": TrainConfig(),
    "paper-second-stage": TrainConfig(crop=256, batch=16),
    "compact": TrainConfig(
        steps=800,
        batch=8,
        crop=64,
        rate=1e-3,
        last_rate=1e-6,
        warmup=50,
        betas=(0.9, 0.99),
        clip=1.0,
        average=0.995,
        start_as_identity=True,
        validate_every=400,
        checkpoint_every=100,
    ),
    "smoke": TrainConfig(
        steps=6,
        batch=2,
        crop=32,
        warmup=2,
        betas=(0.9, 0.99),
        clip=1.0,
        average=0.9,
        start_as_identity=True,
        validate_every=3,
        checkpoint_every=2,
    ),
}
"""Name -> settings; "compact" is what the bundled networks were trained with, "smoke" only shows that all works."""
