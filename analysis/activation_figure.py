"""Fig. 6 of the EVSSM paper: a query pixel and what every module gathers for it, one network below the other."""

from collections.abc import Mapping
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from analysis.activation_plots import draw_activation, draw_query, draw_scale
from analysis.field_statistics import Number
from analysis.module_rows import LEVELS
from analysis.panels import paper_style, weights_note
from analysis.row_map import REDUCTIONS, ScanRow

SCALES = ("each", "shared")
"""Whose largest value is 1: every map's own, or that of all maps of a network."""

DOTS = 256
"""Dots along a panel, below which a line of one pixel would be lost."""

LINE = 0.15
"""Inches of a line of text above or below a panel."""


def activation_panels(
    networks: Mapping[str, Mapping[str, ScanRow]],
    image: Float[Tensor, "3 h w"],
    *,
    scale: str = "each",
    style: str | None = None,
    decades: Number = 4,
    columns: int = 7,
    width: Number = 7.16,
    notes: Mapping[str, str] | None = None,
    captioned: bool = True,
) -> Figure:
    """For each named network the image with a red star, then one map per module, what its scan can reach outlined.

    `scale` is "each", every map relative to its own largest value, which stands below it, or "shared", relative to the
    largest of the network. `style` is that of `draw_activation`; by default "signed" for maps that keep their sign,
    else "log" over `decades`. `width` is in inches. The caption says weights, level, reduction, scale and mode, and
    `notes` what was found about each network's maps; `captioned=False` leaves both to the page around the figure.
    Drawn under `PAPER_STYLE`; saving is the caller's.
    """
    if scale not in SCALES:
        raise ValueError(f'no scale "{scale}"; choose from {", ".join(SCALES)}')
    rows = [row for of_one in networks.values() for row in of_one.values()]
    if not rows:
        raise ValueError("no maps to draw; choose stages that scan")
    style = style or ("signed" if rows[0].reduction == "signed" else "log")
    picture = image.detach().cpu().float().permute(1, 2, 0).numpy()
    h, w = picture.shape[:2]
    longest = 1 + max(len(of_one) for of_one in networks.values())
    columns = min(columns, max(longest, 3))
    cell, bar = (width - 0.65) / columns, 0.65
    panel = (cell - 0.06, (cell - 0.06) * h / w)
    said = [caption(rows, scale, style, decades), *(f"{name}: {note}" for name, note in (notes or {}).items())]
    text = "\n".join(fill(line, int(width * 23.5)) for line in said)
    lines = text.count("\n") + 1 if captioned else 0
    heights = {name: ceil((1 + len(of_one)) / columns) * (panel[1] + 2.1 * LINE) for name, of_one in networks.items()}
    height = sum(heights.values()) + 1.2 * LINE * len(networks) + LINE * (0.75 * lines + 0.7)
    with paper_style():
        figure = plt.figure(figsize=(width, height))
        figure.set_layout_engine("none")  # panels are placed by hand; from now on, whatever style it is saved in

        def place(left: float, top: float, size: tuple[float, float]) -> Any:
            return figure.add_axes((left / width, 1 - (top + size[1]) / height, size[0] / width, size[1] / height))

        top, maps = 0.0, []
        for name, of_one in networks.items():
            figure.text(0.06 / width, 1 - (top + 0.2 * LINE) / height, name, va="top", fontsize=7.5, fontweight="bold")
            top += 1.2 * LINE
            shared = max(float(np.abs(row.map).max()) for row in of_one.values())
            for index, row in enumerate([None, *of_one.values()]):
                down, across = divmod(index, columns)
                corner = (0.06 + across * cell, top + LINE + down * (panel[1] + 2.1 * LINE))
                ax = place(*corner, panel)
                if row is None:
                    query = next(iter(of_one.values())).query
                    draw_query(ax, picture, query).set_title("input", fontsize=6)
                    ax.set_xlabel(f"query {query[0]}, {query[1]}", fontsize=5.5)
                    continue
                _draw(ax, row, shared if scale == "shared" else None, style, decades)
                maps.append(ax)
            top += heights[name]
        draw_scale(
            place(width - bar + 0.12, 2.2 * LINE, (0.1, max(0.6, min(panel[1] * 2, height - 5 * LINE)))),
            maps,
            style=style,
            label=f"relative to {'its own' if scale == 'each' else 'the'} max",
        )
        if captioned:
            figure.text(0.06 / width, 0.35 * LINE / height, text, va="bottom", fontsize=5.5, color="0.35")
    return figure


def caption(rows: list[ScanRow], scale: str, style: str, decades: Number) -> str:
    """How the maps were made, in one line."""
    row = rows[0]
    h, w = row.size
    networks = {row.provenance["weights"]: row.provenance for row in rows}
    how = {"log": f"log scale, {decades:g} decades", "linear": "linear scale", "signed": "signed root scale"}[style]
    whose = "each map relative to its own maximum, given below it" if scale == "each" else "maps of a network alike"
    windows = sorted({row.provenance["window"] for row in rows} - {None}, reverse=True)
    pools = {_pool(row) for row in rows}
    dots = f", a dot the largest of up to {max(pools)} x {max(pools)} map px" if max(pools) > 1 else ""
    mode = f"windows of {', '.join(map(str, windows))} feature px" if windows else "whole map, no windows"
    own = {True: ", the block's own map counted", False: ", the block's own map left out", None: ""}
    output = "its output" if row.kind == "row" else "every pixel's own output"
    along = f" in the direction of {output}{own[row.provenance['residual']]}" if row.level in ("A6", "A7") else ""
    order = "the order of the scan" + (" and its windows" if windows else "")
    what = "gathers (row of the implicit attention)" if row.kind == "row" else "is sent to (column)"
    return (
        f"What the starred pixel {what} in each module. Level {row.level}: {LEVELS[row.level]}{along}; "
        f"{REDUCTIONS[row.reduction]}; {how}{dots}, {whose}; "
        f"grey beyond the dashes: ruled out by {order}; {weights_note(networks.values())}{h} x {w} px, {mode}."
    )


def _pool(row: ScanRow) -> int:
    """Pixels of a map, squared, that share a dot of its panel."""
    return max(1, max(row.map.shape) // DOTS)


def _draw(ax: Any, row: ScanRow, peak: float | None, style: str, decades: Number) -> None:
    draw_activation(
        ax,
        row.map,
        row.cell,
        stride=row.stride,
        size=row.size,
        support=row.support,
        peak=peak,
        style=style,
        decades=decades,
        pool=_pool(row),
        untrained=row.untrained,
    )
    ax.set_title(f"{row.stage.removesuffix('.mixer')} (1/{row.stride})", fontsize=6)
    ax.set_xlabel(f"max {np.abs(row.map).max():.1e}", fontsize=5.5)
