"""What pictures of attributions and traces show, read back from their artists."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from analysis.artefact_figure import artefact_panels, draw_first, draw_size
from analysis.artefacts import trace
from analysis.attribution import Attribution
from analysis.attribution_figure import attribution_panels, draw_attribution, draw_region
from analysis.attributions import local_attribution
from evssm import build, edit


@pytest.fixture(autouse=True)
def _closed():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def test_signs_are_kept_and_the_largest_is_one(ax):
    field = np.array([[0.0, 4.0], [-1.0, 0.0]])
    (image,) = draw_attribution(ax, field, (0, 1, 1, 1)).images
    assert image.get_clim() == (-1, 1)
    np.testing.assert_allclose(image.get_array(), [[0, 1], [-0.5, 0]])
    (region,) = ax.patches
    assert (region.get_x(), region.get_y(), region.get_width(), region.get_height()) == (0.5, -0.5, 1, 1)


def test_a_coarse_map_covers_the_image_and_its_padding_is_cut_off(ax):
    draw_attribution(ax, np.ones((3, 3)), stride=4, size=(10, 11))
    assert ax.images[0].get_extent() == [-0.5, 11.5, 11.5, -0.5]
    assert ax.get_xlim() == (-0.5, 10.5)
    assert ax.get_ylim() == (9.5, -0.5)


def test_maps_of_zeros_are_shown_and_broken_ones_refused(ax):
    assert not draw_attribution(ax, np.zeros((4, 4))).images[0].get_array().any()
    with pytest.raises(ValueError, match="not finite"):
        draw_attribution(ax, np.full((4, 4), np.nan))


def test_the_region_and_the_cut_are_outlined(ax):
    draw_region(ax, np.full((9, 9, 3), 2.0), (3, 4, 2, 1), cut=(1, 2, 6, 7))
    cut, region = ax.patches
    assert (cut.get_x(), cut.get_y(), cut.get_width(), cut.get_height()) == (1.5, 0.5, 7, 6)
    assert (region.get_x(), region.get_y()) == (3.5, 2.5)
    assert ax.images[0].get_array().max() == 1


def test_panels_show_every_method_with_its_gap_and_say_that_weights_are_untrained():
    net, x = build("mimo-unet-compact"), torch.rand(1, 3, 32, 32)
    methods = ("lam", "gradient_x_input", "occlusion")
    found = {m: local_attribution(net, x, (8, 8, 12, 12), method=m, steps=2, window=16) for m in methods}
    figure = attribution_panels({"mine": found}, x[0], corner=(32, 0), whole=torch.rand(3, 64, 64))
    told = words(figure)
    assert told.count("untrained weights") == 3
    assert told.count("gap") >= 3
    for part in ("LAM: from a blur of 1.2 px, 2 steps", "squares of 16 px", "32 x 32 px", "mine", "image"):
        assert part in told
    trained = {
        m: Attribution(a.per_channel, m, a.box, 1.0, 1.0, {**a.provenance, "trained": True}) for m, a in found.items()
    }
    figure = attribution_panels({"mine": trained}, x[0])
    assert "untrained" not in words(figure)
    assert len([axes for axes in figure.axes if axes.images]) == 1 + 3


def test_the_first_stage_is_coloured_and_the_rest_is_grey(ax):
    first = np.array([[-1, 0], [3, -1]])
    (image,) = draw_first(ax, first, 5, size=(12, 16)).images
    assert np.ma.getmaskarray(image.get_array()).tolist() == [[True, False], [False, True]]
    assert image.get_clim() == (0, 4)
    assert ax.get_xlim() == (-0.5, 15.5)


def test_a_size_at_its_limit_is_white(ax):
    (image,) = draw_size(ax, np.array([[1.0, 10.0], [np.nan, 0.1]]), 1.0, size=(16, 16)).images
    np.testing.assert_allclose(image.get_array().filled(9), [[0, 1], [9, -1]])


def test_the_panels_of_a_trace_name_the_first_stage_and_untrained_weights():
    net, x = build("evssm-compact", local=(24, 16, 8)), torch.rand(1, 3, 40, 56)
    figure = artefact_panels(trace(net, x, states=False), x[0])
    assert "No stage is out of range" in words(figure)
    assert "windows of 24, 16, 8 feature px" in words(figure)
    assert "Strongest window seam" in words(figure)

    def spot(y):
        y = y.clone()
        y[..., 3, 5] *= 1e5
        return y

    with edit(net, {"encoder.0.1": spot}):
        found = trace(net, x, states=False)
    told = words(artefact_panels(found, x[0]))
    assert "First out of range: encoder.0.1" in told
    assert "untrained weights" in told


def test_a_network_without_scans_has_panels_too():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    x = torch.rand(1, 3, 16, 20)
    figure = artefact_panels(trace(net, x), x[0])
    assert "untrained" not in words(figure)
    assert "wipe" not in " ".join(axes.get_ylabel() for axes in figure.axes)
