"""How many images a statistic of a receptive field needs before another set of as many would say the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.field import ERF, statistic_of
from analysis.field_statistics import Number

TOLERANCE = 0.1
"""Half the width of an interval, relative to the value, at which a statistic has settled."""


@dataclass(frozen=True, eq=False, repr=False)
class Convergence:
    """A statistic of fields pooled over so many images; `str` says whether it has settled.

    For each of `counts`, `middle` is the median, `low` and `high` the 95 % interval over sets of so many images drawn
    from those at hand. `value` is that of the whole field, in `unit`s.
    """

    statistic: str
    unit: str
    value: float
    counts: Int[np.ndarray, " k"]
    middle: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    tolerance: float = TOLERANCE

    @property
    def spread(self) -> Float[np.ndarray, " k"]:
        """Half the width of the interval, relative to the value of the whole field."""
        return (self.high - self.low) / 2 / abs(self.value)

    @property
    def settled(self) -> int | None:
        """The number of images from which on the spread stays within the tolerance; `None` if not by the last."""
        wide = np.flatnonzero(self.spread > self.tolerance)
        if not len(wide):
            return int(self.counts[0])
        return int(self.counts[wide[-1] + 1]) if wide[-1] + 1 < len(self.counts) else None

    @property
    def needed(self) -> int:
        """About how many images would do, by the law that a spread falls with the root of their number."""
        return self.settled or ceil(self.counts[-1] * (self.spread[-1] / self.tolerance) ** 2)

    def __str__(self) -> str:
        last = f"{self.statistic} {self.value:.3g} {self.unit}".rstrip() + f" [{self.low[-1]:.3g}, {self.high[-1]:.3g}]"
        if self.settled:
            return f"settled with {self.settled} of {self.counts[-1]} images: {last}"
        return f"not settled with {self.counts[-1]} images: {last}, about {self.needed} would do"

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON values."""
        curve = {name: getattr(self, name).tolist() for name in ("counts", "middle", "low", "high")}
        return {
            "says": str(self),
            "statistic": self.statistic,
            "value": self.value,
            "settled": self.settled,
            "needed": self.needed,
            "tolerance": self.tolerance,
            **curve,
        }


def convergence(
    field: ERF,
    statistic: str | Callable[[ERF], Any] = "radius",
    *,
    label: str | None = None,
    unit: str = "px",
    counts: Sequence[int] | None = None,
    tolerance: Number = TOLERANCE,
    n: int = 400,
    seed: int = 0,
    **arguments: Any,
) -> Convergence:
    """How a statistic moves as more images are pooled: its interval for each number of them in `counts`.

    `statistic` and `arguments` are as in `ERF.interval`; R_90 by default. For a number k, k images are drawn with
    replacement, `n` times: what another k images of the same kind might have given. `counts` are by default the
    numbers up to all of them, eight at most. Raises `ValueError` for a single image, and for a statistic that is zero
    or not finite for the whole field, to which no spread is relative.
    """
    images = len(field.mass)
    if images < 2:
        raise ValueError("how a number settles shows with two images or more; this field has one")
    if statistic == "radius" and not arguments:
        arguments, label = {"share": 0.9}, label or "R90"
    measure, generator = statistic_of(statistic, arguments), np.random.default_rng(seed)
    value = float(measure(field))
    if not np.isfinite(value) or value == 0:
        raise ValueError(f"the statistic of the whole field is {value}, to which no spread is relative; take another")
    if counts is None:
        counts = np.unique(np.round(np.geomspace(1, images, min(images, 8))).astype(int)).tolist()
    if min(counts) < 1 or list(counts) != sorted(set(counts)):
        raise ValueError(f"numbers of images rise from 1 or more, got {list(counts)}")
    rows = []
    for k in counts:
        values = [float(measure(field.subset(generator.integers(0, images, k)))) for _ in range(n)]
        rows.append(np.quantile(values, [0.5, 0.025, 0.975]))
    middle, low, high = np.array(rows).T
    return Convergence(
        label or str(statistic), unit, value, np.array(counts, dtype=np.int64), middle, low, high, float(tolerance)
    )
