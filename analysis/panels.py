"""Receptive fields side by side: the arrangement that the figures and the command line share."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.field import ERF
from analysis.plots import draw_colorbar, draw_erf, draw_signed_erf
from analysis.sensitivity import NONE_ADDED
from evssm.provenance import written_whole

PAPER_STYLE = "analysis.paper"
"""The style sheet `analysis/paper.mplstyle`, under the name by which matplotlib finds it."""

FOR_PAGES: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.02, "dpi": 200}
"""How a page wants its pictures: without margins, and fields in the dots of a screen instead of a printer's."""


@contextmanager
def paper_style() -> Iterator[None]:
    """While the block runs, figures are drawn under `PAPER_STYLE`.

    The first figure of a notebook switches matplotlib's interactive mode on. A bare style context would take that back
    with the rest, and the notebook would show no later figure.
    """
    interactive = mpl.is_interactive()
    try:
        with plt.style.context(PAPER_STYLE):
            try:
                yield
            finally:
                interactive = mpl.is_interactive()
    finally:
        mpl.interactive(interactive)


def erf_panels(
    fields: Mapping[str, ERF],
    *,
    style: str = "honest",
    decades: float = 4,
    columns: int = 6,
    width: float = 7.16,
    notes: Mapping[str, str] | None = None,
    captioned: bool = True,
) -> Figure:
    """One panel for each named field, each relative to its own maximum on one scale, with circles at R50 and R90.

    `style` is that of `draw_erf`, its "honest" scale in dB; fields of the estimator "signed" are drawn with their
    signs. `width` is in inches. The caption below says how the fields were made, and `notes` what was found about each
    of them; both are left out where `captioned` is false, for pages that print the caption themselves. Figures are
    drawn under `PAPER_STYLE`; saving is the caller's.
    """
    first = next(iter(fields.values()))
    signed = first.provenance["estimator"] == "signed"
    columns = min(len(fields), columns)
    rows = ceil(len(fields) / columns)
    h, w = first.map.shape
    edge = (width - 0.9) / max(columns, 3)
    size = (0.9 + edge * columns, (edge * h / w + 0.35) * rows + 0.3)
    said = [caption(fields), *(f"{name}: {note}" for name, note in (notes or {}).items())]
    text = "\n".join(fill(line, int(size[0] * 24)) for line in said)
    if notes:
        size = (size[0], size[1] + 0.1 * (text.count("\n") + 1))
    with paper_style():
        figure, grid = plt.subplots(
            rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="compressed"
        )
        panels = list(grid.flat)
        for ax, (name, field) in zip(panels, fields.items(), strict=False):
            radii = {share: field.radius(share) for share in (0.5, 0.9)}
            if signed:
                draw_signed_erf(ax, field.map, radii=radii, untrained=field.untrained)
            else:
                draw_erf(ax, field.map, decades=decades, style=style, radii=radii, untrained=field.untrained)
            ax.set_title(name)
            ax.set_xlabel(f"$R_{{50}}$ {radii[0.5]:.0f}, $R_{{90}}$ {radii[0.9]:.0f} px")
        for ax in panels:
            ax.set_ylabel("y [px]" if ax in grid[:, 0] else "")
        for ax in panels[len(fields) :]:
            ax.remove()
        unit = "dB" if style == "honest" and not signed else ""
        draw_colorbar(panels[: len(fields)], style="signed" if signed else style, unit=unit)
        if captioned:
            figure.supxlabel(text, fontsize=5.5, color="0.35")
    return figure


def caption(fields: Mapping[str, ERF]) -> str:
    """How the fields were made: weights, estimator, residual, size, images, queries and whole map or windows."""
    made = next(iter(fields.values())).provenance
    h, w = made["size"]
    windows = sorted({tuple(field.provenance["windows"]) for field in fields.values()})
    mode = "whole map" if windows == [()] else "windows as stated"
    kinds = sorted({field.provenance["residual"] for field in fields.values()})
    residual = ", ".join({"exclude": "input left out", "include": "input included"}.get(kind, kind) for kind in kinds)
    if kinds == ["exclude", NONE_ADDED]:
        residual = "input left out where the network adds it"
    return (
        f"{weights_note(field.provenance for field in fields.values())}"
        f"{made['estimator']} of d output / d input, {residual}; {h} x {w} px, {_count(made['images'], 'image')}, "
        f"{_count(made['queries'], 'query pixel')} each; {mode}; circles hold 50 % and 90 % of the mass"
    )


def weights_note(made: Iterable[Mapping[str, Any]]) -> str:
    """Whether networks are small ones, and what the trained among them were trained on, as far as that is known.

    `made` are provenances of results, one per network: `network_stamp`, and "pooled" where seeds were pooled. Ends in
    "; ", or is empty where there is nothing to say.
    """
    made = list(made)
    kind = "compact networks" if all(str(one.get("network", "")).endswith("-compact") for one in made) else "networks"
    trained = [one for one in made if (one.get("provenance") or {}).get("steps")]
    if not trained:
        return "" if kind == "networks" else f"{kind}; "
    if len(trained) < len(made):  # the rest says "untrained" inside its panel, or was trained on nobody knows what
        kind = ", ".join(sorted({str(one["network"]) for one in trained}))
    steps = ", ".join(map(str, sorted({one["provenance"]["steps"] for one in trained})))
    data = "; ".join(sorted({str(one["provenance"]["data"]).partition(", data seed")[0] for one in trained}))
    counts = sorted({len(one.get("pooled", [0])) for one in trained})
    seeds = f"{' or '.join(map(str, counts))} seed{'s' * (counts[-1] > 1)}{' each' * (len(counts) > 1)}"
    return f"{kind}, {steps} training steps on {data}, {seeds}; "


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def save_figure(
    figure: Figure,
    stem: str | Path,
    *,
    command: str,
    made: Mapping[str, Any] | None = None,
    formats: Sequence[str] = ("png", "pdf"),
) -> list[Path]:
    """The files that now hold `figure`, each with the command that made it inside; whole or not at all.

    `made` is what else they say of themselves, as JSON: weights, images, versions. `formats` are "png", "pdf" and
    "svg"; the last is for pages: without margins, and with text as outlines, for machines without the fonts.
    """
    about = _about(command, json.dumps(made, sort_keys=True) if made else "")
    if unknown := sorted(set(formats) - set(about)):
        raise ValueError(f"no format {', '.join(unknown)} of a figure; choose from {', '.join(about)}")
    written = []
    with paper_style(), mpl.rc_context({"svg.fonttype": "path"}):
        for kind in formats:
            path = Path(stem).with_suffix(f".{kind}")
            with written_whole(path) as part:
                figure.savefig(part, format=kind, metadata=about[kind], **(FOR_PAGES if kind == "svg" else {}))
            written.append(path)
    plt.close(figure)
    return written


def _about(command: str, made: str) -> dict[str, dict[str, Any]]:
    """What each format says of itself; without a date, so that a rerun gives the same bytes."""
    png = {"Software": None, "evssm:command": command, **({"evssm:made": made} if made else {})}
    pdf = {"Subject": command, "CreationDate": None, **({"Keywords": made} if made else {})}
    svg = {"Date": None, "Description": f"{command}\n{made}".strip()}
    return {"png": png, "pdf": pdf, "svg": svg}
