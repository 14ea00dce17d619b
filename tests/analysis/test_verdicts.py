"""Verdicts say "shown" only where it is, and can say each of the three words."""

import numpy as np
import pytest

from analysis.field import ERF
from analysis.verdicts import Verdict, compare


def sigma_x(erf):
    return erf.spread().sigma_x


def fields(sigma, seeds=2, images=8, spread=0.2):
    """Gaussian fields whose sigma varies by image (alike for all calls) and, a little, by seed."""
    y, x = np.mgrid[-16:17, -16:17]
    of_image = np.random.default_rng(5).normal(0, spread, images)
    found = []
    for _ in range(seeds):
        sigmas = sigma + of_image + np.random.default_rng().normal(0, 0.02)
        maps = np.stack([np.exp(-(x**2 + y**2) / (2 * s**2)) for s in sigmas])
        mass = maps.sum(axis=(1, 2))
        found.append(ERF(maps / mass[:, None, None], mass, np.ones(x.shape), {"images": list(range(images))}))
    return found


def test_a_wider_field_is_shown_to_be_wider_and_the_reverse_is_contradicted():
    wide, narrow = fields(4.0), fields(3.0)
    assert compare("wide > narrow", wide, narrow, "radius", share=0.5, n=200).word == "shown"
    assert compare("narrow > wide", narrow, wide, "radius", share=0.5, n=200).word == "contradicted"


def test_the_pairing_of_images_shows_what_independent_samples_would_not():
    # The images differ by far more than the networks do.
    a, b = fields(4.15, spread=0.6), fields(4.0, spread=0.6)
    verdict = compare("a > b", a, b, sigma_x, n=200)
    assert verdict.word == "shown"


def test_equality_needs_the_whole_interval_inside_the_margin():
    a, b = fields(3.5), fields(3.5)
    assert compare("a = b", a, b, sigma_x, expected="equal", margin=1.0, n=200).word == "shown"
    assert compare("a = a", a, a, sigma_x, expected="equal", margin=0.0, n=200).word == "not shown"
    far = compare("a = b", fields(6.0), b, sigma_x, expected="equal", margin=0.5, n=200)
    assert far.word == "contradicted"


def test_seeds_that_disagree_widen_the_interval():
    agreeing, disagreeing = fields(3.5, seeds=3), [*fields(2.5, seeds=1), *fields(3.5, seeds=1), *fields(4.5, seeds=1)]
    other = fields(3.0, seeds=3)
    widths = [
        (v := compare("a > b", a, other, "radius", share=0.5, n=200)).high - v.low for a in (agreeing, disagreeing)
    ]
    assert widths[1] > 3 * widths[0]
    assert compare("a > b", disagreeing, other, "radius", share=0.5, n=200).word == "not shown"


def test_the_difference_is_that_of_the_pooled_fields():
    a, b = fields(4.0), fields(3.0)
    verdict = compare("a > b", a, b, lambda erf: erf.radius(0.9), label="R90", n=20)
    assert verdict.difference == pytest.approx(ERF.pooled(a).radius(0.9) - ERF.pooled(b).radius(0.9))
    assert "a > b: shown (R90, difference +" in str(verdict)


def test_fields_of_other_images_are_refused():
    with pytest.raises(ValueError, match="differ in images"):
        compare("a > b", fields(3.0), fields(3.0, images=9), "radius", share=0.5)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.2, "shown"), (-0.2, 0.0, "contradicted"), (-0.1, 0.1, "not shown")]
)
def test_the_word_follows_from_the_interval(low, high, word):
    assert Verdict("c", "s", "larger", 0.0, low, high).word == word
