"""What all figures of `evssm measure` share: size, style, caption, and the word that weights are untrained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.making import is_untrained
from analysis.panels import paper_style
from analysis.plots import draw_untrained_badge

WIDTH = 7.16
"""Inches across two columns of the paper."""


def made_in_words(provenance: Mapping[str, Any]) -> str:
    """Network, weights, images and windows, as a caption says them."""
    h, w = provenance["size"]
    origin = provenance.get("provenance") or {}
    if is_untrained(provenance):
        weights = "untrained weights"
    elif origin.get("steps"):
        weights = f"{origin['steps']} training steps on {str(origin.get('data')).partition(', data seed')[0]}"
    else:
        weights = "trained weights" if provenance.get("trained") else "weights of unknown origin"
    windows = provenance.get("windows") or []
    mode = f"windows of {', '.join(map(str, windows))} feature px at its levels" if windows else "whole map"
    count = len(provenance["images"])
    return f"{provenance['network']}, {weights}; {h} x {w} px, {count} image{'s' * (count != 1)}; {mode}"


@contextmanager
def framed(
    provenance: Mapping[str, Any],
    size: tuple[float, float],
    rows: int,
    columns: int,
    *,
    note: str = "",
    **options: Any,
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure in the project's style with its axes, whose caption is written once they have been drawn."""
    with paper_style():
        figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
        yield figure, list(grid.flat)
        figure.supxlabel(fill(made_in_words(provenance) + note, int(size[0] * 24)), fontsize=5.5, color="0.35")


def badges(provenance: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """Says inside each picture that the weights are untrained, where they are."""
    if is_untrained(provenance):
        for ax in axes:
            draw_untrained_badge(ax, top=True)
