"""Artists read back: what an activation map, its star and its outline put into an axes; and maps in files."""

import json

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis import kept_rows
from analysis.activation_figure import activation_panels, caption
from analysis.activation_plots import draw_activation, draw_query, draw_scale
from analysis.activations import activation_maps, scan_column
from evssm.models import build


@pytest.fixture
def ax():
    return Figure(layout="compressed").add_subplot()


def star_of(ax):
    (star,) = ax.collections[-1].get_offsets()
    return tuple(star)


def test_a_map_is_shown_in_decades_below_its_peak_in_image_pixels(ax):
    field = np.array([[1.0, -0.1, 1e-9], [0.0, 0.01, 0.5]])
    assert draw_activation(ax, field, (1, 2), stride=4, size=(7, 11)) is ax
    (image,) = ax.images
    assert image.get_clim() == (-4, 0)
    np.testing.assert_allclose(image.get_array(), [[0, -1, -4], [-4, -2, np.log10(0.5)]])
    assert image.get_extent() == [-0.5, 11.5, 7.5, -0.5]
    assert ax.get_xlim() == (-0.5, 10.5)  # the padding is cut off
    assert ax.get_ylim() == (6.5, -0.5)
    assert star_of(ax) == (9.5, 5.5)  # the middle of its cell, (column, row)
    assert ax.collections[-1].get_sizes().tolist() == [34]
    assert mpl.colors.to_hex(ax.collections[-1].get_facecolor()[0]) == "#e8112d"
    assert mpl.colors.to_hex(ax.collections[-1].get_edgecolor()[0]) == "#ffffff"


def test_a_shared_peak_a_linear_and_a_signed_scale(ax):
    field = np.array([[2.0, -0.5]])
    draw_activation(ax, field, (0, 0), peak=4, style="linear")
    draw_activation(ax, field, (0, 0), style="signed")
    linear, signed = ax.images
    assert (linear.get_clim(), signed.get_clim()) == ((0, 1), (-1, 1))
    np.testing.assert_allclose(linear.get_array(), [[0.5, 0.125]])
    np.testing.assert_allclose(signed.get_array(), [[1, -0.5]])
    assert np.ptp(signed.to_rgba(np.zeros(1))[0, :3]) < 0.01  # without colour


def test_a_map_of_zeros_is_dark_and_one_that_is_not_finite_is_refused(ax):
    draw_activation(ax, np.zeros((2, 2)), (0, 0))
    assert (ax.images[0].get_array() == -4).all()
    with pytest.raises(ValueError, match="not finite"):
        draw_activation(ax, np.full((2, 2), np.nan), (0, 0))
    with pytest.raises(ValueError, match="log, linear, signed"):
        draw_activation(ax, np.eye(2), (0, 0), style="jet")


def test_the_support_is_outlined_along_the_edges_of_pixels_and_the_rest_is_grey(ax):
    mask = np.array([[1, 1, 1], [1, 1, 0]], dtype=bool)
    draw_activation(ax, np.ones((2, 3)), (1, 1), stride=2, support=mask)
    outline, _ = ax.collections
    corners = sorted(segment.tolist() for segment in outline.get_segments())
    assert corners == [[[3.5, 1.5], [3.5, 3.5]], [[3.5, 1.5], [5.5, 1.5]]]
    assert outline.get_linestyles()[0][1] is not None  # dashed
    veil = ax.images[1].get_array()
    assert (veil[..., 3] == ~mask).all()
    draw_activation(ax, np.ones((2, 3)), (1, 1), support=np.ones((2, 3), dtype=bool))
    assert not ax.collections[2].get_segments()


@pytest.mark.parametrize(("rows", "top"), [(slice(0, 10), False), (slice(10, 20), True), (slice(0, 20), False)])
def test_untrained_weights_are_named_where_the_map_has_least(ax, rows, top):
    mask = np.zeros((20, 20), dtype=bool)
    mask[rows] = True
    draw_activation(ax, np.ones((20, 20)), (10, 3), support=mask, untrained=True)
    (label,) = ax.texts
    assert label.get_text() == "untrained weights"
    assert (label.get_position()[1] > 0.5) == top


@pytest.mark.parametrize(("row", "top"), [(1, False), (18, True)])
def test_the_badge_keeps_off_the_query(ax, row, top):
    mask = np.zeros((20, 20), dtype=bool)
    mask[row:] = True
    draw_activation(ax, np.ones((20, 20)), (row, 3), support=mask, untrained=True)
    assert (ax.texts[0].get_position()[1] > 0.5) == top


def test_a_dot_shows_the_largest_of_its_pixels_and_stays_in_place(ax):
    field = np.zeros((5, 7))
    field[3, 6], field[0, 1], field[1, 0] = -1, 0.1, -0.5
    draw_activation(ax, field, (3, 6), stride=2, pool=2, style="signed")
    (image,) = ax.images
    expected = np.zeros((3, 4))
    expected[1, 3], expected[0, 0] = -1, -(0.5**0.5)
    np.testing.assert_allclose(image.get_array(), expected)
    assert image.get_extent() == [-0.5, 15.5, 11.5, -0.5]
    assert ax.get_xlim() == (-0.5, 13.5)
    assert star_of(ax) == (12.5, 6.5)


def test_the_query_lies_at_its_pixel_of_the_image(ax):
    draw_query(ax, np.random.default_rng().random((6, 9, 3)), (4, 7))
    assert star_of(ax) == (7, 4)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 8.5), (5.5, -0.5))


@pytest.mark.parametrize(("style", "names"), [("log", ("1", "$10^{-4}$")), ("signed", ("−1", "1"))])
def test_the_scale_names_its_ends(ax, style, names):
    draw_activation(ax, np.eye(4), (0, 0), style=style)
    bar = draw_scale(ax.figure.add_subplot(), [ax], style=style, label="relative")
    shown = [label.get_text() for label in bar.get_yticklabels()]
    assert (shown[0], shown[-1]) == names
    assert bar.get_ylabel() == "relative"


@pytest.fixture(scope="module")
def maps():
    image = torch.rand(3, 40, 56)
    nets = {name: build(name) for name in ("evssm-compact", "evssm-four-direction-compact")}
    return image, {name: activation_maps(net, image, (30, 10)) for name, net in nets.items()}


def test_the_panel_shows_each_network_its_input_and_every_module_and_cuts_nothing_off(maps, tmp_path):
    image, networks = maps
    figure = activation_panels(networks, image)
    figure.draw_without_rendering()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles.count("input") == 2
    assert titles.count("decoder.2.0 (1/1)") == 2
    assert len(figure.axes) == sum(1 + len(rows) for rows in networks.values()) + 1
    width, height = figure.get_size_inches() * figure.dpi
    for artist in (*figure.texts, *(ax.title for ax in figure.axes), *(ax.xaxis.label for ax in figure.axes)):
        box = artist.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width, artist
        assert 0 <= box.y0 <= box.y1 <= height, artist
    drawn = [ax for ax in figure.axes if ax.get_title() not in ("", "input")]
    assert all("untrained weights" in [text.get_text() for text in ax.texts] for ax in drawn)
    figure.savefig(tmp_path / "panel.png")


def test_a_shared_scale_has_one_peak_per_network(maps):
    image, networks = maps
    rows = networks["evssm-compact"]
    figure = activation_panels({"evssm-compact": rows}, image, scale="shared", style="linear")
    drawn = [ax for ax in figure.axes if ax.get_title() not in ("", "input")]
    peaks = np.array([ax.images[0].get_array().max() for ax in drawn])
    largest = np.array([row.map.max() for row in rows.values()])
    np.testing.assert_allclose(peaks, largest / largest.max())
    with pytest.raises(ValueError, match="no maps"):
        activation_panels({}, image)
    with pytest.raises(ValueError, match="each"):
        activation_panels(networks, image, scale="row")


def test_the_caption_says_level_reduction_scale_size_and_mode(maps):
    image, networks = maps
    text = caption(list(networks["evssm-compact"].values()), "each", "log", 4)
    for part in (
        "Level A3",
        "Δ",
        "absolute value",
        "4 decades",
        "its own maximum",
        "40 x 56 px",
        "no windows",
        "compact networks",
    ):
        assert part in text
    windowed = activation_maps(build("evssm-compact", local=(16, 8, 8)), image, (3, 3), "encoder.0.0", level="A6")
    text = caption(list(windowed.values()), "shared", "linear", 4)
    for part in ("Level A6", "direction of its output, the block's own map counted", "windows of 16 feature px"):
        assert part in text
    column = scan_column(build("evssm-compact"), image, (3, 3), "encoder.0.0", level="A7", residual=False)
    text = caption([column], "each", "log", 4)
    for part in ("is sent to (column)", "direction of every pixel's own output, the block's own map left out"):
        assert part in text


def test_maps_come_back_from_their_file_as_they_were(maps, tmp_path):
    _, networks = maps
    rows = networks["evssm-compact"]
    path = kept_rows.save_rows(tmp_path / "rows.npz", rows)
    again = kept_rows.load_rows(path)
    assert list(again) == list(rows)
    for name, row in rows.items():
        for part in kept_rows.ARRAYS:
            np.testing.assert_array_equal(getattr(again[name], part), getattr(row, part))
        assert all(getattr(again[name], fact) == getattr(row, fact) for fact in kept_rows.FACTS)
        assert again[name].check() == row.check()


def test_a_file_that_holds_no_maps_is_said_so_in_a_line(tmp_path):
    with pytest.raises(FileNotFoundError):
        kept_rows.load_rows(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", rows=np.array(json.dumps({"a": {}})))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match="holds no activation maps") as raised:
            kept_rows.load_rows(tmp_path / name)
        assert "\n" not in str(raised.value)
