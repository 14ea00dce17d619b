"""Deconvolution under a prior on gradients: each step against its definition, and what a map of blur makes of it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, correlate

from evssm import deconvolution
from evssm.deconvolution import (
    deblurred_by_map,
    deconvolved,
    deconvolved_whole,
    disc_kernel,
    gaussian_kernel,
    least,
    quantised,
    shrunk,
    tapered,
)

RNG = np.random.default_rng()


def blocks(h=40, w=48):
    """A picture of even patches, `3 h w`."""
    return np.kron(RNG.random((3, h // 8, w // 8)), np.ones((8, 8)))


# --- the best auxiliary gradient


@pytest.mark.parametrize("exponent", [0.5, 2 / 3, 1.0, 1.5, 2.0])
def test_no_other_number_is_better_than_the_least(exponent):
    beta, v = float(RNG.uniform(1, 200)), RNG.uniform(0, 2, 50)
    grid = np.linspace(0, 2, 20_001)

    def cost(w):
        return w**exponent + beta / 2 * (w - v) ** 2

    found = least(v, beta, exponent)
    assert (cost(found) <= cost(grid[:, None]).min(0) + 1e-12).all()


def test_known_cases_of_the_least():
    v, beta = RNG.uniform(0, 2, 50), 3.0
    np.testing.assert_allclose(least(v, beta, 1.0), np.maximum(v - 1 / beta, 0), atol=1e-12)  # soft threshold
    np.testing.assert_allclose(least(v, beta, 2.0), v * beta / (beta + 2), atol=1e-12)  # ridge


def test_the_table_keeps_signs_and_does_not_end():
    v = RNG.uniform(-30, 30, 500)
    found = shrunk(v, 8.0, 1.5)
    np.testing.assert_allclose(found, np.sign(v) * least(np.abs(v), 8.0, 1.5), atol=1e-7)
    np.testing.assert_array_equal(shrunk(-v, 8.0, 1.5), -found)


# --- the best image


def test_the_image_is_the_best_one_given_the_auxiliary_gradients(monkeypatch):
    """The slope of weight/2 |k * x - y|^2 + beta/2 |D x - v|^2 is zero, everything circular and without spectra."""
    monkeypatch.setattr(deconvolution, "BETAS", (5.0,))
    y, kernel, weight = RNG.random((1, 9, 12)), RNG.random((3, 3)), 16.8
    kernel /= kernel.sum()
    x = deconvolved(y, kernel, weight=weight, exponent=1.5)[0]

    def steps(image):
        return np.stack([np.roll(image, -1, axis) - image for axis in (0, 1)])

    def steps_transposed(pair):
        return sum(np.roll(one, 1, axis) - one for axis, one in enumerate(pair))

    rest = convolve(x, kernel, mode="wrap") - y[0]
    slope = weight * correlate(rest, kernel, mode="wrap")
    slope += 5.0 * steps_transposed(steps(x) - shrunk(steps(y[0]), 5.0, 1.5))
    np.testing.assert_allclose(slope, 0, atol=1e-10)


def test_a_blur_that_is_known_is_mostly_undone():
    sharp, kernel = blocks(), gaussian_kernel(1.5)
    blurred = np.stack([convolve(plane, kernel, mode="wrap") for plane in sharp])
    found = deconvolved(blurred, kernel, weight=20_000, exponent=2 / 3)
    assert np.square(found - sharp).mean() < np.square(blurred - sharp).mean() / 4


def test_colors_do_not_mix():
    y, kernel = RNG.random((3, 18, 20)), gaussian_kernel(1.0)
    options = {"weight": 50.0, "exponent": 1.5}
    for plane, found in zip(y, deconvolved(y, kernel, **options), strict=True):
        np.testing.assert_allclose(found, deconvolved(plane[None], kernel, **options)[0], atol=1e-12)


# --- borders and kernels


def test_tapering_leaves_the_inside_alone_and_blurs_the_border():
    image, kernel = RNG.random((2, 60, 70)), gaussian_kernel(1.0)
    found, reach = tapered(image, kernel), len(kernel)
    np.testing.assert_allclose(found[:, reach:-reach, reach:-reach], image[:, reach:-reach, reach:-reach], atol=1e-9)
    around = np.stack([convolve(plane, kernel, mode="wrap") for plane in image])
    np.testing.assert_allclose(found[:, 0], around[:, 0], atol=1e-9)
    np.testing.assert_allclose(found[:, :, -1], around[:, :, -1], atol=1e-9)


@pytest.mark.parametrize(("kernel", "tolerance"), [(gaussian_kernel, 0.01), (disc_kernel, 0.1)])
@pytest.mark.parametrize("sigma", [2.0, 3.7, 6.0])
def test_kernels_have_the_spread_that_they_are_asked_for(kernel, tolerance, sigma):
    found = kernel(sigma)
    at = np.arange(len(found)) - len(found) // 2
    assert found.sum() == pytest.approx(1)
    for axis in (0, 1):
        assert found.sum(axis) @ at**2 == pytest.approx(sigma**2, rel=tolerance)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_next_to_no_blur_is_none(sigma):
    image = RNG.random((3, 9, 11))
    assert gaussian_kernel(sigma).shape == (1, 1)
    np.testing.assert_array_equal(deconvolved_whole(image, gaussian_kernel(sigma), weight=1, exponent=1.5), image)


# --- maps


def test_quantiles_are_lower_edges_of_distinct_values():
    one = RNG.gamma(2, 1, (1, 30, 40))
    found = quantised(one, 32)
    assert len(np.unique(found)) == 34
    assert (found <= one).all()
    assert found.min() == one.min()
    assert found.max() == one.max()
    assert (np.diff(found.ravel()[one.ravel().argsort()]) >= 0).all()
    even = np.full((1, 4, 5), 1.3)
    np.testing.assert_array_equal(quantised(even, 32), even)


def test_each_pixel_is_taken_from_the_deconvolution_with_its_own_blur():
    x = torch.from_numpy(blocks())[None]
    sigma = np.full((1, *x.shape[2:]), 0.7)
    sigma[..., 20:] = 1.6
    found = deblurred_by_map(x, sigma)
    for columns, level in ((slice(20), 0.7), (slice(20, None), 1.6)):
        whole = deconvolved_whole(x[0].numpy(), gaussian_kernel(level), weight=16.8, exponent=1.5).clip(0, 1)
        np.testing.assert_allclose(found[0, :, :, columns], whole[:, :, columns], atol=1e-12)


def test_a_batch_is_its_images_and_the_type_is_kept():
    x, sigma = torch.rand(2, 3, 17, 20), RNG.uniform(0, 1.5, (2, 17, 20))
    both = deblurred_by_map(x, sigma, quantiles=2)
    assert both.dtype == x.dtype
    for i in range(2):
        assert torch.equal(deblurred_by_map(x[[i]], sigma[[i]], quantiles=2)[0], both[i])


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_a_map_of_no_blur_is_refused(value):
    with pytest.raises(ValueError, match="finite numbers of 0 or more"):
        deblurred_by_map(torch.rand(1, 3, 8, 8), np.full((1, 8, 8), value))
