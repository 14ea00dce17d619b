"""Kernels whose sum, centroid and spread are known, and convolution in linear light."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from evssm.data.kernels import blur, from_light, motion_kernel, splat, to_light

RNG = np.random.default_rng()


def moments(kernel):
    """Sum, centroid and second moments about the centre pixel, (row, column)."""
    at = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    rows, columns = kernel.sum(1), kernel.sum(0)
    second = (rows * at**2).sum(), (at @ kernel) @ at, (columns * at**2).sum()
    return kernel.sum(), torch.stack([(rows * at).sum(), (columns * at).sum()]), second


def added_by_interpolation(half):
    """Mean of f (1 - f) over the positions from -half to half, by brute force."""
    f = half * (2 * (np.arange(200_000) + 0.5) / 200_000 - 1) % 1
    return (f * (1 - f)).mean()


@pytest.mark.parametrize("length", [0, 0.3, 1, 7.25, 40])
def test_a_motion_kernel_has_the_moments_of_its_line(length):
    angle = RNG.uniform(-400, 400)
    kernel = motion_kernel(length, angle)
    total, centroid, (rows, mixed, columns) = moments(kernel)
    down, right = -np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    assert kernel.min() >= 0
    assert_close(total.item(), 1.0, rtol=0, atol=1e-12)
    assert_close(centroid, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    variance = length**2 / 12
    assert_close(rows.item(), variance * down**2 + added_by_interpolation(length / 2 * down), rtol=1e-5, atol=1e-6)
    assert_close(columns.item(), variance * right**2 + added_by_interpolation(length / 2 * right), rtol=1e-5, atol=1e-6)
    assert_close(mixed.item(), variance * down * right, rtol=1e-9, atol=1e-9)  # interpolation adds nothing here


def test_motion_over_whole_pixels_is_a_box_with_half_ends():
    assert_close(motion_kernel(2, 0)[1], torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    assert_close(motion_kernel(2, 90)[:, 1], torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    assert torch.equal(motion_kernel(0, 33), torch.ones(1, 1, dtype=torch.float64))


def test_turning_the_motion_turns_the_kernel():
    length, angle = RNG.uniform(1, 30), RNG.uniform(0, 90)
    assert_close(motion_kernel(length, angle + 90), torch.rot90(motion_kernel(length, angle)))
    assert_close(motion_kernel(length, angle + 180), motion_kernel(length, angle))
    assert_close(motion_kernel(length, -angle), motion_kernel(length, angle).flip(0))


def test_a_motion_upwards_to_the_right_is_seen_so():
    kernel = motion_kernel(10, 45)
    assert kernel[1, -2] > 0.01
    assert kernel[1, 1] == 0


@pytest.mark.parametrize("bad", [(-1, 0), (float("nan"), 0), (float("inf"), 0), (3, float("nan"))])
def test_a_motion_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="finite length"):
        motion_kernel(*bad)


def test_a_point_becomes_the_kernel_as_it_stands():
    kernel = torch.rand(5, 3, dtype=torch.float64)
    point = torch.zeros(2, 3, 11, 9, dtype=torch.float64)
    point[..., 5, 4] = 1
    assert_close(blur(point, kernel, linear=False)[..., 3:8, 3:6], kernel.expand(2, 3, 5, 3))


def test_averaging_is_done_in_linear_light_when_asked():
    x = torch.rand(3, 20, 30, dtype=torch.float64)
    kernel = motion_kernel(5, 30)
    assert_close(blur(x, kernel), from_light(blur(to_light(x), kernel, linear=False)))
    assert (blur(x, kernel) > blur(x, kernel, linear=False)).double().mean() > 0.95  # Jensen: light weighs more
    assert_close(blur(torch.full((3, 20, 30), 0.4, dtype=torch.float64), kernel).unique().mean().item(), 0.4)


def test_borders_are_reflected_without_the_edge():
    x = torch.rand(1, 6, 7, dtype=torch.float64)
    shift = torch.zeros(1, 5, dtype=torch.float64)
    shift[0, 0] = 1  # everything moves two to the left
    assert torch.equal(blur(x, shift, linear=False), x[..., [2, 3, 4, 5, 6, 5, 4]])


def test_kernels_without_a_centre_and_too_large_ones_are_refused():
    with pytest.raises(ValueError, match="odd sides"):
        blur(torch.rand(3, 20, 20), torch.ones(2, 3))
    with pytest.raises(ValueError, match="larger image"):
        blur(torch.rand(3, 20, 20), torch.ones(1, 41))


def test_splatting_keeps_weight_and_centroid():
    positions, weights = RNG.uniform(-4, 4, (30, 2)), RNG.random(30)
    total, centroid, _ = moments(splat(positions, weights, 4))
    assert_close(total.item(), weights.sum())
    assert_close(centroid.numpy(), weights @ positions)
