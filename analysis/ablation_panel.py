"""Published and own effects of an ablation side by side: which way each points, each on a scale of its own."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ablation_table import Measured
from analysis.ablations import Ablation, published
from analysis.panels import paper_style
from analysis.tasks import MOTION
from analysis.verdicts import Verdict

SHOWN, UNDECIDED, AGAINST = "#0072b2", "0.55", "#d55e00"
"""Colours of effects that agree with the claim, that are neither, and that contradict it (Okabe & Ito's palette)."""


def draw_effects(
    ax: Axes,
    labels: Sequence[str],
    effects: Sequence[float],
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Axes:
    """Dots for differences, one above the other from the first label down, with a line at zero.

    With `intervals` each has its bar, and its colour says whether all of it, or none of it, lies above zero. A missing
    effect is NaN: its line stays empty, but for a word.
    """
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    for i, effect in enumerate(effects):
        if np.isnan(effect):
            ax.annotate(
                "not published", (0.5, i), xycoords=("axes fraction", "data"), ha="center", va="center", color="0.5"
            )
            continue
        low, high = intervals[i] if intervals else (effect, effect)
        colour = "black" if not intervals else SHOWN if low > 0 else AGAINST if high < 0 else UNDECIDED
        ax.plot([low, high], [i, i], color=colour, linewidth=1.6, solid_capstyle="round")
        ax.plot([effect], [i], "o", color=colour, markersize=5)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    edge = max([abs(v) for v in (*effects, *(b for pair in intervals or () for b in pair)) if not np.isnan(v)] or [1])
    ax.set_xlim(-1.15 * edge, 1.15 * edge)
    return ax


def effect_panel(
    ablation: Ablation,
    claims: Sequence[Verdict],
    measured: Mapping[str, Measured],
    *,
    stacked: bool = False,
    captioned: bool = True,
) -> Figure:
    """Two panels, "published" and "compact", of the claims that were put to the test; where nothing was published, one.

    Side by side, or `stacked` for narrow columns; `captioned=False` leaves the caption to the page around the figure.
    """
    labels = [f"{better}\nover {worse}" for better, worse in _tested(ablation, measured)]
    gaps = published_gaps(ablation, measured)
    compact = [claim.difference for claim in claims], [(claim.low, claim.high) for claim in claims]
    panels: dict[str, tuple[Any, Any]] = {"published, full networks": (gaps, None), "compact networks": compact}
    if np.isnan(gaps).all():
        del panels["published, full networks"]
    rows, columns = (len(panels), 1) if stacked else (1, len(panels))
    size = (3.5, rows * (0.5 + 0.3 * len(labels))) if stacked else (1.2 + 2 * columns, 1.1 + 0.32 * len(labels))
    with paper_style():
        figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        for ax, (title, (effects, intervals)) in zip(grid.flat, panels.items(), strict=True):
            draw_effects(ax, labels, effects, intervals)
            ax.set(title=title, xlabel="difference in PSNR [dB]")
        if captioned:
            figure.suptitle(ablation.title)
            figure.supxlabel(fill(effect_caption(ablation, measured), int(size[0] * 21)), fontsize=5.5, color="0.35")
    return figure


def effect_caption(ablation: Ablation, measured: Mapping[str, Measured]) -> str:
    """How the compact effects were measured, and what the colours mean."""
    steps = sorted({found.steps for found in measured.values()})
    images = next(iter(measured.values())).psnr.shape[1]
    seeds = sorted({len(found.psnr) for found in measured.values()})
    photographs = ablation.task == MOTION
    kind = "held-out images" if photographs else "settings of the lens on a held-out part of one scene"
    text = (
        f"Compact: {', '.join(map(str, steps))} training steps, {images} {kind}, "
        f"{' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}; bars are 95 % bootstrap intervals over "
        f"{'images' if photographs else 'settings'} and seeds: blue shown, grey not shown, orange contradicted. Each "
        "panel has its own scale."
    )
    return f"Untrained weights among them. {text}" if 0 in steps else text


def published_gaps(ablation: Ablation, measured: Mapping[str, Measured]) -> list[float]:
    """For each claim that was put to the test the published difference in PSNR, dB; NaN where there is none."""
    return [_published_gap(ablation, *pair) for pair in _tested(ablation, measured)]


def _tested(ablation: Ablation, measured: Mapping[str, Measured]) -> list[tuple[str, str]]:
    return [pair for pair in ablation.claims if all(label in measured for label in pair)]


def _published_gap(ablation: Ablation, better: str, worse: str) -> float:
    """The published difference in PSNR, NaN where one of the two was not published."""
    found = [published(ablation, ablation.method(label)) for label in (better, worse)]
    if any(one is None or one.psnr is None for one in found):
        return float("nan")
    return round(found[0].psnr - found[1].psnr, 6)  # type: ignore[union-attr,operator]
