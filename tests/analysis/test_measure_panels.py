"""Figures of what is measured: untrained weights said inside, and artists that hold the numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from analysis.measure_plots import draw_changes, draw_effects, draw_growth, draw_map, draw_shares
from analysis.measures import MEASURES, Question
from evssm import build


@pytest.fixture(scope="module")
def asked():
    images, nets = list(torch.rand(1, 3, 16, 32)), []
    for local in ((8, 4, 2), False):
        torch.manual_seed(0)
        nets.append(build("evssm-compact", width=8, depths=(2, 1, 1), local=local))
    return nets[0], Question(images, images, whole=nets[1], length=4.0)


def words(figure):
    return [text.get_text() for text in figure.findobj(plt.Text)]


@pytest.mark.parametrize("what", [name for name in MEASURES if name not in ("knock-outs", "alignment")])
def test_every_picture_says_that_weights_are_untrained(what, asked):
    measure = MEASURES[what]
    found = measure.ask(*asked)
    assert all(len(row) == len(found.rows()[0]) for row in found.rows())
    said = words(measure.draw(found))
    assert any("untrained weights" in text for text in said if "px" not in text)  # inside, and not in the caption alone
    assert any("16 x 32 px" in text for text in said)
    trained = measure.draw(found_trained(found))
    assert not any("untrained" in text for text in words(trained))
    plt.close("all")


def found_trained(found):
    """The same numbers as if somebody had trained the network."""
    fields = [getattr(found, name) for name in ("whole", "local") if hasattr(found, name)]
    fields += list(getattr(found, "fields", {}).values())
    for made in (found.provenance, *(field.provenance for field in fields)):
        made["trained"] = True
    return found


def test_bars_and_curves_hold_the_numbers():
    _, (a, b, c) = plt.subplots(1, 3)
    draw_changes(a, ["x", "y"], [1.0, -2.0], strong=[True, False])
    assert [bar.get_width() for bar in a.patches] == [1.0, -2.0]
    draw_shares(b, ["u"], {"p": [0.25], "q": [0.5]}, {"p": [(0.2, 0.3)], "q": [(np.nan, np.nan)]})
    assert [bar.get_width() for bar in b.patches] == [0.25, 0.5]
    assert len(b.lines) == 1  # no whisker without an interval
    draw_growth(c, ["k", "l"], {"R": [1.0, 3.0]}, band=([0.5, 2], [2, 4]), marked=[False, True])
    assert c.lines[0].get_ydata().tolist() == [1, 3]
    assert c.lines[1].get_xdata().tolist() == [1]
    plt.close("all")


def test_effects_are_shown_where_they_are_decided_and_the_region_outlined():
    _, ax = plt.subplots()
    values, shown = np.array([[2.0, -1.0, 5.0]]), np.array([[True, True, False]])
    image = draw_effects(ax, values, shown, (0, 1, 1, 2), peak=2.0).images[0]
    assert image.get_array().mask.tolist() == [[False, False, True]]
    assert image.norm(np.array([-2.0, 0.0, 0.5, 2.0])).tolist() == pytest.approx([0, 0.5, 0.75, 1])
    (outline,) = ax.patches
    assert outline.get_bbox().bounds == (0.5, -0.5, 2, 1)
    plt.close("all")


def test_what_is_not_finite_is_grey():
    _, ax = plt.subplots()
    image = draw_map(ax, np.array([[1.0, np.inf]])).images[0]
    assert image.get_array().mask.tolist() == [[False, True]]
    plt.close("all")
