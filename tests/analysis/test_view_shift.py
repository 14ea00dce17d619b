"""Shifts between two views: known ones are found, flat patches say nothing, and a lens shifts by its half discs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from analysis.view_shift import view_shifts
from evssm.data.defocus import dual_pixel_views

H, W = 48, 96


def texture(h, w, smooth=5):
    """Random, but smooth enough for a match to have a neighbourhood."""
    return avg_pool2d(torch.rand(3, h + smooth - 1, w + smooth - 1, dtype=torch.float64), smooth, 1)


@pytest.mark.parametrize("shift", [-5, 0, 3])
def test_a_whole_shift_is_found_in_every_patch(shift):
    wide = texture(H, W + 20)
    right, left = wide[..., 10 : 10 + W], wide[..., 10 - shift : 10 - shift + W]
    found = view_shifts(left, right, patch=16, reach=8)
    assert found.shift.shape == (3, 5)
    assert found.sure.all()
    np.testing.assert_allclose(found.shift, shift, atol=0.3)
    at = np.rint(found.shift)
    assert (at == shift).all()


def test_a_flat_patch_and_one_whose_match_lies_beyond_the_search_are_not_sure():
    flat = torch.full((3, H, W), 0.5)
    assert not view_shifts(flat, flat, patch=16, reach=8).sure.any()
    ramp = torch.linspace(0, 1, W).expand(3, H, W)
    beyond = view_shifts(ramp + 0.5, ramp, patch=16, reach=4)
    assert not beyond.sure.any()


@pytest.mark.parametrize("diameter", [-12.0, 12.0])
def test_a_lens_shifts_its_views_as_its_half_discs_lie_and_the_sign_tells_near_from_far(diameter):
    light = np.moveaxis(texture(64, 128, 9).numpy(), 0, -1).astype(np.float32)
    circles = np.full(light.shape[:2], diameter)
    views = (torch.from_numpy(np.moveaxis(view, -1, 0)) for view in dual_pixel_views(light, circles))
    found = view_shifts(*views, patch=32, reach=10)
    assert found.sure.any()
    np.testing.assert_allclose(found.predicted(circles), 4 / (3 * np.pi) * diameter)
    assert np.sign(found.shift[found.sure]).tolist() == [np.sign(diameter)] * int(found.sure.sum())
    assert np.median(found.shift[found.sure]) == pytest.approx(4 / (3 * np.pi) * diameter, rel=0.3)


def test_predictions_are_means_over_the_same_patches():
    found = view_shifts(texture(32, 52), texture(32, 52), patch=16, reach=2)
    circles = np.random.default_rng().normal(size=(32, 52))
    expected = circles[16:32, 2 + 32 : 2 + 48].mean() * 4 / (3 * np.pi)
    assert found.predicted(circles)[1, 2] == pytest.approx(expected)


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="alike in size"):
        view_shifts(torch.rand(3, H, W), torch.rand(3, H, W + 1))
    with pytest.raises(ValueError, match="no patch of 90 px"):
        view_shifts(torch.rand(3, H, W), torch.rand(3, H, W), patch=90)
