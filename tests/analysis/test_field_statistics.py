"""Statistics of fields whose answers are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import field_statistics as fs

RNG = np.random.default_rng()


def offsets(h, w):
    return np.mgrid[-(h // 2) : h - h // 2, -(w // 2) : w - w // 2]


def gaussian(h, w, sigma_y, sigma_x, turn=0.0):
    """A Gaussian, its x axis turned counter-clockwise by `turn` degrees as a person sees it."""
    y, x = offsets(h, w)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    along, across = c * x - s * y, s * x + c * y
    return np.exp(-((along / sigma_x) ** 2 + (across / sigma_y) ** 2) / 2)


def delta(h=9, w=12):
    field = np.zeros((h, w))
    field[h // 2, w // 2] = 3.0
    return field


def test_a_gaussian_has_its_own_sigmas_and_axis():
    for turn in (-60, -20, 0, 35, 90):
        spread = fs.spread(gaussian(101, 101, 4, 8, turn))
        assert spread.angle == pytest.approx(turn, abs=1e-6)
        assert spread.ratio == pytest.approx(4, rel=1e-6)
    assert fs.spread(gaussian(101, 121, 4, 8))[:2] == pytest.approx((4, 8), rel=1e-9)


def test_a_round_gaussian_holds_the_rayleigh_shares_within_its_radii():
    sigma, field = 12.0, gaussian(151, 151, 12, 12)
    for share in (0.2, 0.5, 0.9, 0.99):
        assert fs.radius(field, share) == pytest.approx(sigma * np.sqrt(-2 * np.log(1 - share)), abs=0.1)
    assert fs.share_beyond(field, 24) == pytest.approx(np.exp(-2), rel=0.03)  # whole pixels


def test_a_gaussian_counts_its_pixels():
    field = gaussian(151, 151, 9, 9)
    assert fs.effective_pixels(field) == pytest.approx(4 * np.pi * 81, rel=1e-6)
    assert fs.perplexity(field) == pytest.approx(2 * np.pi * np.e * 81, rel=1e-6)
    above = np.pi * 2 * 81 * -np.log(0.0455)  # area where a Gaussian of sigma 9 exceeds 4.55 % of its peak
    assert fs.luo_size(field) == pytest.approx(np.sqrt(above), rel=0.01)


def test_zeros_around_a_field_change_neither_radius_nor_pixels_nor_spread():
    field = RNG.random((14, 19))
    padded = np.pad(field, ((7, 7), (10, 10)))
    for statistic in (lambda f: fs.radius(f, 0.9), fs.effective_pixels, fs.perplexity, lambda f: fs.spread(f)[:2]):
        assert statistic(padded) == pytest.approx(statistic(field))
    assert padded.sum() == pytest.approx(field.sum())
    assert fs.area_ratio(padded, 0.5) < fs.area_ratio(field, 0.5)  # which is relative to the image


def test_the_radius_is_the_smallest_distance_that_suffices():
    field = RNG.random((14, 19))
    y, x = offsets(14, 19)
    for norm, distance in (("euclidean", np.hypot(y, x)), ("chebyshev", np.maximum(abs(y), abs(x)))):
        for share in (0.01, 0.3, 0.77, 1.0):
            r = fs.radius(field, share, norm)
            within, closer = (field[mask].sum() / field.sum() for mask in (distance <= r, distance < r))
            assert within >= share - 1e-12
            assert closer < share
        assert fs.radius(field, 1.0, norm) == distance.max()


def test_shares_within_and_beyond_make_one():
    field = RNG.standard_normal((15, 10))
    profile = fs.radial_profile(field)
    beyond = [fs.share_beyond(field, r) for r in profile.radius]
    np.testing.assert_allclose(profile.share + beyond, 1, atol=1e-12)
    assert profile.radius[0] == 0
    assert profile.share[0] == pytest.approx(abs(field[7, 5]) / abs(field).sum())
    assert fs.share_beyond(field, -1) == 1


def area_ratio_by_the_published_loop(field, t, compress):
    """The definition once more, with slices instead of distances."""
    values = np.log10(1 + field) if compress else field
    values = values / values.max()
    h, w = values.shape
    for i in range(1, min(h, w) // 2):
        square = values[h // 2 - i : h // 2 + i + 1, w // 2 - i : w // 2 + i + 1]
        if square.sum() / values.sum() > t:
            return (2 * i + 1) ** 2 / (h * w)
    return 1.0


@pytest.mark.parametrize("size", [(40, 40), (41, 41), (30, 47), (47, 30)])
@pytest.mark.parametrize("compress", [True, False])
def test_area_ratios_follow_the_published_rule(size, compress):
    field = gaussian(*size, 5, 7) * RNG.random(size) * 10 ** RNG.uniform(-3, 3)
    for t in (0.2, 0.3, 0.5, 0.99):
        expected = area_ratio_by_the_published_loop(field, t, compress)
        assert fs.area_ratio(field, t, compress=compress) == expected


def test_the_compressed_area_ratio_depends_on_the_unit_and_the_raw_one_does_not():
    field = gaussian(120, 120, 8, 8)
    compressed = [fs.area_ratio(scale * field, 0.5) for scale in (1e-3, 1e6)]
    raw = [fs.area_ratio(scale * field, 0.5, compress=False) for scale in (1e-3, 1e6)]
    assert compressed[1] > 3 * compressed[0]
    assert raw[0] == raw[1] == compressed[0]


def test_no_square_holds_99_percent_of_a_small_uniform_field():
    assert fs.area_ratio(np.ones((120, 120)), 0.99) == 1.0  # the largest is 119^2 / 120^2 = 98.3 %
    assert fs.area_ratio(np.ones((120, 120)), 0.98) == 119**2 / 120**2
    assert fs.area_ratio(delta(), 0.99) == 9 / (9 * 12)  # the smallest square has side 3


def test_mirroring_a_field_changes_the_sign_of_its_asymmetry():
    field = RNG.random((13, 17))
    plain, upside_down, mirrored = (fs.asymmetry(f) for f in (field, field[::-1], field[:, ::-1]))
    assert upside_down.vertical == pytest.approx(-plain.vertical)
    assert upside_down.horizontal == pytest.approx(plain.horizontal)
    assert mirrored.horizontal == pytest.approx(-plain.horizontal)
    turned = fs.asymmetry(field[::-1, ::-1])
    assert turned.raster == pytest.approx(1 - plain.raster)


def test_the_mean_over_the_four_frames_has_no_direction():
    field = RNG.random((13, 17))
    mean = (field + field[::-1] + field[:, ::-1] + field[::-1, ::-1]) / 4
    assert fs.asymmetry(mean) == pytest.approx((0, 0, 0.5), abs=1e-12)


def test_raster_order_splits_the_row_of_the_query():
    field = np.zeros((5, 7))
    field[2, 1], field[2, 5], field[1, 6], field[3, 0] = 1, 2, 3, 4  # before, after, before, after
    assert fs.asymmetry(field) == pytest.approx((-1 / 7, (1 + 4 - 2 - 3) / 10, 0.4))
    assert fs.half_planes(field) == pytest.approx((0.3, 0.4, 0.5, 0.5))


def test_the_local_zone_is_left_out():
    field = np.zeros((11, 11))
    field[4, 5], field[8, 5], field[3, 5] = 5, 1, 3
    assert fs.asymmetry(field).vertical == pytest.approx(7 / 9)
    assert fs.asymmetry(field, beyond=1).vertical == pytest.approx(0.5)
    assert fs.asymmetry(field, beyond=2).vertical == -1
    assert fs.half_planes(field, beyond=2) == pytest.approx((0, 1 / 9, 0, 0))
    with pytest.raises(ValueError, match="beyond=-1"):
        fs.asymmetry(field, beyond=-1)


def test_a_single_point_has_no_direction():
    assert np.isnan(fs.asymmetry(delta())).all()
    assert fs.spread(delta()) == (0, 0, 0, 1)
    assert (fs.effective_pixels(delta()), fs.perplexity(delta()), fs.luo_size(delta())) == (1, 1, 1)
    assert (fs.radius(delta(), 1.0), fs.share_beyond(delta(), 0), fs.floor(delta())) == (0, 0, 0)


def test_a_line_is_infinitely_long():
    field = np.zeros((21, 21))
    np.fill_diagonal(field[:, ::-1], 1)  # rises to the right
    spread = fs.spread(field)
    assert spread.ratio > 1e9
    assert spread.angle == pytest.approx(45)


def test_the_floor_is_what_lies_under_a_peak():
    field = delta(41, 41) + 1e-3
    assert fs.floor(field) == pytest.approx(1e-3 / 3.001)


@given(scale=st.floats(1e-9, 1e9), flips=st.lists(st.booleans(), min_size=3, max_size=3))
def test_unit_and_sign_change_no_statistic(scale, flips):
    field = np.arange(1.0, 43.0).reshape(6, 7) ** 2
    other = scale * np.where(np.resize(flips, field.shape), field, -field)
    for statistic in (fs.effective_pixels, fs.perplexity, fs.luo_size, fs.floor, fs.spread, fs.asymmetry):
        np.testing.assert_allclose(statistic(other), statistic(field), rtol=1e-9)
    assert fs.radius(other, 0.6) == fs.radius(field, 0.6)
    assert fs.area_ratio(other, 0.2, compress=False) == fs.area_ratio(field, 0.2, compress=False)


def test_what_has_no_answer_is_refused():
    for field in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="finite values, not all zero"):
            fs.radius(field, 0.5)
    for share in (0, 1.5, -1, 50):
        with pytest.raises(ValueError, match="share of the mass"):
            fs.radius(delta(), share)
    for t in (0, 1, 99):
        with pytest.raises(ValueError, match="threshold"):
            fs.area_ratio(delta(), t)
    with pytest.raises(ValueError, match="chebyshev"):
        fs.radius(delta(), 0.5, "manhattan")
