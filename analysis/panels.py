"""Receptive fields side by side: the arrangement that the figures and the command line share."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.field import ERF
from analysis.plots import draw_colorbar, draw_erf, draw_signed_erf
from evssm.provenance import written_whole

PAPER_STYLE = "analysis.paper"
"""The style sheet `analysis/paper.mplstyle`, under the name by which matplotlib finds it."""


def erf_panels(
    fields: Mapping[str, ERF], *, style: str = "honest", decades: float = 4, columns: int = 6, width: float = 7.16
) -> Figure:
    """One panel for each named field, on one scale relative to each panel's maximum, with circles at R50 and R90.

    `style` is that of `draw_erf`; fields of the estimator "signed" are drawn with their signs. `width` is in inches. The
    caption below says how the fields were made. Figures are drawn under `PAPER_STYLE`; saving is the caller's.
    """
    first = next(iter(fields.values()))
    signed = first.provenance["estimator"] == "signed"
    rows = ceil(len(fields) / columns)
    columns = min(len(fields), columns)
    h, w = first.map.shape
    panel = (width - 0.9) / max(columns, 2)
    with plt.style.context(PAPER_STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(0.9 + panel * columns, (panel * h / w + 0.45) * rows + 0.35), squeeze=False
        )
        panels = list(grid.flat)
        for ax, (name, field) in zip(panels, fields.items(), strict=False):
            radii = {share: field.radius(share) for share in (0.5, 0.9)}
            if signed:
                draw_signed_erf(ax, field.map, radii=radii, untrained=field.untrained)
            else:
                draw_erf(ax, field.map, decades=decades, style=style, radii=radii, untrained=field.untrained)
            ax.set_title(f"{name}\n$R_{{50}}$ {radii[0.5]:.1f}, $R_{{90}}$ {radii[0.9]:.1f} px")
            ax.label_outer()
        for ax in panels[len(fields) :]:
            ax.remove()
        draw_colorbar(panels[: len(fields)], style="signed" if signed else style)
        figure.supxlabel(caption(fields), fontsize=6, color="0.35")
    return figure


def caption(fields: Mapping[str, ERF]) -> str:
    """How the fields were made, in one line: estimator, residual, size, images, queries and whole map or windows."""
    made = next(iter(fields.values())).provenance
    h, w = made["size"]
    windows = sorted({tuple(field.provenance["windows"]) for field in fields.values()})
    mode = "whole map" if windows == [()] else "windows as stated"
    plural = "s" * (len(made["images"]) > 1), "s" * (len(made["queries"]) > 1)
    residual = {"exclude": "input left out", "include": "input included"}.get(made["residual"], made["residual"])
    return (
        f"{made['estimator']} of d output / d input, {residual}; {h} x {w} px, {len(made['images'])} photograph{plural[0]}, "
        f"{len(made['queries'])} query pixel{plural[1]} each; {mode}; circles hold 50 % and 90 % of the mass"
    )


def save_figure(figure: Figure, stem: str | Path, *, command: str) -> list[Path]:
    """The PNG and PDF that now hold `figure`, both with the command that made it inside; whole or not at all."""
    written = []
    with plt.style.context(PAPER_STYLE):
        for suffix, about in ((".png", {"Software": None, "evssm:command": command}), (".pdf", _pdf_about(command))):
            path = Path(stem).with_suffix(suffix)
            with written_whole(path) as part:
                figure.savefig(part, format=suffix[1:], metadata=about)
            written.append(path)
    plt.close(figure)
    return written


def _pdf_about(command: str) -> dict[str, Any]:
    return {"Subject": command, "CreationDate": None}  # without a date, a rerun gives the same bytes
