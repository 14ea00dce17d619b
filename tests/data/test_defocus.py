"""Defocus from disparity: kernels of half apertures, layers that occlude, and the motorcycle's two parts."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from evssm.data import motorcycle
from evssm.data.defocus import circles_of_confusion, dual_pixel_views, half_aperture_kernels, hidden_behind
from evssm.data.motorcycle import COLUMNS, WIDEST, DefocusCrops, DefocusTest, disparity, filled_in
from evssm.photographs import packaged_file, photograph

RNG = np.random.default_rng()


def picture(h=40, w=50):
    return RNG.random((h, w, 3)).astype(np.float32)


def uniform(diameter, light):
    return np.full(light.shape[:2], float(diameter))


@pytest.mark.parametrize("diameter", [0.5, 3.0, 11.5, 24.0])
def test_half_apertures_are_mirror_images_of_known_centroid(diameter):
    left, right = half_aperture_kernels(diameter)
    at = np.arange(len(left)) - len(left) // 2
    assert left.min() >= 0
    assert_close(left.sum(), 1.0)
    assert np.array_equal(right, left[:, ::-1])
    assert_close(left.sum(0) @ at, 4 / (3 * np.pi) * diameter / 2, rtol=1e-3, atol=0)
    assert_close(left.sum(1) @ at, 0.0, rtol=0, atol=1e-12)


def test_both_halves_make_a_disc():
    disc = sum(half_aperture_kernels(24.0)) / 2
    at = np.arange(len(disc)) - len(disc) // 2
    distance = np.hypot(*np.meshgrid(at, at))
    assert_close(disc[distance < 10.5], np.full((distance < 10.5).sum(), 1 / (np.pi * 144)), rtol=0.1, atol=0)
    assert disc[distance > 13.5].max() == 0
    assert_close(disc, disc.T, rtol=0, atol=1e-12)
    second = (disc.sum(0) * at**2).sum()
    assert 0 <= second - 144 / 4 <= 0.25 + 0.01  # r^2 / 4, and what linear interpolation adds


def test_the_circle_of_confusion_is_that_of_a_thin_lens():
    f, baseline, aperture = 995.0, 193.0, 0.4  # px, mm, baselines
    near, focus = 1500.0, 2600.0  # mm
    disparities = f * baseline / np.array([near, focus])
    blur_on_the_focal_plane = aperture * baseline * (focus - near) / near  # similar triangles
    expected = blur_on_the_focal_plane * f / focus
    circles = circles_of_confusion(disparities, float(disparities[1]), aperture)
    assert_close(circles, np.array([expected, 0.0]))
    with pytest.raises(ValueError, match="aperture of -1"):
        circles_of_confusion(disparities, 3, -1)


@pytest.mark.parametrize("diameter", [-9.0, -1.5, 4.0, 13.0])
def test_at_uniform_depth_each_view_is_a_convolution(diameter):
    light = picture()
    views = dual_pixel_views(light, uniform(diameter, light))
    kernels = half_aperture_kernels(abs(diameter))[:: 1 if diameter > 0 else -1]
    for view, kernel in zip(views, kernels, strict=True):
        r = len(kernel) // 2
        for row, column in RNG.integers(r, 40 - r, (5, 2)):
            around = light[row - r : row + r + 1, column - r : column + r + 1]
            expected = np.einsum("pq,pqc->c", kernel[::-1, ::-1], around)
            assert_close(view[row, column], expected.astype(np.float32), rtol=0, atol=1e-4)


def test_in_focus_both_views_are_the_picture():
    light = picture()
    for view in dual_pixel_views(light, uniform(0, light)):
        assert_close(view, light, rtol=0, atol=1e-6)


@pytest.mark.parametrize("diameter", [-12.0, 6.0, 15.0])
def test_a_point_is_seen_displaced_by_its_disparity_between_the_views(diameter):
    light = np.zeros((41, 61, 3), np.float32)
    light[20, 30] = 1
    left, right = dual_pixel_views(light, uniform(diameter, light))
    at = np.arange(61)
    centroids = [(at @ view[..., 0].sum(0)) / view[..., 0].sum() for view in (left, right)]
    assert_close(centroids[0] - centroids[1], 4 * diameter / (3 * np.pi), rtol=2e-3, atol=0)  # nearer: to the right
    assert_close(left.sum(), light.sum(), rtol=1e-3, atol=0)


def test_a_uniform_picture_stays_uniform_whatever_the_depth():
    light = np.full((40, 50, 3), 0.3, np.float32)
    for view in dual_pixel_views(light, RNG.uniform(-9, 9, (40, 50))):
        assert_close(view, light, rtol=0, atol=1e-4)


def edge(near, far):
    """A white near half beside a black far half; the mean of the views along a row."""
    light, circles = np.zeros((40, 60, 3), np.float32), np.full((40, 60), float(far))
    light[:, :30], circles[:, :30] = 1, near
    return np.mean(dual_pixel_views(light, circles), 0)[20, :, 0]


def test_a_sharp_foreground_stays_sharp_before_a_blurred_background():
    row = edge(0, -12)
    assert_close(row[:30], np.ones(30, np.float32), rtol=0, atol=1e-4)
    assert row[30:].max() < 1e-4


def test_a_blurred_foreground_is_translucent_at_its_edge():
    row = edge(12, 0)
    assert_close(row[29:31].mean(), np.float32(0.5), rtol=0, atol=0.03)
    assert np.all(np.diff(row) <= 1e-4)
    assert row[:23].min() > 0.999
    assert row[37:].max() < 1e-3
    assert 0.05 < row[33] < 0.4


def test_circles_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one finite number"):
        dual_pixel_views(picture(), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="one finite number"):
        dual_pixel_views(picture(), np.full((40, 50), np.inf))


def test_unknown_disparity_is_that_of_the_farther_neighbour():
    inf = np.inf
    given = np.array([[inf, 9, inf, inf, 4, inf], [inf] * 6, [7, 7, 7, inf, 8, 8]])
    expected = np.array([[9, 9, 4, 4, 4, 4], [7, 7, 4, 4, 4, 4], [7, 7, 7, 7, 8, 8]], np.float32)
    assert np.array_equal(filled_in(given), expected)
    with pytest.raises(ValueError, match="nothing of the disparity"):
        filled_in(np.full((3, 4), inf))


def test_known_disparity_is_kept():
    with np.load(packaged_file("skimage", "motorcycle_disp.npz")) as file:
        given = file["arr_0"]
    known = np.isfinite(given)
    assert_close(known.mean(), 0.9265, rtol=0, atol=1e-3)
    assert np.array_equal(disparity()[known], given[known])
    assert np.isfinite(disparity()).all()


def test_the_strip_between_the_parts_is_wider_than_what_both_look_at():
    assert COLUMNS["test"][0] - COLUMNS["train"][1] >= 2 * (WIDEST + 2)
    assert COLUMNS["test"][1] == photograph("motorcycle").shape[2]


def test_training_crops_and_test_images_come_from_their_parts(monkeypatch):
    seen = []
    render = motorcycle._views
    monkeypatch.setattr(motorcycle, "_views", lambda *a: seen.append((a[3], a[3] + a[5])) or render(*a))
    pairs = DefocusCrops("train", 24, seed=3)
    for i in range(25):
        assert pairs[i].sharp.shape == (3, 24, 24)
    assert min(seen)[0] >= 0
    assert max(end for _, end in seen) <= COLUMNS["train"][1]
    first, end = COLUMNS["test"]
    assert torch.equal(DefocusTest()[1].sharp, photograph("motorcycle")[:, :, first:end])


def test_views_mean_the_single_picture():
    """In linear light, within the rounding of three images to 8 bits."""
    for i in range(3):
        double = DefocusCrops("train", 48, seed=5, dual_pixel=True)[i]
        single = DefocusCrops("train", 48, seed=5)[i]
        assert double.blurred.shape == (6, 48, 48)
        assert torch.equal(double.sharp, single.sharp)
        left, right = (x**2.2 for x in double.blurred.split(3))
        lit = (left > 0.05) & (left < 1) & (right > 0.05) & (right < 1)  # neither saturated nor coarsely rounded
        assert lit.float().mean() > 0.1
        assert (((left + right) / 2) ** (1 / 2.2) - single.blurred)[lit].abs().max() < 1.1 / 255


def test_mirrored_columns_exchange_the_views(monkeypatch):
    """In every crop, mirrored or not, what is nearer than the focus lies further right in the left view.

    Where a crop holds next to nothing, or a pattern that repeats, noise may decide; without the exchange half of them
    would be the other way round.
    """
    render = motorcycle._views
    monkeypatch.setattr(motorcycle, "_views", lambda focus, circle, *place: render(7.0, 20.0, *place))
    pairs = DefocusCrops("train", 96, seed=int(RNG.integers(1000)), dual_pixel=True)
    agree = 0
    for i in range(16):
        left, right = (x.mean(0) for x in pairs[i].blurred.split(3))
        error = [(left - right.roll(step, 1))[:, 8:-8].square().mean() for step in (-2, 2)]
        agree += bool(error[1] < error[0])
    assert agree >= 14


def test_a_crop_is_the_crop_of_the_whole():
    part = motorcycle._views(40.0, 12.0, 200, 230, 30, 40)
    whole = motorcycle._views(40.0, 12.0, 150, 180, 130, 140)
    assert np.abs(part - whole[:, 50:80, 50:90]).max() < 2e-3


def test_what_is_hidden_continues_from_beside_the_edge():
    circles = np.zeros((30, 40), np.float32)
    circles[:, :15] = 8
    rows, columns, hidden = hidden_behind(circles)
    assert np.array_equal(np.flatnonzero(hidden[7]), np.arange(11, 15))  # as far as the blur reaches, its radius
    assert set(columns[hidden]) <= {10, 15}
    assert (columns[:, 13:15] == 15).all()
    assert np.array_equal(rows[~hidden], np.indices((30, 40))[0][~hidden])
    slope = np.tile(np.linspace(0, 3, 40), (30, 1))
    assert not hidden_behind(slope)[2].any()


def test_items_are_functions_of_their_index():
    one, other = (DefocusCrops("test", 24, seed=11, dual_pixel=True) for _ in range(2))
    assert torch.equal(one[4].blurred, [other[i] for i in (9, 4)][1].blurred)
    assert not torch.equal(one[4].blurred, one[5].blurred)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "validation"}, r"'validation'; .* train, test"),
        ({"size": 402}, "up to the 400 px"),
        ({"seed": -1}, "seed -1"),
        ({"circle": (4, 29)}, "high <= 28"),
        ({"circle": (9, 4)}, "between 9 and 4"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DefocusCrops(**{"split": "train", "size": 24, "seed": 1, **change})
