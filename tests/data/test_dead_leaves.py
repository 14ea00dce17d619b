"""Dead leaves: covered, layered, and with a spectrum like that of photographs."""

import numpy as np
import pytest
import torch

from evssm.data.dead_leaves import dead_leaves, leaf_map

RNG = np.random.default_rng()


def spectral_slope(x):
    """Exponent of the power spectrum over the frequency, from 4 periods to 0.35 cycles per pixel."""
    n = x.shape[-1]
    window = np.hanning(n)
    grey = x.mean(0).double().numpy()
    power = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(window, window))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n)))
    edges = np.geomspace(4 / n, 0.35, 10)
    band = np.digitize(frequency, edges)
    means = [power[band == k].mean() for k in range(1, 10)]
    return np.polyfit(np.log(edges[1:] * edges[:-1]) / 2, np.log(means), 1)[0]


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.998])
def test_leaves_cover_what_was_asked(coverage):
    index, centres = leaf_map(RNG, 60, 90, smallest=4, coverage=coverage)
    assert (index > 0).mean() >= coverage
    assert index.max() == len(centres) - 1
    assert set(np.unique(index)) >= set(range(1, len(centres)))  # every leaf that was kept is seen


def test_the_smallest_leaves_are_the_most_frequent():
    index, _ = leaf_map(RNG, 300, 300, smallest=3)
    areas = np.bincount(index.ravel())[1:]
    assert (areas < np.pi * 36).mean() > 0.5
    assert areas.max() > 1000


def test_the_spectrum_falls_as_that_of_photographs():
    slopes = [spectral_slope(dead_leaves(RNG, 160, 160)) for _ in range(3)]
    assert -2.9 < np.mean(slopes) < -1.6  # five photographs measured here lie between -3.3 and -2.3; noise has 0
    assert abs(spectral_slope(torch.rand(3, 160, 160))) < 0.5


def test_colours_come_from_the_palette():
    red = torch.tensor([[0.8, 0.0, 0.0]])
    x = dead_leaves(RNG, 40, 50, palette=red)
    assert x.shape == (3, 40, 50)
    assert x[1:].max() == 0
    assert x[0].mean() > 0.4


def test_the_same_generator_gives_the_same_picture():
    seed = int(RNG.integers(1 << 30))
    one, two = (dead_leaves(np.random.default_rng(seed), 40, 40) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= one.min() <= one.max() <= 1


def test_full_coverage_and_dust_are_refused():
    with pytest.raises(ValueError, match=r"radius 0\.5"):
        leaf_map(RNG, 20, 20, smallest=0.5)
    with pytest.raises(ValueError, match="coverage of 1"):
        leaf_map(RNG, 20, 20, smallest=2, coverage=1.0)
