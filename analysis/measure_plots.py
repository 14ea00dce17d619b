"""Drawing functions of `evssm measure`: arrays into axes, nothing computed and nothing saved."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

Number = float | int
Numbers = Sequence[Number]


def draw_growth(
    ax: Axes,
    names: Sequence[str],
    curves: Mapping[str, Numbers],
    *,
    band: tuple[Numbers, Numbers] | None = None,
    marked: Sequence[bool] | None = None,
    label: str = "px",
) -> Axes:
    """Named curves over the blocks of a network, in order; dots on the first curve where a block is `marked`.

    `band` is drawn around the first curve. Names stand below, upright where there are few.
    """
    at = np.arange(len(names))
    for index, (name, values) in enumerate(curves.items()):
        (line,) = ax.plot(at, values, label=name, linestyle=("-", "--", ":", "-.")[index % 4])
        if index == 0 and band is not None:
            low, high = (np.asarray(edge) for edge in band)
            ax.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if index == 0 and marked is not None:
            chosen = np.flatnonzero(marked)
            ax.plot(chosen, np.asarray(values)[chosen], "o", color=line.get_color(), label="scans")
    ax.set_xticks(at, names, rotation=90, fontsize=min(6.5, 260 / max(len(names), 1)))
    ax.margins(x=0.01)
    ax.set_ylim(bottom=0)
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left")
    return ax


def draw_shares(
    ax: Axes,
    labels: Sequence[str],
    groups: Mapping[str, Numbers],
    intervals: Mapping[str, Sequence[tuple[Number, Number]]] | None = None,
) -> Axes:
    """Bars of shares, a group of bars for each label and a colour for each named group, with whiskers.

    Intervals that are not-a-number have no whisker.
    """
    height = 0.8 / max(len(groups), 1)
    for index, (name, values) in enumerate(groups.items()):
        at = np.arange(len(labels)) + (index - (len(groups) - 1) / 2) * height
        ax.barh(at, values, height=0.9 * height, label=name, color=f"C{index}")
        for y, (low, high) in zip(at, (intervals or {}).get(name, ()), strict=False):
            if np.isfinite([low, high]).all():
                ax.plot([low, high], [y, y], color="black", linewidth=0.8)
    ax.set_yticks(np.arange(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5 + 0.35 * len(groups), -0.5)  # room for the legend below the last bars
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right")
    return ax


def draw_changes(ax: Axes, labels: Sequence[str], values: Numbers, *, strong: Sequence[bool] | None = None) -> Axes:
    """Bars of changes from a line at zero, from the first label down; those that are not `strong` are pale."""
    at = np.arange(len(labels))
    strong = [True] * len(labels) if strong is None else strong
    ax.barh(at, values, height=0.7, color=["C0" if one else "C5" for one in strong])
    ax.axvline(0, color="0.3", linewidth=0.6)
    ax.set_yticks(at, labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def draw_map(
    ax: Axes, values: np.ndarray, *, low: Number | None = None, high: Number | None = None, cmap: str = "magma"
) -> Axes:
    """A map as the image lies, without axes; `low` and `high` are the ends of its colours. Infinite values are grey."""
    ax.set_facecolor("0.6")  # seen where nothing is drawn
    ax.imshow(np.ma.masked_invalid(values), vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def draw_difference(ax: Axes, values: np.ndarray, *, peak: Number) -> Axes:
    """A difference of two maps, red above zero and blue below, from -peak to peak; axes in px from the query.

    Colours go with the root of its size, so that faint parts are seen.
    """
    h, w = values.shape
    top, left = -(h // 2) - 0.5, -(w // 2) - 0.5
    extent = (left, left + w, top + h, top)
    ax.imshow(values, cmap="RdBu_r", norm=_signed_root(peak), extent=extent, interpolation="nearest")
    ax.set(xlabel="x [px]", ylabel="y [px]")
    return ax


def draw_effects(
    ax: Axes, values: np.ndarray, shown: np.ndarray, box: tuple[int, int, int, int], *, peak: Number
) -> Axes:
    """Effects as the image lies, red above zero and blue below as in `draw_difference`; grey where they are not
    `shown`, and `box`, (row, column, height, width), outlined."""
    draw_map(ax, np.where(shown, values, np.nan))
    ax.images[0].set(cmap="RdBu_r", norm=_signed_root(peak))
    top, left, height, width = box
    ax.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="black", linewidth=1))
    return ax


def _signed_root(peak: Number) -> FuncNorm:
    """Colours by the root of a number's size, from -peak to peak."""
    scale = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x))
    return FuncNorm(scale, -peak, peak)
