"""Drawing what checks of a map found: curves into axes, nothing computed, nothing saved."""

from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.deletion import ORDERS
from analysis.plots import DASHES

COLOURS = {"map": "C0", "nearest": "0.35", "random": "0.65"}


def draw_orders(
    ax: Axes,
    counts: Int[np.ndarray, " k"],
    deletion: Float[np.ndarray, "n 3 k"],
    insertion: Float[np.ndarray, "n 3 k"],
) -> Axes:
    """The mean of deletion and insertion over queries, by number of pixels: a line per order, high is good."""
    height = (deletion + insertion).mean(axis=0) / 2
    for index, name in enumerate(ORDERS):
        label = {"map": "the map", "nearest": "nearest first", "random": "random"}[name]
        ax.plot(counts, height[index], color=COLOURS[name], linestyle=DASHES[index], label=label)
    ax.set(xscale="log", xlim=(1, counts[-1]), ylim=(0, 1.08), xlabel="pixels replaced or put in")
    ax.set_ylabel("change of the output")
    return _finished(ax, "upper left")


def draw_likeness(ax: Axes, shares: Float[np.ndarray, " depth"], steps: dict[str, Float[np.ndarray, " depth"]]) -> Axes:
    """Likeness to the map of the trained network by share of modules redrawn, the last first; a line per measure."""
    place = np.concatenate([[0], shares])
    for index, (name, values) in enumerate(steps.items()):
        ax.plot(place, np.concatenate([[1], values]), linestyle=DASHES[index], marker=".", markersize=3, label=name)
    ax.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    lowest = min(0, *(values.min() for values in steps.values()))
    ax.set(xlim=(0, 1), ylim=(lowest - 0.16 * ceil(len(steps) / 2), 1.05))  # room for the legend below the curves
    ax.set(xlabel="share of modules redrawn, output first", ylabel="likeness of the map")
    return _finished(ax, "lower left", columns=2)


def draw_convergence(
    ax: Axes,
    counts: Int[np.ndarray, " k"],
    middle: Float[np.ndarray, " k"],
    low: Float[np.ndarray, " k"],
    high: Float[np.ndarray, " k"],
    *,
    settled: int | None,
    label: str,
) -> Axes:
    """A statistic with its 95 % interval by number of images; a line where it has settled."""
    ax.fill_between(counts, low, high, color="C0", alpha=0.25, linewidth=0, label="95 % interval")
    ax.plot(counts, middle, color="C0", marker=".", markersize=3)
    if settled is not None:
        ax.axvline(settled, color="0.35", linestyle=DASHES[1], linewidth=0.7, label=f"settled with {settled}")
    ax.set(xlim=(1, counts[-1]), ylim=(0, 1.1 * high.max()), xlabel="images pooled", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(ax, "lower right")


def _finished(ax: Axes, corner: Any, *, columns: int = 1) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc=corner, fontsize=5, frameon=False, ncols=columns, columnspacing=1)
    return ax
