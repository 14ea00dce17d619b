"""RealBlur's alignment: a known homography is found again, with numbers that OpenCV 4 and 5 both give."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from evssm.align import AlignmentError, align
from evssm.metrics import psnr, ssim
from evssm.photographs import photograph

H, W = 200, 260
HOMOGRAPHY = np.array([[1.004, 0.006, -2.3], [-0.005, 0.997, 1.6], [1e-5, -8e-6, 1]])


def carried(homography, points):
    there = homography @ np.vstack([points, np.ones(points.shape[1])])
    return there[:2] / there[2]


def moved(image):
    """The image seen through the homography, by splines instead of OpenCV, darkened by a tenth and rounded to 8 bits:
    pixel p of it shows what lies at HOMOGRAPHY p."""
    rows, columns = np.mgrid[:H, :W]
    x, y = carried(HOMOGRAPHY, np.stack([columns.ravel(), rows.ravel()])).reshape(2, H, W)
    there = np.stack([map_coordinates(c.double().numpy(), [y, x], order=3, mode="mirror") for c in image])
    return (torch.from_numpy(0.9 * there).clamp(0, 1) * 255).round().float() / 255


@pytest.fixture(scope="module")
def found():
    sharp = photograph("coffee", (H, W))
    return sharp, moved(sharp), align(moved(sharp), sharp)


def test_a_known_homography_is_found_to_a_tenth_of_a_pixel(found):
    corners = np.array([[0, W - 1, 0, W - 1], [0, 0, H - 1, H - 1]], float)
    missed = carried(found[2].homography, corners) - carried(np.linalg.inv(HOMOGRAPHY), corners)
    assert abs(missed).max() < 0.1  # 0.033 with OpenCV 5.0.0, 0.033 with 4.14.0


def test_scores_after_alignment_are_those_stored(found):
    sharp, unaligned, aligned = found
    mask = aligned.mask[None]
    pair = aligned.image[None], sharp[None]
    # OpenCV 5.0.0: 39.8311 dB, 0.990705, 0.998777, 0.990827; OpenCV 4.14.0: 39.8112, 0.990671, 0.998746, 0.990846
    assert psnr(*pair, rounding="none", mask=mask).item() == pytest.approx(39.82, abs=0.05)
    assert ssim(*pair, rounding="none", mask=mask).item() == pytest.approx(0.9907, abs=2e-4)
    assert aligned.correlation == pytest.approx(0.99876, abs=1e-4)
    assert aligned.covered == pytest.approx(0.99083, abs=2e-4)
    assert psnr(unaligned[None], sharp[None]).item() == pytest.approx(20.8151, abs=1e-3)  # no OpenCV in it


def test_the_intensity_is_scaled_too(found):
    sharp, _, aligned = found
    inside = aligned.mask.bool().expand(3, -1, -1)
    assert aligned.image[inside].mean().item() == pytest.approx(
        sharp[inside].mean().item(), rel=0.02
    )  # found before aligning


def test_equal_images_stay_where_they_are():
    sharp = photograph("coffee", (64, 80))
    aligned = align(sharp, sharp)
    np.testing.assert_allclose(aligned.homography, np.eye(3), atol=1e-3)
    assert psnr(aligned.image[None], sharp[None], mask=aligned.mask[None]).item() > 45


@pytest.mark.parametrize(
    "restored",
    [
        pytest.param(torch.full((3, 64, 64), 0.5), id="flat"),
        pytest.param(torch.zeros(3, 64, 64), id="black"),
        pytest.param(torch.full((3, 64, 64), float("nan")), id="nan"),
        pytest.param(1 - photograph("coffee", 64), id="negative"),
    ],
)
def test_a_pair_that_cannot_be_aligned_is_an_error_in_a_line(restored):
    with pytest.raises(AlignmentError) as failed:
        align(restored, photograph("coffee", 64))
    assert "\n" not in str(failed.value)
