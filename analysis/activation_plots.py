"""Drawing functions for activation maps, in image pixels: a map, its query, and what the architecture allows."""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from analysis.field_statistics import Number
from analysis.plots import SIGNED_POWER, draw_untrained_badge

STAR: dict[str, Any] = {
    "marker": "*",
    "s": 34,
    "facecolor": "#e8112d",
    "edgecolor": "white",
    "linewidth": 0.6,
    "zorder": 5,
}
"""The mark of the query; its size is in points, whatever the size of the image."""


STYLES: dict[str, Callable[[Any, Number], tuple[Any, Number, Number, str]]] = {
    "log": lambda x, decades: (np.log10(np.maximum(np.abs(x), 10.0**-decades)), -decades, 0, "magma"),
    "linear": lambda x, decades: (np.abs(x), 0, 1, "magma"),
    "signed": lambda x, decades: (np.sign(x) * np.abs(x) ** SIGNED_POWER, -1, 1, "RdBu_r"),
}
"""What a style shows of a relative map, its range and its colours."""


def draw_query(ax: Axes, image: Float[np.ndarray, "h w 3"], query: tuple[Number, Number]) -> Axes:
    """Show the image with a red star at its pixel (row, column)."""
    ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
    return _framed(ax, image.shape[:2], query)


def draw_activation(
    ax: Axes,
    field: Float[np.ndarray, "h w"],
    cell: tuple[int, int],
    *,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    support: Bool[np.ndarray, "h w"] | None = None,
    peak: Number | None = None,
    style: str = "log",
    decades: Number = 4,
    pool: int = 1,
    untrained: bool = False,
) -> Axes:
    """Show a map relative to `peak` (its own largest absolute value by default), axes in image px.

    `field` has pixels of `stride` image px and a query at its pixel `cell`, whose middle bears the red star; `size` is
    that of the image, what lies beyond is padding and cut off. `support`, a mask of the same pixels, is outlined with
    dashes, and grey lies over all outside it. `style` is "log", log10 of absolute values down to `decades`, below which
    all looks like 0; "linear", absolute values from 0; or "signed", red above 0 and blue below, the root of the size.
    Negative values in the first two are shown by their size. A map of zeros is shown as such. Maps with more pixels
    than the paper has dots lose thin lines; with `pool`, a dot shows the largest in size of so many pixels squared.
    `untrained` writes so into the picture.

    Raises `ValueError` for another style and for values that are not finite.
    """
    if style not in STYLES:
        raise ValueError(f'no style "{style}" of an activation map; choose from {", ".join(STYLES)}')
    if not np.isfinite(field).all():
        raise ValueError("this map holds values that are not finite; compute it in float64, or look into the network")
    peak = np.abs(field).max() if peak is None else peak
    pooled = _largest(field, pool)
    level, low, high, colours = STYLES[style](pooled / peak if peak else pooled, decades)
    look: dict[str, Any] = {"cmap": mpl.colormaps[colours], "vmin": low, "vmax": high, "interpolation": "nearest"}
    ax.imshow(level, extent=_extent(pooled.shape[0], pooled.shape[1], stride * pool), **look)
    h, w = field.shape
    if support is not None:
        veil = np.zeros((h, w, 4))
        veil[~support] = mpl.colors.to_rgba("0.75" if style == "signed" else "0.2")
        ax.imshow(veil, extent=_extent(h, w, stride), interpolation="nearest")
        _outline(ax, support, stride, dark=style == "signed")
    size = size or (h * stride, w * stride)
    middle = [place * stride + (stride - 1) / 2 for place in cell]
    if untrained:
        draw_untrained_badge(ax, top=_free_at_top(support, cell, h), size=4.5)
    return _framed(ax, size, (middle[0], middle[1]))


def draw_scale(ax: Axes, panels: list[Axes], *, style: str = "log", label: str = "") -> Axes:
    """The scale of panels drawn alike by `draw_activation`, in the axes `ax`."""
    bar = ax.figure.colorbar(panels[0].images[0], cax=ax)
    low, _ = panels[0].images[0].get_clim()
    if style == "log":
        levels = np.arange(0, low - 1e-9, -1)
        bar.set_ticks(list(levels), labels=["1" if level == 0 else f"$10^{{{level:.0f}}}$" for level in levels])
    elif style == "signed":
        shown = np.array([-1, -0.5, -0.1, 0, 0.1, 0.5, 1])
        names = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in shown]
        bar.set_ticks(list(np.sign(shown) * np.abs(shown) ** SIGNED_POWER), labels=names)
    bar.set_label(label)
    bar.outline.set_linewidth(mpl.rcParams["axes.linewidth"])
    return bar.ax


def _framed(ax: Axes, size: tuple[int, ...], query: tuple[Number, Number]) -> Axes:
    """The star, and axes that end with the image and bear no numbers: panels are small and all of one size."""
    ax.scatter(query[1], query[0], clip_on=False, **STAR)
    ax.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), xticks=[], yticks=[])
    return ax


def _largest(field: Float[np.ndarray, "h w"], pool: int) -> Float[np.ndarray, "_ _"]:
    """The largest in size, with its sign, of every `pool x pool` pixels; of fewer at the right and the bottom."""
    if pool == 1:
        return field
    h, w = (-(-side // pool) * pool for side in field.shape)
    blocks = np.pad(field, ((0, h - field.shape[0]), (0, w - field.shape[1])))
    blocks = blocks.reshape(h // pool, pool, w // pool, pool).swapaxes(1, 2).reshape(h // pool, w // pool, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)[..., 0]


def _extent(h: int, w: int, stride: int) -> tuple[float, float, float, float]:
    """Where a map lies, in image px."""
    return (-0.5, w * stride - 0.5, h * stride - 0.5, -0.5)


def _free_at_top(support: Bool[np.ndarray, "h w"] | None, cell: tuple[int, int], h: int) -> bool:
    """Whether a badge hides less at the top of a map than at its bottom: not the query, little of the support."""
    strip = max(1, h // 3)
    if cell[0] < strip or cell[0] >= h - strip or support is None:
        return 2 * cell[0] > h
    top, bottom = int(support[:strip].sum()), int(support[-strip:].sum())
    return top < bottom if top != bottom else 2 * cell[0] > h


def _outline(ax: Axes, mask: Bool[np.ndarray, "h w"], stride: int, *, dark: bool) -> None:
    """Dashes along the edges between pixels inside and outside the mask, one line for each straight run."""
    lines = [
        [(start, at), (end, at)] if across else [(at, start), (at, end)]
        for across, edges in ((True, mask[1:] != mask[:-1]), (False, (mask[:, 1:] != mask[:, :-1]).T))
        for at, edge in enumerate(edges, start=1)
        for start, end in _runs(edge)
    ]
    corners = np.array(lines, dtype=float).reshape(-1, 2, 2) * stride - 0.5
    ink, halo = ("black", "white") if dark else ("white", "black")
    effect = [withStroke(linewidth=1.4, foreground=halo, alpha=0.6)]
    ax.add_collection(LineCollection(list(corners), colors=ink, linewidths=0.7, linestyles="--", path_effects=effect))


def _runs(on: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Beginning and end of every run of true values."""
    change = np.flatnonzero(np.diff(np.concatenate([[0], on.astype(np.int8), [0]])))
    return list(zip(change[0::2].tolist(), change[1::2].tolist(), strict=True))
