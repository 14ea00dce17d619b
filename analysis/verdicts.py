"""Whether a claim about two networks shows in their fields: a difference, its interval, and a plain word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from analysis.field import ERF, in_any_order, statistic_of
from evssm.bootstrap import percentile_interval

Number = float | int


@dataclass(frozen=True)
class Verdict:
    """A claim about a statistic of two networks, the first's value less the second's, and what the interval says.

    `expected` is "larger" or "equal"; "equal" means that the difference lies within `margin` of zero. `word` is
    "shown" where the whole interval agrees with the claim, "contradicted" where all of it disagrees, and "not shown"
    where it does neither.
    """

    claim: str
    statistic: str
    expected: str
    difference: float
    low: float
    high: float
    margin: float = 0.0

    @property
    def word(self) -> str:
        if self.expected == "larger":
            return "shown" if self.low > 0 else "contradicted" if self.high <= 0 else "not shown"
        inside = -self.margin <= self.low and self.high <= self.margin
        outside = self.low > self.margin or self.high < -self.margin
        return "shown" if inside else "contradicted" if outside else "not shown"

    def __str__(self) -> str:
        within = f" within {self.margin:.3g}" if self.expected == "equal" else ""
        return (
            f"{self.claim}{within}: {self.word} ({self.statistic}, difference {self.difference:+.3g}, "
            f"95 % interval {self.low:+.3g} to {self.high:+.3g})"
        )


def compare(
    claim: str,
    ours: Sequence[ERF],
    theirs: Sequence[ERF],
    statistic: str | Callable[[ERF], Any],
    *,
    expected: str = "larger",
    margin: Number = 0.0,
    label: str | None = None,
    n: int = 1000,
    seed: int = 0,
    **arguments: Any,
) -> Verdict:
    """The verdict on `claim` from the fields of two networks, one per seed, all of the same images.

    The interval is a percentile bootstrap that draws images, the same for both networks, and within each network its
    seeds: with a single seed it says nothing about how training varies. `statistic` is as in `ERF.interval`. Raises
    `ValueError` for fields of different images.
    """
    if expected not in ("larger", "equal"):
        raise ValueError(f"a claim expects 'larger' or 'equal', not {expected!r}")
    ERF.pooled([*ours, *theirs])  # refuses fields that cannot be compared
    measure, generator = statistic_of(statistic, arguments), np.random.default_rng(seed)

    def of_seeds(fields: Sequence[ERF]) -> Callable[[Any], float]:
        @cache
        def pooled(drawn: tuple[int, ...]) -> Callable[[Any], float]:
            field = ERF.pooled([fields[k] for k in drawn])
            return in_any_order(lambda images: measure(field.subset(images)))

        return lambda images: pooled(tuple(sorted(generator.integers(0, len(fields), len(fields)).tolist())))(images)

    first, second = of_seeds(ours), of_seeds(theirs)
    low, high = percentile_interval(lambda images: first(images) - second(images), len(ours[0].mass), n=n, seed=seed)
    difference = measure(ERF.pooled(ours)) - measure(ERF.pooled(theirs))
    return Verdict(claim, label or str(statistic), expected, float(difference), low, high, float(margin))
