"""Where an artefact begins: the image, what became of it, where stages leave their range, and every stage's size."""

from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analysis.artefacts import CELL, FACTOR, StageTrace, Trace
from analysis.field_statistics import Number
from analysis.panels import paper_style
from analysis.plots import draw_untrained_badge


def draw_first(ax: Axes, first: Int[np.ndarray, "h w"], stages: Number, *, size: tuple[int, int]) -> Axes:
    """Show the number of the first stage out of range in each cell, of `stages` in all; grey where there is none."""
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.85")
    shown = np.ma.masked_less(first, 0)
    _show(ax, shown, size, cmap=colours, vmin=0, vmax=stages - 1)
    return ax


def draw_size(ax: Axes, field: Float[np.ndarray, "h w"], limit: Number, *, size: tuple[int, int]) -> Axes:
    """Show a stage's size over its limit, log10 from 1/100 to 100, white at the limit; black where it is not finite."""
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad="black")
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.clip(np.log10(field / limit), -2, 2) if limit else np.where(field > 0, 2.0, 0.0)
    _show(ax, np.ma.masked_invalid(level), size, cmap=colours, vmin=-2, vmax=2)
    return ax


def draw_sizes(ax: Axes, found: Trace, limits: list[float], first: StageTrace | None) -> Axes:
    """Draw each stage's usual and largest size over the forward pass and the limit above which it is out of range; a
    vertical line where one is first, crosses on top where values are not finite."""
    at = np.arange(len(found.stages))
    ax.plot(at, [stage.peak for stage in found.stages], ".-", linewidth=0.8, label="largest")
    ax.plot(at, [stage.usual for stage in found.stages], "-", linewidth=0.8, label="median")
    ax.plot(at, np.where(np.isfinite(limits), limits, np.nan), "_", color="0.4", label="limit")
    broken = [number for number, stage in enumerate(found.stages) if stage.not_finite]
    ax.plot(broken, np.ones(len(broken)), "x", color="k", transform=ax.get_xaxis_transform(), clip_on=False)
    if first is not None:
        ax.axvline(found.stages.index(first), color="#e8112d", linewidth=0.8, zorder=0)
    ax.set(yscale="log", ylabel="RMS over channels", xlim=(-0.5, len(at) - 0.5))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    ax.spines[["top", "right"]].set_visible(False)
    return _name_stages(ax, found)


def draw_scans(ax: Axes, found: Trace) -> Axes:
    """Draw, for the stages that scan, the shares of steps that wipe the state or hold it still, and the largest state
    norm relative to the largest of them all."""
    scans = [(number, stage.scan) for number, stage in enumerate(found.stages) if stage.scan is not None]
    at = [number for number, _ in scans]
    ax.plot(at, [scan.wipes for _, scan in scans], ".-", linewidth=0.8, label="steps that wipe")
    ax.plot(at, [scan.holds for _, scan in scans], ".-", linewidth=0.8, label="steps that hold")
    states = [(number, scan.state) for number, scan in scans if scan.state is not None]
    top = max((state for _, state in states), default=0.0)
    if top > 0 and np.isfinite(top):
        name = f"state norm / {top:.2g}"
        ax.plot(
            [number for number, _ in states], [state / top for _, state in states], ".--", linewidth=0.8, label=name
        )
    ax.set(ylim=(-0.03, 1.05), xlim=(-0.5, len(found.stages) - 0.5), ylabel="share")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
    ax.spines[["top", "right"]].set_visible(False)
    return _name_stages(ax, found)


def artefact_panels(
    found: Trace,
    image: Float[Tensor, "_ h w"],
    *,
    factor: Number = FACTOR,
    normal: Trace | None = None,
    width: Number = 7.16,
) -> Figure:
    """The image, the output, where stages first leave their range and the first of them (the one that comes nearest to
    its limit where none does); below, all stages in the order of the forward pass, and the scans where there are any.

    `factor` and `normal` set the limits (`Trace.limits`); `width` is in inches. Drawn under `PAPER_STYLE`; saving is
    the caller's.
    """
    size = (image.shape[-2], image.shape[-1])
    limits = found.limits(factor, normal)
    first = found.first(factor, normal)
    shown = first or max(found.stages, key=lambda stage: _nearness(stage, limits[found.stages.index(stage)]))
    scans = any(stage.scan is not None for stage in found.stages)
    text = fill(caption(found, factor, normal), int(width * 23))
    panel = (width - 0.5) / 4
    tall = panel * min(size[0] / size[1], 1.6)
    plot, names = 1.0, 0.7
    height = 0.2 + tall + 0.35 + (plot + 0.25) * (1 + scans) + names + 0.11 * (text.count("\n") + 1)
    with paper_style():
        figure = plt.figure(figsize=(width, height))
        figure.set_layout_engine("none")  # panels are placed by hand; from now on, whatever style it is saved in

        def place(left: float, top: float, across: float, down: float) -> Axes:
            return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

        axes = [place(0.1 + k * (panel + 0.1), 0.2, panel, tall) for k in range(4)]
        for ax, title, values in (
            (axes[0], "image", image.detach().cpu().double().numpy()),
            (axes[1], "output", found.output),
        ):
            _show(ax, np.nan_to_num(np.clip(values[:3].transpose(1, 2, 0), 0, 1)), size)
            ax.set_title(title, fontsize=6)
        state = found.health.describe() or "all values finite and near [0, 1]"
        axes[1].set_xlabel(fill(state, 42), fontsize=5)
        draw_first(axes[2], found.first_map(factor, normal), len(found.stages), size=size)
        axes[2].set_title("first stage out of range", fontsize=6)
        axes[2].set_xlabel("none anywhere" if first is None else "dark: early, light: late, grey: none", fontsize=5)
        limit = limits[found.stages.index(shown)]
        limit = limit if np.isfinite(limit) else factor * shown.usual
        draw_size(axes[3], shown.map, limit, size=size).set_title(shown.name, fontsize=6)
        axes[3].set_xlabel(f"blue below, red above limit; largest {_times(shown.peak, limit)}", fontsize=5)
        if found.untrained:
            for ax in axes[1:]:
                draw_untrained_badge(ax, size=4.5)
        top = 0.2 + tall + 0.35
        sizes = draw_sizes(place(0.5, top, width - 0.6, plot), found, limits, first)
        if scans:
            sizes.set_xticklabels([])
            draw_scans(place(0.5, top + plot + 0.25, width - 0.6, plot), found)
        figure.text(0.1 / width, 0.05 / height, text, va="bottom", fontsize=5.5, color="0.35")
    return figure


def caption(found: Trace, factor: Number, normal: Trace | None) -> str:
    """What the panels show and how the limits are set."""
    made = found.provenance
    h, w = made["size"]
    first = found.first(factor, normal)
    origin = made.get("provenance") or {}
    weights = f", {origin['steps']} training steps on {origin.get('data')}" if origin.get("steps") else ""
    windows = f"windows of {', '.join(map(str, made['windows']))} feature px" if made["windows"] else "no windows"
    usual = "its median over this image" if normal is None else "the largest on an image that it was compared with"
    judged = "; parts of blocks and the last stage are not judged" if normal is None else ""
    seams = [stage for stage in found.stages if stage.seam is not None]
    worst = max(seams, key=lambda stage: stage.seam or 0, default=None)
    seam = "" if worst is None else f" Strongest window seam: {worst.name}, {worst.seam:.1f} times the lines beside it."
    verdict = "No stage is out of range." if first is None else f"First out of range: {first.name}."
    return (
        f"{made['network']}{weights}; {h} x {w} px, {windows}. A stage's size is the root mean square over channels, "
        f"each cell of {CELL} px the largest in it; out of range is above {factor:g} times {usual}, or not finite"
        f"{judged}. {verdict}{seam} A step wipes where every state keeps less than 1/1000, and holds where every state "
        "loses less."
    )


def _nearness(stage: StageTrace, limit: float) -> float:
    return stage.peak / limit if limit else 0.0


def _times(peak: float, limit: float) -> str:
    return f"{peak / limit:.2g}" if limit else f"{peak:.2g} over 0"


def _show(ax: Axes, values: Any, size: tuple[int, int], **look: Any) -> None:
    """An image or cells of it in image pixels, without ticks."""
    h, w = values.shape[:2]
    edge = 1 if (h, w) == size else CELL
    ax.imshow(values, extent=(-0.5, w * edge - 0.5, h * edge - 0.5, -0.5), interpolation="nearest", **look)
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), xticks=[], yticks=[])


def _name_stages(ax: Axes, found: Trace) -> Axes:
    """Names under the stages, as many as there is room for."""
    names = [stage.name for stage in found.stages]
    every = max(1, len(names) // 30)
    ax.set_xticks(range(0, len(names), every), labels=names[::every], rotation=90, fontsize=4)
    return ax
