"""Figures of maps that `evssm measure` makes: horizons, two modes side by side, what a pixel reaches, what helps."""

from math import ceil

import numpy as np
from matplotlib.figure import Figure

from analysis.horizons import Horizons
from analysis.interventions import CausalEffects
from analysis.making import is_untrained
from analysis.measure_frame import WIDTH, badges, framed
from analysis.measure_plots import draw_difference, draw_effects, draw_map
from analysis.modes import ModeDifference
from analysis.plots import draw_erf
from analysis.structural import StructuralField

DECADES = 3
"""Of the horizons at most, from the longest down; shorter ones look like the shortest shown."""


def horizons_panel(horizons: Horizons) -> Figure:
    """The horizon of every scan in rows of what it reads, on one logarithmic scale; grey remembers the beginning."""
    rows = {row["stage"]: row for row in horizons.rows()}
    levels = {found.stage: np.log10(np.maximum(found.rows, 1e-9)) for found in horizons.maps}
    finite = np.concatenate([level[np.isfinite(level)] for level in levels.values()])
    top = float(finite.max()) if finite.size else 0.0
    bottom = max(float(finite.min()), top - DECADES) if finite.size else -1.0
    columns, size = _grid(len(levels), next(iter(levels.values())).shape)
    note = "; median over states of the rows over which they decay to 1/e; grey: not since the beginning"
    note = note.replace("median", f"{horizons.provenance['quantile']:g}-quantile")
    with framed(horizons.provenance, size, ceil(len(levels) / columns), columns, note=note) as (figure, axes):
        for ax, found in zip(axes, horizons.maps, strict=False):
            draw_map(ax, levels[found.stage], low=bottom, high=top)
            ax.set_title(f"{found.stage.removesuffix('.mixer')}\n{found.turn}", fontsize=6)
            row = rows[found.stage]
            ax.set_xlabel(f"{row['pixels']:.3g} px, {row['rows']:.2g} rows", fontsize=6)
        for ax in axes[len(levels) :]:
            ax.remove()
        bar = figure.colorbar(axes[0].images[0], ax=axes[: len(levels)], pad=0.01, fraction=0.03)
        bar.set_label("log10 of rows")
        badges(horizons.provenance, axes[: len(levels)])
    return figure


def modes_panel(found: ModeDifference) -> Figure:
    """The field on the whole map, in windows, and their difference relative to the first one's maximum."""
    note = "; " + ", ".join(f"{row['mode']} $R_{{90}}$ {row['r90']:.0f} px" for row in found.rows()[:2])
    with framed(found.provenance, (WIDTH, 2.6), 1, 3, note=note) as (figure, axes):
        for ax, (name, field) in zip(axes, {"whole map": found.whole, "windows": found.local}.items(), strict=False):
            draw_erf(ax, field.map, untrained=field.untrained)
            ax.set_title(name)
        relative = found.difference / np.abs(found.whole.raw).max()
        peak = float(np.abs(relative).max()) or 1.0
        draw_difference(axes[2], relative, peak=peak).set_title("difference / max of whole map")
        figure.colorbar(axes[2].images[0], ax=axes[2], pad=0.02, fraction=0.04)
        badges(found.provenance, axes[2:])
    return figure


def structural_panel(found: StructuralField) -> Figure:
    """Where one pixel reaches, white on black, in every map asked for; a star at the pixel."""
    columns, size = _grid(len(found.reaches), found.output.mask.shape)
    rows = ceil(len(found.reaches) / columns)
    with framed(found.provenance, size, rows, columns, note="; white: cells that the starred pixel can enter") as (
        figure,
        axes,
    ):
        for ax, reach in zip(axes, found.reaches, strict=False):
            draw_map(ax, reach.mask.astype(float), low=0, high=1, cmap="gray")
            y, x = ((at + 0.5) / reach.stride - 0.5 for at in found.pixel)
            ax.plot(x, y, "*", color="#d55e00", markersize=5, markeredgecolor="white", markeredgewidth=0.3)
            missed = f", {reach.missed} missed" if reach.missed else ""
            ax.set_title(f"{reach.name}, {100 * reach.mask.mean():.3g} %{missed}", fontsize=6)
        for ax in axes[len(found.reaches) :]:
            ax.remove()
        if is_untrained(found.provenance):
            figure.suptitle("untrained weights; the architecture alone decides what is shown", fontsize=6)
    return figure


def causes_panel(found: CausalEffects) -> Figure:
    """The effect of every block on the outlined region; grey where it is neutral or not decided."""
    effect, counts = found.map(), found.counts()
    words = ", ".join(f"{counts.get(word, 0)} {word}" for word in ("positive", "negative", "neutral", "open"))
    made = found.provenance
    patches = "other patches of the image" if made["donors"] is None else "patches of other images"
    note = (
        f". The outlined region has {found.psnr:.2f} dB; shown is what it loses, on average, when a block of "
        f"{made['block']} px is exchanged for {patches}; grey: the {100 * made['level']:g} % interval has zero in "
        f"it, or only effects below {made['least']:g} dB; blocks that meet the region lie beyond the scale. "
        f"Blocks: {words}."
    )
    height, width = effect.shape
    with framed(made, (WIDTH / 2, 0.9 + WIDTH / 2.6 * height / width), 1, 1, note=note) as (figure, (ax,)):
        peak = found.peak() or 1.0
        draw_effects(ax, effect, found.decided(), found.box, peak=peak).set_title("what helps the region")
        ticks = [-peak, -peak / 10, 0, peak / 10, peak]
        bar = figure.colorbar(ax.images[0], ax=ax, pad=0.02, fraction=0.05, ticks=ticks, extend="both")
        bar.ax.set_yticklabels([f"{tick:+.2g}" if tick else "0" for tick in ticks])
        bar.set_label("effect [dB]")
        badges(made, [ax])
    return figure


def _grid(count: int, shape: tuple[int, ...], most: int = 6) -> tuple[int, tuple[float, float]]:
    """Columns, and the size in inches, of a figure with so many maps of this shape."""
    columns = min(count, most)
    edge = (WIDTH - 0.6) / max(columns, 3)
    rows = ceil(count / columns)
    return columns, (0.6 + edge * columns, 0.5 + (edge * shape[0] / shape[1] + 0.35) * rows)
