"""Camera shake: aligned, with the point spread that its path states."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from evssm.data.kernels import blur, motion_kernel
from evssm.data.shake import CameraPath, average, random_path, shaken, straight_path
from evssm.photographs import photograph

RNG = np.random.default_rng()
POINT = CameraPath(np.zeros(3), np.zeros((0, 3)))


def any_path(extent=20.0):
    return random_path(RNG, extent, roll=0.5, reach=300)


@pytest.mark.parametrize("n", [33, 64, 201])
def test_every_point_has_mean_displacement_zero(n):
    row, column = RNG.uniform(-300, 300, 2)
    assert_close(any_path().displacements(n, row, column).mean(0), np.zeros(2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("extent", [0, 3, 40])
def test_the_extent_is_the_distance_of_the_most_distant_positions(extent):
    positions = random_path(RNG, extent, roll=0.3, reach=200).displacements(2000, 0, 0)
    apart = np.hypot(*(positions[:, None] - positions[None]).transpose(2, 0, 1)).max()
    assert_close(apart, float(extent), rtol=0.01, atol=0)


def test_the_roll_adds_its_share_at_its_reach():
    path = random_path(RNG, 20, roll=0.5, reach=200)
    assert_close(np.ptp(path.poses(2000)[:, 2]) * 200, 10.0, rtol=0.01, atol=0)
    assert np.ptp(random_path(RNG, 20).poses(50)[:, 2]) == 0


def test_no_point_strays_beyond_the_reach():
    path = any_path(30)
    worst = max(np.abs(path.displacements(512, r, c)).max() for r in (-200, 200) for c in (-300, 300))
    assert worst <= path.reach(200, 300) <= 1.5 * 30


def test_poses_are_at_most_a_pixel_apart():
    path = any_path(60)
    n = path.enough_poses((-10, 90), (-50, 250))
    steps = [np.hypot(*np.diff(path.displacements(n, r, c), axis=0).T).max() for r in (-10, 90) for c in (-50, 250)]
    assert max(steps) <= 1.02
    assert POINT.enough_poses((-10, 90), (-50, 250)) == 33


def test_a_photograph_taken_from_one_pose_is_untouched():
    photo = photograph("chelsea")
    blurred, sharp = shaken(photo, POINT, 31, 57, 64, 40)
    assert torch.equal(sharp, photo[:, 31:95, 57:97])
    assert_close(blurred, sharp, rtol=0, atol=2e-6)
    assert torch.equal((blurred * 255).round(), sharp * 255)


@pytest.mark.parametrize("angle", [0, 90, -33.5])
def test_a_straight_uniform_path_gives_the_motion_kernel(angle):
    path = straight_path(21.5, angle)
    assert_close(path.kernel(7, -8, poses=100_000), motion_kernel(21.5, angle), rtol=0, atol=1e-6)
    photo = photograph("coffee", (120, 130))
    blurred, _ = shaken(photo, path, 20, 25, 70, 80)
    expected = blur(photo.double(), motion_kernel(21.5, angle))[:, 20:90, 25:105]
    assert (blurred.double() - expected).square().mean().sqrt() < 0.5 / 255


def test_each_pixel_averages_with_the_kernel_of_its_place():
    light, path = RNG.random((101, 151, 3)).astype(np.float32), any_path(25)
    h, w = 5, 4
    top, left = int(RNG.integers(40, 55)), int(RNG.integers(40, 100))
    seen = average(light, path, top, left, h, w)
    n = path.enough_poses((top - 50, top - 50 + h - 1), (left - 75, left - 75 + w - 1))
    for i in range(h):
        for j in range(w):
            kernel = path.kernel(top + i - 50, left + j - 75, poses=n).numpy()
            r = len(kernel) // 2
            around = light[top + i - r : top + i + r + 1, left + j - r : left + j + r + 1]
            expected = np.einsum("pq,pqc->c", kernel[::-1, ::-1], around)
            assert_close(seen[i, j], expected.astype(np.float32), rtol=0, atol=1e-5)


def test_without_roll_a_point_of_light_becomes_the_kernel():
    path = random_path(RNG, 25)
    kernel = path.kernel(0, 0, poses=path.enough_poses((0,), (0,)))
    reach = len(kernel) // 2
    light = np.zeros((4 * reach + 1, 4 * reach + 1, 3), np.float32)
    light[2 * reach, 2 * reach] = 1
    seen = average(light, path, reach, reach, 2 * reach + 1, 2 * reach + 1)
    assert_close(seen[..., 1].astype(float), kernel.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("roll", "tolerance"), [(0.0, 1e-5), (0.5, 1e-2)])
def test_shake_conserves_light(roll, tolerance):
    light = np.zeros((140, 160, 3), np.float32)
    light[60:80, 70:90] = RNG.random((20, 20, 3))
    seen = average(light, random_path(RNG, 30, roll=roll, reach=500), 0, 0, 140, 160)
    assert_close(seen.astype(float).sum(), light.astype(float).sum(), rtol=tolerance, atol=0)


def test_a_crop_is_the_crop_of_the_whole():
    photo, path = torch.rand(3, 90, 80), any_path(15)
    whole, _ = shaken(photo, path, 0, 0, 90, 80)
    part, _ = shaken(photo, path, 20, 30, 33, 21)
    assert_close(part, whole[:, 20:53, 30:51], rtol=0, atol=0.02)  # another number of poses


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="crop of 64 x 64 at row 60"):
        shaken(torch.rand(3, 100, 100), POINT, 60, 0, 64, 64)
    with pytest.raises(ValueError, match="extent -1"):
        random_path(RNG, -1)
