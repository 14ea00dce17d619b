"""Colours that stand for something are told apart, and scales keep their order, under every common colour blindness."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from analysis import plots
from analysis.ablation_panel import AGAINST, SHOWN, UNDECIDED

PAPER = Path(plots.__file__).with_name("paper.mplstyle")

SEEN = {
    "all cones": np.eye(3),
    "no L cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no M cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no S cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""How linear RGB looks to people without one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1."""

APART = 10
"""CIEDE2000 between two colours below which they are mistaken for each other in thin lines and small dots."""


def seen(colours, by):
    """CIELAB of colours, as such eyes have them."""
    srgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SEEN[by]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)[None])[0]


def least_difference(colours, by):
    lab = seen(colours, by)
    return min(float(deltaE_ciede2000(a, b)) for i, a in enumerate(lab) for b in lab[:i])


def cycle():
    style = mpl.rc_params_from_file(PAPER, use_default_template=False)
    return [entry["color"] for entry in style["axes.prop_cycle"]]


@pytest.mark.parametrize("by", SEEN)
def test_lines_of_one_figure_are_told_apart(by):
    assert least_difference(cycle(), by) > APART


@pytest.mark.parametrize("by", SEEN)
def test_verdicts_are_told_apart(by):
    assert least_difference([SHOWN, UNDECIDED, AGAINST], by) > 2 * APART


@pytest.mark.parametrize("by", SEEN)
@pytest.mark.parametrize(("style", "sign"), [("honest", 1), ("paper", -1)])
def test_a_stronger_pixel_never_looks_like_a_weaker_one(style, sign, by):
    ax = plots.draw_erf(mpl.figure.Figure().add_subplot(), np.eye(4), style=style)
    lightness = seen(ax.images[0].cmap(np.linspace(0, 1, 64)), by)[:, 0]
    assert (sign * np.diff(lightness) > 0).all()
    assert abs(lightness[-1] - lightness[0]) > 50


def test_the_check_fails_where_it_should():
    assert least_difference(["tab:green", "tab:red"], "all cones") > 4 * APART
    assert least_difference(["tab:green", "tab:red"], "no M cones") < APART
    lightness = seen(mpl.colormaps["RdYlGn"](np.linspace(0, 1, 64)), "all cones")[:, 0]
    assert not (np.diff(lightness) > 0).all()
    assert not (np.diff(lightness) < 0).all()
