"""Artists read back: what the drawing functions put into an axes."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from analysis import field_statistics as fs
from analysis import plots

PAPER = Path(plots.__file__).with_name("paper.mplstyle")


@pytest.fixture
def ax():
    return Figure(layout="compressed").add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_peak_is_zero_decades_and_the_rest_is_cut_off(ax):
    field = np.full((4, 6), 1e-9)
    field[2, 3], field[0, 0] = 0.5, 0.05
    assert plots.draw_erf(ax, field) is ax
    (image,) = ax.images
    assert image.get_clim() == (-4, 0)
    assert image.get_array()[2, 3] == 0
    assert image.get_array()[0, 0] == pytest.approx(-1)
    assert image.get_array()[1, 1] == -4
    assert image.get_interpolation() == "nearest"
    plots.draw_erf(ax, field, decades=2.5)
    assert ax.images[1].get_clim() == (-2.5, 0)


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (6, 7)])
def test_the_query_lies_at_the_origin(ax, size):
    field = np.full(size, 1e-3)
    field[size[0] // 2, size[1] // 2] = 1
    plots.draw_erf(ax, field)
    left, right, bottom, top = ax.images[0].get_extent()
    assert (right - left, bottom - top) == size[::-1]  # square pixels of one unit, rows downwards
    assert (int(-top), int(-left)) == (size[0] // 2, size[1] // 2)
    assert ax.get_aspect() == 1


def test_paper_style_is_the_fourth_root_from_yellow_to_green(ax):
    field = np.array([[1.0, 1 / 16], [0.0, 1 / 256]])
    plots.draw_erf(ax, field, style="paper")
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), [[1, 0.5], [0, 0.25]])
    assert image.get_clim() == (0, 1)
    published = mpl.colormaps["RdYlGn"]
    np.testing.assert_allclose(image.to_rgba(np.array([0.0, 1.0]))[:, :3], published([0.5, 1.0])[:, :3], atol=0.01)


def test_a_signed_field_has_zero_in_the_middle(ax):
    plots.draw_signed_erf(ax, np.array([[-2.0, 0.0], [0.5, 1.0]]), untrained=True)
    (image,) = ax.images
    assert image.get_clim() == (-1, 1)
    np.testing.assert_allclose(image.get_array(), [[-1, 0], [0.5, np.sqrt(0.5)]])
    assert np.ptp(image.to_rgba(np.zeros(1))[0, :3]) < 0.01  # without colour
    assert texts(ax) == ["untrained weights"]


@pytest.mark.parametrize("style", ["honest", "paper"])
def test_untrained_weights_are_named_inside_the_picture(ax, style):
    plots.draw_erf(ax, np.eye(64) + 1e-3, style=style)
    assert texts(ax) == []
    plots.draw_erf(ax, np.eye(64) + 1e-3, style=style, untrained=True)
    (label,) = ax.texts
    assert label.get_text() == "untrained weights"
    ax.figure.draw_without_rendering()
    inside, outside = label.get_window_extent(), ax.get_window_extent()
    assert outside.x0 < inside.x0 < inside.x1 < outside.x1
    assert outside.y0 < inside.y0 < inside.y1 < outside.y1
    assert label.get_bbox_patch().get_facecolor()[3] == 1  # opaque, so legible on any field


def test_circles_stand_at_their_radii_and_leave_the_picture_as_large_as_it_was(ax):
    plots.draw_erf(ax, np.eye(65) + 1e-3, radii={0.5: 7.5, 0.9: 31.0, 0.999: 90.0})
    circles = [patch for patch in ax.patches if isinstance(patch, Circle)]
    assert [(circle.center, circle.radius) for circle in circles] == [((0, 0), r) for r in (7.5, 31.0, 90.0)]
    assert texts(ax) == ["50 %", "90 %"]  # the third circle leaves the picture
    assert ax.get_xlim() == (-32.5, 32.5)
    assert ax.get_ylim() == (32.5, -32.5)
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    for text in ax.texts:
        assert frame.y0 < text.get_window_extent().y0 < text.get_window_extent().y1 < frame.y1


@pytest.mark.parametrize(
    ("style", "unit", "first", "last"),
    [
        ("honest", "", "1", "$10^{-4}$"),
        ("honest", "dB", "0", "−80"),
        ("paper", "", "0", "1"),
        ("signed", "", "−1", "1"),
    ],
)
def test_one_scale_serves_all_panels(style, unit, first, last):
    figure = Figure(layout="compressed")
    panels = figure.subplots(1, 3)
    for panel in panels:
        plots.draw_signed_erf(panel, np.eye(8)) if style == "signed" else plots.draw_erf(panel, np.eye(8), style=style)
    bar = plots.draw_colorbar(panels, style=style, unit=unit)
    figure.draw_without_rendering()
    assert len(figure.axes) == 4
    names = [label.get_text() for label in bar.get_yticklabels()]
    assert (names[0], names[-1]) == (first, last)
    low, high = bar.get_ylim()
    assert (bar.get_yticks() >= low - 1e-9).all()
    assert (bar.get_yticks() <= high + 1e-9).all()
    assert bar.get_ylabel() == ("sensitivity / max [dB]" if unit else "sensitivity / max")


def test_profiles_are_drawn_as_they_are_and_told_apart_without_colour(ax):
    fields = {name: np.random.default_rng().random((20, 20)) ** power for name, power in (("a", 1), ("b", 9))}
    profiles = {name: fs.radial_profile(field) for name, field in fields.items()}
    assert plots.draw_radial_profile(ax, profiles, shares=(0.5,)) is ax
    first, second, guide = ax.lines
    np.testing.assert_array_equal(first.get_xdata(), profiles["a"].radius)
    np.testing.assert_array_equal(second.get_ydata(), profiles["b"].share)
    assert first.get_linestyle() != second.get_linestyle()
    assert guide.get_ydata()[0] == 0.5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_nothing_to_draw_is_refused(ax):
    for field in (np.zeros((3, 3)), np.full((3, 3), np.inf)):
        with pytest.raises(ValueError, match="largest absolute value"):
            plots.draw_erf(ax, field)
    with pytest.raises(ValueError, match="draw_signed_erf"):
        plots.draw_erf(ax, np.eye(3), style="jet")
    plots.draw_erf(ax, np.eye(3))
    with pytest.raises(ValueError, match="signed"):
        plots.draw_colorbar(ax, style="jet")


def test_the_paper_style_keeps_text_as_text_and_its_colours_apart():
    style = mpl.rc_params_from_file(PAPER, use_default_template=False)
    assert style["pdf.fonttype"] == 42
    assert style["svg.fonttype"] == "none"
    assert style["figure.constrained_layout.use"] is True
    colours = [mpl.colors.to_rgb(entry["color"]) for entry in style["axes.prop_cycle"]]
    luminance = np.array(colours) @ [0.2126, 0.7152, 0.0722]
    assert len(set(colours)) == len(colours) == 7
    assert luminance.max() < 0.75  # every one shows as a line on white
