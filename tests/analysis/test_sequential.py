"""Means that are sampled until they are known: their promises, kept and, without the correction, broken."""

import numpy as np
import pytest
from scipy.stats import binom, t

from analysis.sequential import LOOKS, sampled_means


def normal(true, spread=1.0):
    generator = np.random.default_rng()
    return lambda which: true[which] + spread * generator.standard_normal(len(which))


def test_few_true_zeros_are_called_something_else():
    n = 4000
    means = sampled_means(normal(np.zeros(n)), n)
    wrong = sum(word in ("positive", "negative") for word in means.words())
    assert wrong <= binom.ppf(1 - 1e-9, n, 0.05)
    missed = ((means.low > 0) | (means.high < 0)).mean()
    assert missed == wrong / n


def test_without_sharing_the_level_out_they_would_be_too_many():
    """What the correction is for: single intervals of the same level, looked at three times."""
    n = 4000
    x = normal(np.zeros(n))(np.arange(n).repeat(LOOKS[-1])).reshape(n, -1)
    wrong = np.zeros(n, dtype=bool)
    for now in LOOKS:
        reach = t.ppf(0.975, now - 1) * x[:, :now].std(axis=1, ddof=1) / now**0.5
        wrong |= abs(x[:, :now].mean(axis=1)) > reach
    assert wrong.sum() > binom.ppf(1 - 1e-9, n, 0.05)


def test_intervals_hold_the_truth_whenever_sampling_stopped():
    n = 3000
    true = np.random.default_rng().normal(size=n)
    means = sampled_means(normal(true), n, looks=(3, 6, 12, 24), level=0.9, least=0.1)
    assert len(set(means.trials.tolist())) > 1
    held = int(((means.low <= true) & (true <= means.high)).sum())
    assert held >= binom.ppf(1e-9, n, 0.9)


def test_sampling_stops_as_soon_as_the_word_is_clear():
    asked = np.zeros(4, dtype=int)
    spread = np.array([0.0, 0.0, 0.0, 1.0])
    true = np.array([2.0, -2.0, 0.005, 0.0])
    seen = []

    def draw(which):
        np.add.at(asked, which, 1)
        sign = np.where(np.arange(len(which)) % 2, 1, -1)  # as many of one as of the other: a mean of zero
        return true[which] + spread[which] * sign

    means = sampled_means(draw, 4, looks=(4, 8), least=0.01, progress=lambda *now: seen.append(now))
    assert means.words() == ["positive", "negative", "neutral", "open"]
    assert means.trials.tolist() == asked.tolist() == [4, 4, 4, 8]
    assert means.mean == pytest.approx(true)
    assert seen == [(28, 32), (32, 32)]


def test_the_interval_is_students():
    values = np.random.default_rng().standard_normal(8)
    means = sampled_means(lambda which: values, 1, looks=(8,), level=0.8)
    half = t.ppf(0.9, 7) * values.std(ddof=1) / 8**0.5
    assert (means.low[0], means.high[0]) == pytest.approx((values.mean() - half, values.mean() + half))


def test_what_makes_no_interval_is_refused():
    for looks in ((), (1, 4), (4, 4), (8, 4)):
        with pytest.raises(ValueError, match="rising numbers"):
            sampled_means(normal(np.zeros(1)), 1, looks=looks)
    with pytest.raises(ValueError, match="level"):
        sampled_means(normal(np.zeros(1)), 1, level=95)
