"""Means that are sampled until they are known well enough: intervals that may be looked at several times.

Whoever looks again and again, and stops when an interval happens to leave zero out, is wrong far more often than one
interval promises. So the level is shared out: each of k looks has the interval of level 1 - (1 - level) / k
(Bonferroni), by Student's t, and the chance that any of them misses the mean is at most 1 - level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LOOKS = (4, 8, 16)
"""Samples after which a mean is looked at."""


@dataclass(frozen=True, eq=False)
class Means:
    """Sampled means, the interval of each at its last look, and how many samples that took."""

    mean: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    trials: Int[np.ndarray, " n"]
    least: float | int

    def words(self) -> list[str]:
        """Of each mean "neutral", its interval within `least` of zero; "positive" or "negative", zero left out; or
        "open"."""
        return [_word(low, high, self.least) for low, high in zip(self.low, self.high, strict=True)]


def sampled_means(
    draw: Callable[[Int[np.ndarray, " m"]], Float[np.ndarray, " m"]],
    n: int,
    *,
    looks: Sequence[int] = LOOKS,
    level: float | int = 0.95,
    least: float | int = 0.0,
    progress: Callable[[int, int], object] | None = None,
) -> Means:
    """The means of n quantities: `draw` gives a fresh sample of each that it gets the number of, from 0 on.

    A quantity is left alone once its word is not "open", and after the last look. `progress` is called with (done,
    total), samples that were spared counting as done. Raises `ValueError` for looks that do not rise from two on, and
    for a level outside (0, 1).
    """
    from scipy.stats import t

    if not looks or looks[0] < 2 or list(looks) != sorted(set(looks)):
        raise ValueError(f"looks are rising numbers of samples, two or more, got {tuple(looks)}; try {LOOKS}")
    if not 0 < level < 1:
        raise ValueError(f"an interval needs a level in (0, 1), got {level}")
    samples = np.full((n, looks[-1]), np.nan)
    low, high, trials = np.full(n, -np.inf), np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    going = np.arange(n)
    for before, now in zip((0, *looks), looks, strict=False):
        samples[going, before:now] = draw(np.repeat(going, now - before)).reshape(len(going), now - before)
        of_these = samples[going, :now]
        reach = t.ppf(1 - (1 - level) / (2 * len(looks)), now - 1) * of_these.std(axis=1, ddof=1) / now**0.5
        low[going], high[going] = of_these.mean(axis=1) - reach, of_these.mean(axis=1) + reach
        trials[going] = now
        going = np.array([i for i in going if _word(low[i], high[i], least) == "open"], dtype=np.int64)
        if progress is not None:
            progress(n * looks[-1] - len(going) * (looks[-1] - now), n * looks[-1])
        if not len(going):
            break
    return Means(np.nanmean(samples, axis=1), low, high, trials, least)


def _word(low: float, high: float, least: float | int) -> str:
    if -least <= low and high <= least:
        return "neutral"
    return "positive" if low > 0 else "negative" if high < 0 else "open"
