"""Receptive fields side by side, read back from the figure and from the files that it is saved as."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from analysis.field import ERF
from analysis.panels import caption, erf_panels, save_figure, weights_note
from analysis.sensitivity import NONE_ADDED


def field(**changes):
    maps = np.random.default_rng().random((3, 8, 10)) + 0.1
    mass = maps.sum((1, 2))
    made = {
        "estimator": "rss",
        "residual": "exclude",
        "size": [8, 10],
        "images": ["a", "b", "c"],
        "queries": [[4, 5]],
        "windows": [],
        "trained": True,
        "network": "evssm-compact",
        "provenance": {"steps": 800, "data": "photographs, data seed 0"},
    }
    return ERF(maps / mass[:, None, None], mass, np.ones((8, 10)), {**made, **changes})


def words(figure):
    figure.draw_without_rendering()
    return [text.get_text() for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]


def test_a_figure_has_a_panel_per_field_one_scale_in_decibels_and_how_it_was_made():
    figure = erf_panels({"one": field(), "two": field()})
    said = words(figure)
    assert {"one", "two", "sensitivity / max [dB]"} <= set(said)
    assert len(figure.axes) == 3
    below = " ".join(figure.get_supxlabel().split())
    assert "compact networks, 800 training steps on photographs, 1 seed; rss" in below
    assert "8 x 10 px, 3 images, 1 query pixel each; whole map" in below
    plt.close(figure)


def test_the_caption_tells_what_was_left_out_where_networks_differ():
    added, none = field(), field()
    none.provenance["residual"] = NONE_ADDED
    assert "d input, input left out;" in caption({"one": added})
    assert "d input, none: the network adds no input to its output;" in caption({"one": none})
    assert "d input, input left out where the network adds it;" in caption({"one": none, "two": added})


def test_a_page_prints_the_caption_itself():
    figure = erf_panels({"one": field()}, captioned=False)
    assert figure.get_supxlabel() == ""
    plt.close(figure)


def test_the_published_style_keeps_its_own_scale():
    figure = erf_panels({"one": field()}, style="paper")
    assert "sensitivity / max" in words(figure)
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    plt.close(figure)


def test_untrained_weights_are_named_in_their_panel_alone():
    figure = erf_panels({"one": field(trained=False, provenance={}), "two": field()})
    badges = [[text.get_text() for text in ax.texts] for ax in figure.axes[:2]]
    assert "untrained weights" in badges[0]
    assert "untrained weights" not in badges[1]
    plt.close(figure)


def test_the_note_on_weights_says_what_is_known():
    made = {"network": "nafnet-compact", "provenance": {"steps": 5, "data": "noise, data seed 3"}}
    other = {"network": "evssm-compact", "provenance": {"steps": 7, "data": "noise"}, "pooled": ["a", "b"]}
    assert weights_note([made, other]) == "compact networks, 5, 7 training steps on noise, 1 or 2 seeds each; "
    assert weights_note([{"network": "evssm-compact"}]) == "compact networks; "
    assert weights_note([{"network": "mine"}, made]).startswith("nafnet-compact, 5 training steps")
    assert weights_note([{"network": "mine"}]) == ""


def test_a_format_that_nobody_knows_is_refused(tmp_path):
    figure = plt.figure()
    with pytest.raises(ValueError, match="no format gif of a figure; choose from png, pdf, svg"):
        save_figure(figure, tmp_path / "x", command="", formats=("png", "gif"))
    assert not list(tmp_path.iterdir())
    plt.close(figure)
