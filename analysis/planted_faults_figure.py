"""Where faults were planted in a network and where the tracer found them, one panel for each size of fault."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.field_statistics import Number
from analysis.panels import paper_style
from analysis.planted_faults import Hunt

RIGHT, WRONG = "#0072b2", "#d55e00"
"""Colours of what was named rightly and wrongly (Okabe & Ito's palette)."""


def draw_hunts(ax: Axes, found: Sequence[Hunt], order: Sequence[str]) -> Axes:
    """A dot for each fault: across the stage that it was planted in, up the one that was named, both in `order`; on the
    diagonal where they are one, crosses below the line where none was named."""
    place = {name: number for number, name in enumerate(order)}
    for one in found:
        mark = "x" if one.compared is None else "o"
        up = -2 if one.compared is None else place[one.compared]
        ax.plot([place[one.stage]], [up], mark, color=RIGHT if one.right else WRONG, markersize=3)
    ax.axhline(-1, color="0.7", linewidth=0.5)
    ax.plot([0, len(order) - 1], [0, len(order) - 1], color="0.85", linewidth=0.8, zorder=0)
    ax.set(
        xlim=(-1, len(order)), ylim=(-3, len(order)), xlabel="stage with the fault", ylabel="first stage out of range"
    )
    every = max(1, len(order) // 8)
    names = list(order)[::every]
    ax.set_xticks(range(0, len(order), every), labels=names, rotation=90, fontsize=4.5)
    ax.set_yticks([-2, *range(0, len(order), every)], labels=["none", *names], fontsize=4.5)
    return ax


def hunt_panels(found: Sequence[Hunt], order: Sequence[str], *, width: Number = 7.16) -> Figure:
    """A panel for each size of fault (`draw_hunts`), the smallest first; `order` are the names of the network's stages.

    `width` is in inches. Drawn under `PAPER_STYLE`; saving is the caller's.
    """
    factors = sorted({one.factor for one in found})
    with paper_style():
        figure, grid = plt.subplots(
            1, len(factors), figsize=(width, 0.85 + width / max(len(factors), 3)), squeeze=False, layout="constrained"
        )
        for ax, factor in zip(grid[0], factors, strict=True):
            these = [one for one in found if one.factor == factor]
            draw_hunts(ax, these, order)
            ax.set_title(f"one weight x {factor:g}: {sum(one.right for one in these)} of {len(these)} right")
            ax.label_outer()
        figure.supxlabel(
            "Compared with a sound photograph. Blue: the stage itself was named; orange: another or none. Stages in "
            "the order of the forward pass.",
            fontsize=5.5,
            color="0.35",
        )
    return figure
