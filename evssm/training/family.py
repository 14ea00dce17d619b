"""The compact family: which networks are trained alike, so that what is compared differs in one thing only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TRANSFORMS = ("evssm", "evssm-no-geot", "evssm-no-transpose", "evssm-no-flip", "evssm-four-direction")
"""Figure 5 of the supplement: what the turns are worth."""

MAMBA2 = ("evssm2", "evssm2-no-geot")
"""Table 9."""

KERNELS = ("evssm-k3", "evssm-k5", "evssm-k7", "evssm-k9")
"""Table 11; the plain network has the released code's one-dimensional kernel of 7."""

BASELINES = ("nafnet", "mimo-unet-plus", "restormer", "fftformer", "stripformer")
"""Figure 4."""

OLDER = ("srn", "deblurgan")
"""Figures 11 and 12."""

DEFOCUS = ("dpdnet", "kpac", "ifan")
"""Table 13."""

DUAL_PIXEL = tuple(f"{name}-dual-pixel" for name in (*DEFOCUS, "restormer"))
"""What DEFOCUS becomes with a second view, and a recent network beside it."""

MODERN = ("evssm", "restormer")
"""Table 13 again: made for motion, trained on defocus as well."""


@dataclass(frozen=True)
class Member:
    """One training run of the family: a compact network, a seed, and what departs from the common recipe.

    `data` is a name in `evssm.training.run.BUILT_IN`.
    """

    network: str
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    data: str = "embedded"

    @property
    def name(self) -> str:
        """What its file is called: "evssm-compact", "evssm-compact-l1", "evssm-compact-seed1"."""
        return self.network + (f"-{self.label}" if self.label else "") + (f"-seed{self.seed}" if self.seed else "")


def _of(names: tuple[str, ...], seed: int, *, label: str = "", data: str = "embedded") -> tuple[Member, ...]:
    return tuple(Member(f"{name}-compact", seed, label=label, data=data) for name in names)


def label_of(network: str, data: str) -> str:
    """What tells a network trained on `data` from the same one trained on what it is meant for: "" or "defocus"."""
    meant = network.removesuffix("-compact") in (*DEFOCUS, *DUAL_PIXEL)
    return "defocus" if data == "defocus" and not meant else ""


FAMILY: tuple[Member, ...] = (
    *(member for seed in range(3) for member in _of(TRANSFORMS, seed)),
    *_of(BASELINES, 0),
    Member("evssm-compact", changes={"frequency_weight": 0.0}, label="l1"),
    *(member for seed in range(2) for member in _of(MAMBA2, seed)),
    *_of(KERNELS, 0),
    *_of(OLDER, 0),
    *_of((*DEFOCUS, *DUAL_PIXEL), 0, data="defocus"),
    *_of(MODERN, 0, data="defocus", label="defocus"),
)
"""In the order in which they are trained, so that a family cut short is still of use."""
