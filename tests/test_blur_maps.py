"""Maps of blur: of a disc in closed form, and of steps whose blur is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from evssm.blur_maps import WIDEST, guided, sigma_from_edges, sigma_of_circles
from evssm.data.motorcycle import COLUMNS, FOCUSES, TEST_CIRCLES, DefocusTest, disparity

RNG = np.random.default_rng()


def image_of(grey):
    return torch.from_numpy(np.stack([grey] * 3))


def test_a_disc_spreads_a_quarter_of_its_diameter():
    y, x = np.mgrid[-1:1:801j, -1:1:801j]
    inside = y**2 + x**2 <= 1
    spread = np.sqrt((x[inside] ** 2).mean())  # of a disc of diameter 2
    assert sigma_of_circles(np.array([2.0, -2.0])) == pytest.approx([spread] * 2, rel=1e-2)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_a_step_tells_its_blur(sigma):
    low, high = RNG.uniform(0, 0.3), RNG.uniform(0.6, 1)
    step = np.where(np.arange(80)[None] < RNG.integers(35, 45), low, high).repeat(60, 0)
    grey = gaussian_filter(step, sigma, mode="nearest")
    for turned in (grey, grey.T):
        found = sigma_from_edges(image_of(turned))
        assert found.shape == turned.shape
        np.testing.assert_allclose(found, sigma, atol=0.15)  # an edge lies between pixels, gradients on them


def test_two_steps_of_different_blur_are_told_apart():
    step = np.where(np.arange(60)[:, None] < 30, 0.2, 0.8).repeat(120, 1)
    grey = np.where(np.arange(120) < 60, gaussian_filter(step, 1.0), gaussian_filter(step, 3.0))
    found = sigma_from_edges(image_of(grey))
    assert np.median(found[:, :40]) == pytest.approx(1.0, rel=0.2)
    assert np.median(found[:, -40:]) == pytest.approx(3.0, rel=0.2)


def test_nothing_is_said_of_an_even_picture_and_nothing_beyond_the_widest():
    assert not sigma_from_edges(image_of(np.full((20, 30), 0.4))).any()
    noisy = sigma_from_edges(torch.rand(3, 40, 50, dtype=torch.float64))
    assert (noisy >= 0).all()
    assert (noisy <= WIDEST).all()


def test_guided_smoothing_keeps_lines_in_the_guide_and_smooths_without_one():
    guide = RNG.random((40, 50))
    np.testing.assert_allclose(guided(3 * guide - 1, guide, eps=0), 3 * guide - 1, atol=1e-6)
    noise = RNG.random((40, 50))
    assert guided(noise, np.full((40, 50), 0.5)).std() < noise.std() / 5


def test_the_true_circles_belong_to_the_test_images():
    """Focused on a disparity, what has it is sharp, nearer points have positive circles, and the scene's largest is
    the one asked for."""
    tests, (first, end) = DefocusTest(), COLUMNS["test"]
    for i, (focus, circle) in enumerate((f, c) for f in FOCUSES for c in TEST_CIRCLES):
        circles, depth = tests.circles(i), disparity()
        assert circles.shape == (len(depth), end - first)
        widest = max(focus - depth.min(), depth.max() - focus)
        np.testing.assert_allclose(circles, circle * (depth[:, first:end] - focus) / widest, rtol=1e-5, atol=1e-5)
