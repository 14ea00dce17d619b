"""Restored photographs side by side as in the EVSSM paper's Figs. 7-12: a detail of each, and where it is wrong."""

from collections.abc import Sequence
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analysis.attribution_figure import draw_region
from analysis.comparison import Comparison
from analysis.field_statistics import Number
from analysis.panels import paper_style
from analysis.plots import draw_untrained_badge
from analysis.regions import Box, check_box

COLUMNS = 7
"""Details in a row; the whole photograph takes the place of two, and of their errors, in the first."""


def draw_detail(ax: Axes, image: Float[Tensor, "3 h w"], box: Box, *, untrained: bool = False) -> Axes:
    """Show the part of an image, clamped to [0, 1], that lies in a box, pixel by pixel."""
    ax.imshow(_cut(_pixels(image), box), interpolation="nearest", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    return draw_untrained_badge(ax, size=4.5) if untrained else ax


def draw_error(ax: Axes, error: Float[np.ndarray, "h w"], box: Box, *, largest: Number) -> Axes:
    """Show the errors in a box from 0 to `largest`, above which all looks alike."""
    ax.imshow(_cut(error, box), interpolation="nearest", cmap="inferno", vmin=0, vmax=largest)
    ax.set(xticks=[], yticks=[])
    return ax


def comparison_panels(found: Comparison, box: Box, *, width: Number = 7.16) -> Figure:
    """The blurred photograph with a box outlined; then that detail of the sharp one, of the blurred one and of what
    each network made of it, each above its errors, on one scale for all.

    Below each stand the PSNR of the whole image and of the detail; the caption says how all was made. `width` is in
    inches. Drawn under `PAPER_STYLE`; saving is the caller's. `ValueError` for a box outside the image.
    """
    h, w = found.pair.sharp.shape[-2:]
    box = check_box(box, h, w)
    judged = {"blurred": found.pair.blurred, **found.restored}
    largest = error_scale([found.error(image) for image in judged.values()], box)
    cell, gap, line, bar = (width - 0.55) / COLUMNS, 0.06, 0.12, 0.55
    panel, tall = cell - gap, (cell - gap) * box[2] / box[3]
    row = 2 * tall + gap + 3.2 * line
    rows = ceil((3 + len(judged)) / COLUMNS)
    text = fill(caption(found, box, largest), int(width * 23))
    height = 0.05 + rows * row + 0.105 * (text.count("\n") + 1) + 0.08
    with paper_style():
        figure = plt.figure(figsize=(width, height))
        figure.set_layout_engine("none")  # panels are placed by hand; from now on, whatever style it is saved in

        def place(left: float, top: float, across: float, down: float) -> Axes:
            return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

        room = (2 * panel + gap, 2 * tall + gap)
        shrink = min(room[0] / w, room[1] / h)
        whole = place(gap, 0.05 + 1.2 * line, w * shrink, h * shrink)
        draw_region(whole, np.clip(_pixels(found.pair.blurred), 0, 1), box)
        whole.set_title(found.pair.name, fontsize=6)
        for index, (name, image) in enumerate({"sharp": found.pair.sharp, **judged}.items(), start=2):
            down, across = divmod(index, COLUMNS)
            left, top = gap + across * cell, 0.05 + 1.2 * line + down * row
            detail = draw_detail(place(left, top, panel, tall), image, box, untrained=name in found.untrained)
            detail.set_title(short(name), fontsize=5.5)
            if name not in judged:
                continue
            error = draw_error(place(left, top + tall + gap, panel, tall), found.error(image), box, largest=largest)
            error.set_xlabel(f"{found.psnr(image):.2f} ({found.psnr(image, box):.2f}) dB", fontsize=5.5)
        scale = place(width - bar + 0.1, 0.05 + 1.2 * line, 0.09, 2 * tall + gap)
        figure.colorbar(error.images[0], cax=scale, extend="max").set_label("error [levels of 255]", fontsize=6)
        scale.tick_params(labelsize=5.5)
        figure.text(gap / width, 0.05 / height, text, va="bottom", fontsize=5.5, color="0.35")
    return figure


def error_scale(errors: Sequence[Float[np.ndarray, "h w"]], box: Box) -> float:
    """Where the common scale of errors ends: what one in a hundred pixels of the box exceeds in the worst of them."""
    return max(max(float(np.quantile(_cut(error, box), 0.99)) for error in errors), 1.0)


def short(name: str) -> str:
    """A network's name without what all names here end in."""
    return name.replace("-compact", "")


def caption(found: Comparison, box: Box, largest: float) -> str:
    """What is shown, and how the images and their scores were made."""
    h, w = found.pair.sharp.shape[-2:]
    top, left, height, width = box
    windows = sorted({edge for stamp in found.stamps.values() for edge in stamp["windows"]}, reverse=True)
    mode = f"windows of {', '.join(map(str, windows))} feature px" if windows else "whole map, no windows"
    return (
        f"{h} x {w} px, {mode}; {found.inference.describe()}; detail of {height} x {width} px at ({top}, {left}), and "
        f"below it the root mean square error over colours, black 0, palest {largest:.0f} or more. PSNR of the image "
        f"(of the detail): {'; '.join(found.protocol.describe().split('; ')[:2])}.{_weights(found)}"
    )


def _weights(found: Comparison) -> str:
    """Whether these are small networks, and what they were trained on, as far as that is known."""
    origins = [stamp.get("provenance") or {} for stamp in found.stamps.values()]
    told = sorted({f"{one['steps']} training steps on {one.get('data')}" for one in origins if one.get("steps")})
    kind = " Compact networks, no results of a paper." if all("-compact" in name for name in found.stamps) else ""
    return f"{kind} Weights: {'; '.join(told)}." if told else kind


def _pixels(image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 3"]:
    return image.detach().cpu().double().clamp(0, 1).permute(1, 2, 0).numpy()


def _cut(values: Any, box: Box) -> Any:
    top, left, height, width = box
    return values[top : top + height, left : left + width]
