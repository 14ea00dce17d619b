"""Confidence intervals by drawing the images again (Efron 1979): the percentile bootstrap."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int


def percentile_interval(
    measure: Callable[[Int[np.ndarray, " n"]], Any],
    samples: int,
    *,
    level: float | int = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The bounds between which `measure` falls in a share `level` of `n` resamples.

    `measure` gets the indices of one resample, `samples` of them drawn with replacement from
    `range(samples)`, and returns a number. With few samples the interval is too narrow: for a mean of
    sixteen it holds the truth about 92 % of the time instead of 95 %.
    """
    if samples < 2:
        raise ValueError(f"an interval needs two images or more to draw from, got {samples}; pass more images")
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"an interval needs a level in (0, 1) and n >= 1 resamples, got level={level}, n={n}")
    generator = np.random.default_rng(seed)
    values = [_number(measure(generator.integers(0, samples, samples))) for _ in range(n)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _number(value: Any) -> float:
    if not isinstance(value, float | int | np.number):
        raise ValueError(
            f"an interval is for a statistic that is one number, not {type(value).__name__}; "
            "pick one, as in `lambda erf: erf.asymmetry().vertical`"
        )
    if not np.isfinite(value):
        raise ValueError(f"the statistic is {value} for some resample, so it has no interval")
    return float(value)
