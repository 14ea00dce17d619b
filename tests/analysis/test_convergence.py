"""How many images a number needs: a linear statistic whose law is known, fields that agree, and fields that do not."""

import numpy as np
import pytest

from analysis.field import ERF
from analysis.image_count import convergence

EDGE = 21


def fields(sigmas):
    """Gaussian fields, one per image."""
    y, x = np.mgrid[:EDGE, :EDGE] - EDGE // 2
    maps = np.stack([np.exp(-(x**2 + y**2) / (2 * s**2)) for s in sigmas])
    mass = maps.sum(axis=(1, 2))
    return ERF(maps / mass[:, None, None], mass, np.ones((EDGE, EDGE)), {})


def test_fields_that_agree_have_settled_with_the_first():
    found = convergence(fields([2.0] * 5))
    assert found.settled == 1
    np.testing.assert_array_equal(found.low, found.high)
    assert str(found) == f"settled with 1 of 5 images: R90 {found.value:.3g} px [{found.value:.3g}, {found.value:.3g}]"
    # R90 of a round Gaussian is sigma sqrt(2 ln 10), up to a pixel of the grid.
    assert found.value == pytest.approx(2 * np.sqrt(2 * np.log(10)), abs=0.5)


def test_a_share_of_the_mass_is_a_mean_so_its_interval_is_that_of_a_binomial():
    # Half of the images have all their mass beyond 5 px, half none: the share pooled over k of them is binomial / k.
    maps = np.zeros((10, EDGE, EDGE))
    maps[:5, EDGE // 2, EDGE // 2] = 1
    maps[5:, 0, 0] = 1
    found = convergence(
        ERF(maps, np.ones(10), np.ones((EDGE, EDGE)), {}),
        "share_beyond",
        distance=5,
        unit="",
        counts=[1, 16, 64],
        n=1000,
    )
    assert (found.low[0], found.high[0]) == (0, 1)
    for k, low, high in zip(found.counts, found.low, found.high, strict=True):
        if k >= 16:
            expected = 2 * 1.96 * np.sqrt(0.25 / k)
            assert high - low == pytest.approx(expected, abs=1.6 / k)
    assert found.settled is None
    # 1.96 sqrt(1/4 k) = 0.05 at k = 384
    assert found.needed == pytest.approx(384, rel=0.3)
    assert "not settled with 64 images: share_beyond 0.5 [" in str(found)


def test_fields_that_differ_much_need_more_images_than_fields_that_differ_little():
    wide, narrow = (
        convergence(fields(2 + s * np.random.default_rng(4).normal(size=12)), "perplexity", n=100) for s in (0.4, 0.05)
    )
    assert narrow.settled is not None
    assert wide.needed > narrow.needed
    assert wide.spread[-1] > 2 * narrow.spread[-1]


def test_settled_means_from_there_on():
    found = convergence(fields([2, 3, 4, 5.0]), tolerance=100)
    assert found.settled == 1
    facts = found.as_dict()
    assert facts["counts"] == [1, 2, 3, 4]
    assert facts["settled"] == 1


def test_what_cannot_settle_is_refused():
    with pytest.raises(ValueError, match="two images or more; this field has one"):
        convergence(fields([3.0]))
    with pytest.raises(ValueError, match="rise from 1"):
        convergence(fields([3.0, 4.0]), counts=[2, 1])
    with pytest.raises(ValueError, match=r"is 0\.0, to which"):
        convergence(fields([1.0, 1.0]), lambda erf: 0.0)
    with pytest.raises(ValueError, match="no statistic"):
        convergence(fields([3.0, 4.0]), "width")
