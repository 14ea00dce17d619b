"""Intervals hold the truth as often as they say, and differ where samples differ."""

from statistics import NormalDist

import numpy as np
import pytest

from analysis import field
from analysis.field import ERF
from evssm.bootstrap import percentile_interval


def erf_of(fields, images=None):
    fields = np.asarray(fields, dtype=np.float64)
    mass = np.abs(fields).sum(axis=(1, 2))
    provenance = {} if images is None else {"images": images}
    return ERF(fields / mass[:, None, None], mass, np.ones(fields.shape[1:]), provenance)


def gaussians(sigmas, size=25):
    y, x = np.mgrid[-(size // 2) : size - size // 2, -(size // 2) : size - size // 2]
    return [np.exp(-(x**2 + y**2) / (2 * sigma**2)) for sigma in sigmas]


def coverage(level, runs=500, samples=40, resamples=150):
    """The share of intervals for the mean of exponential numbers (truth 1) that hold it."""
    generator, held = np.random.default_rng(), 0
    for run in range(runs):
        values = generator.exponential(size=samples)
        low, high = percentile_interval(lambda i, v=values: v[i].mean(), samples, level=level, n=resamples, seed=run)
        held += low <= 1 <= high
    return held / runs


def test_intervals_hold_the_truth_as_often_as_they_say():
    # Bounds are four standard errors of 500 runs around what forty samples give: 91.5 % and 46.7 % (4,000 runs).
    assert 0.86 < coverage(0.95) < 0.97
    assert 0.37 < coverage(0.5) < 0.56


def test_the_interval_of_a_spread_holds_the_sigma_of_the_population():
    generator, held, runs = np.random.default_rng(), 0, 60
    truth = np.sqrt((np.linspace(2, 4, 10_001) ** 2).mean())  # variances of concentric Gaussians average
    for run in range(runs):
        erf = erf_of(gaussians(generator.uniform(2, 4, 40)))
        low, high = erf.interval(lambda e: e.spread().sigma_x, n=60, seed=run)
        held += low <= truth <= high
    assert held / runs > 0.78  # 92 %, less four standard errors


def coverage_of_gaussian_fields(level, runs=40, samples=150, resamples=300):
    """How often intervals hold the known variance of a population of Gaussian fields.

    The variance of their mean is the mean of theirs, here normal, and so independent of how they scatter around it
    (Basu 1955): each interval's two arms alone say how often it would hold the truth, which takes few runs.
    """
    x, generator, error = np.arange(-24, 25), np.random.default_rng(), 1 / np.sqrt(samples)
    below = NormalDist().cdf
    rates = []
    for run in range(runs):
        variances = generator.normal(9, 1, samples)
        erf = erf_of(np.exp(-(x**2) / (2 * variances[:, None, None])))
        mean = erf.spread().sigma_x ** 2
        assert mean == pytest.approx(variances.mean())
        low, high = erf.interval(lambda e: e.spread().sigma_x ** 2, level, n=resamples, seed=run)
        rates.append(below((high - mean) / error) - below((low - mean) / error))
    return float(np.mean(rates))


def test_intervals_of_gaussian_fields_hold_their_known_sigma_95_times_in_100():
    assert coverage_of_gaussian_fields(0.95) == pytest.approx(0.95, abs=0.02)
    assert coverage_of_gaussian_fields(0.9) < 0.93  # another level would be noticed


def test_the_same_seed_gives_the_same_interval_and_wider_levels_wider_ones():
    erf = erf_of(gaussians(np.random.default_rng().uniform(2, 5, 12)))
    measure = {"statistic": "effective_pixels", "n": 200}
    assert erf.interval(**measure) == erf.interval(**measure)
    low, high = erf.interval(**measure, level=0.95)
    inner_low, inner_high = erf.interval(**measure, level=0.5)
    assert low < inner_low < inner_high < high


def test_arguments_reach_a_statistic_given_by_name():
    erf = erf_of(gaussians(np.random.default_rng().uniform(2, 5, 6)))
    by_name = erf.interval("radius", share=0.8, norm="chebyshev", n=50)
    assert by_name == erf.interval(lambda e: e.radius(0.8, "chebyshev"), n=50)


def test_a_paired_difference_is_sharper_than_its_parts():
    sigmas = np.random.default_rng().uniform(2, 5, 20)
    small, large = erf_of(gaussians(sigmas), ["a"]), erf_of(gaussians(1.05 * sigmas), ["a"])
    low, high = large.difference_interval(small, "effective_pixels", n=200)
    assert 0 < low < high
    alone = small.interval("effective_pixels", n=200)
    assert high - low < 0.5 * (alone[1] - alone[0])
    with pytest.raises(ValueError, match="same images"):
        large.difference_interval(erf_of(gaussians(sigmas), ["b"]), "effective_pixels")
    with pytest.raises(ValueError, match="same images"):
        large.difference_interval(erf_of(gaussians(sigmas[:7]), ["a"]), "effective_pixels")


def test_unless_said_intervals_are_of_95_in_100_over_a_thousand_resamples_from_seed_0(monkeypatch):
    asked = []

    def watched(measure, samples, **settings):
        asked.append(settings)
        return 0.0, 1.0

    monkeypatch.setattr(field, "percentile_interval", watched)
    erf = erf_of(gaussians([3, 4]))
    erf.interval("perplexity")
    erf.difference_interval(erf, "perplexity")
    assert asked == [{"level": 0.95, "n": 1000, "seed": 0}] * 2


def test_a_single_image_has_no_interval():
    with pytest.raises(ValueError, match="two images or more"):
        erf_of(gaussians([3])).interval("radius", share=0.5)


@pytest.mark.parametrize(
    ("statistic", "arguments", "message"),
    [
        ("spread", {}, "choose from radius"),
        ("asymmetry", {}, "erf.asymmetry"),
        ("nonsense", {}, "choose from radius"),
        (lambda e: e.asymmetry(), {}, "one number"),
        (lambda e: float("nan"), {}, "nan for some resample"),
        (lambda e: 1.0, {"share": 0.5}, "share"),
    ],
)
def test_statistics_without_an_interval_are_refused(statistic, arguments, message):
    with pytest.raises(ValueError, match=message):
        erf_of(gaussians([3, 4])).interval(statistic, **arguments)


def test_levels_and_counts_are_checked():
    for arguments in ({"level": 0}, {"level": 95}, {"n": 0}):
        with pytest.raises(ValueError, match="level"):
            percentile_interval(lambda i: 1.0, 5, **arguments)
