"""The value that an attribution returns: a map of an input's contributions, and numbers that say what it is worth."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis import field_statistics
from analysis.archive import protect, read_archive, write_archive
from analysis.regions import Box

FLOOR = 1e-7
"""What Gu & Dong's code adds to a map, relative to its maximum, before the Gini coefficient."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """What each input pixel contributed to one number of a region of the output (`RegionScalar`); read-only.

    `per_channel` has the contributions of every input channel, in units of that number, with their signs. `value` is
    the number for the image, `change` what it is above that of the baseline, which the contributions should add up to.
    `provenance` says how all this was made.
    """

    per_channel: Float[np.ndarray, "c h w"]
    method: str
    box: Box
    value: float
    change: float
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        protect(self, "per_channel")

    def __repr__(self) -> str:
        _, h, w = self.per_channel.shape
        return (
            f"Attribution({self.method}, {h} x {w} px, region {self.box}, DI {self.diffusion_index:.3g}, "
            f"completeness gap {self.completeness_gap:.2g})"
        )

    @cached_property
    def map(self) -> Float[np.ndarray, "h w"]:
        """The sum over input channels, sign kept."""
        total = self.per_channel.sum(axis=0)
        total.flags.writeable = False
        return total

    @property
    def completeness_gap(self) -> float:
        """abs(sum of the map - `change`) / abs(`change`): what the method leaves unexplained.

        It tends to 0 with the steps for integrals along a path (Sundararajan et al. 2017, Prop. 1); for the other
        methods it is 0 where the network is linear. Infinite where the number does not change at all.
        """
        gap = abs(float(self.map.sum()) - self.change)
        if self.change:
            return gap / abs(self.change)
        return inf if gap else 0.0

    @property
    def diffusion_index(self) -> float:
        """100 (1 - Gini coefficient of the absolute map): 100 for an even map (Gu & Dong 2021).

        It depends on the size of the map: zeros around it, to m times the area, divide it by m. Compare equal sizes.
        """
        return diffusion_index(self.map)

    def effective_pixels(self) -> float:
        """1 / sum of the squared shares: how many pixels the contributions would cover evenly, whatever the size of the
        map."""
        return field_statistics.effective_pixels(self.map)

    def share_in_region(self) -> float:
        """Share of the absolute contributions that come from the region itself; 0 for a map of zeros."""
        top, left, height, width = self.box
        size = np.abs(self.map)
        whole = float(size.sum())
        return float(size[top : top + height, left : left + width].sum()) / whole if whole else 0.0

    @property
    def untrained(self) -> bool:
        """Whether the network is known to have untrained weights; a picture must say so."""
        return self.provenance.get("trained") is False

    def numbers(self) -> dict[str, float | None]:
        """The statistics by name, `None` where one is infinite."""
        gap = self.completeness_gap
        some = bool(np.any(self.map))
        return {
            "value": self.value,
            "change": self.change,
            "sum": float(self.map.sum()),
            "completeness_gap": None if gap == inf else gap,
            "diffusion_index": self.diffusion_index,
            "effective_pixels": self.effective_pixels() if some else None,
            "share_in_region": self.share_in_region(),
        }


def diffusion_index(field: Float[np.ndarray, "h w"]) -> float:
    """100 (1 - G) of the absolute values over their maximum, to which `FLOOR` is added, G being `gini`; 100 for a map
    of zeros, which is even.

    Source: Gu & Dong (2021, Eq. 8) and their code.
    """
    size = np.abs(field)
    peak = float(size.max())
    return 100 * (1 - gini(size / (peak or 1) + FLOOR))


def gini(values: Float[np.ndarray, "..."]) -> float:
    """The Gini coefficient of positive values x: the sum of abs(x[i] - x[j]) over all pairs / (2 n sum of x)."""
    ordered = np.sort(values, axis=None)
    n = len(ordered)
    rank = 2 * np.arange(1, n + 1) - n - 1
    return float(rank @ ordered / (n * ordered.sum()))


def save_attributions(path: str | Path, found: Mapping[str, Attribution]) -> Path:
    """Write attributions by name to `path`, an npz without pickles; whole or not at all."""
    arrays: dict[str, Any] = {name: one.per_channel for name, one in found.items()}
    facts = {
        name: {
            "method": one.method,
            "box": one.box,
            "value": one.value,
            "change": one.change,
            "provenance": one.provenance,
        }
        for name, one in found.items()
    }
    return write_archive(path, "attributions", facts, arrays)


def load_attributions(path: str | Path) -> dict[str, Attribution]:
    """The attributions that `save_attributions` wrote.

    `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content.
    """
    with read_archive(path, "attributions", "save_attributions") as entries:
        facts = json.loads(str(entries["attributions"]))
        return {name: Attribution(entries[name], **{**fact, "box": tuple(fact["box"])}) for name, fact in facts.items()}
