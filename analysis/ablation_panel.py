"""Published and own effects of an ablation side by side: which way each points, each on a scale of its own."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ablation_table import Measured
from analysis.ablations import Ablation, published
from analysis.panels import paper_style
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


def effect_panel(ablation: Ablation, claims: Sequence[Verdict], measured: Mapping[str, Measured]) -> Figure:
    """The two panels, "published" and "compact", of the claims that were put to the test."""
    tested = [pair for pair in ablation.claims if all(label in measured for label in pair)]
    labels = [f"{better}\nover {worse}" for better, worse in tested]
    gaps = [_published_gap(ablation, *pair) for pair in tested]
    steps = sorted({found.steps for found in measured.values()})
    images = next(iter(measured.values())).psnr.shape[1]
    with paper_style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(5.2, 1.1 + 0.32 * len(tested)), sharey=True, layout="constrained"
        )
        draw_effects(left, labels, gaps)
        draw_effects(right, labels, [claim.difference for claim in claims], [(c.low, c.high) for c in claims])
        left.set(title="published, full networks", xlabel="difference in PSNR [dB]")
        right.set(title="compact networks", xlabel="difference in PSNR [dB]")
        figure.suptitle(ablation.title)
        text = (
            f"Compact: {', '.join(map(str, steps))} training steps, {images} held-out images; bars are 95 % bootstrap "
            "intervals over images and seeds: blue shown, grey not shown, orange contradicted. The scales differ."
        )
        if 0 in steps:
            text = f"Untrained weights among them. {text}"
        figure.supxlabel(fill(text, 110), fontsize=5.5, color="0.35")
    return figure


def _published_gap(ablation: Ablation, better: str, worse: str) -> float:
    """The published difference in PSNR, NaN where one of the two was not published."""
    found = [published(ablation, ablation.method(label)) for label in (better, worse)]
    if any(one is None or one.psnr is None for one in found):
        return float("nan")
    return round(found[0].psnr - found[1].psnr, 6)  # type: ignore[union-attr,operator]
