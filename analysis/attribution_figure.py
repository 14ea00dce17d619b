"""What a region of the output is made of: the input with the region, and one map per method, network by network."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from analysis.activation_plots import draw_scale
from analysis.attribution import Attribution
from analysis.field_statistics import Number
from analysis.panels import paper_style
from analysis.plots import SIGNED_POWER, draw_untrained_badge
from analysis.regions import Box

REGION_COLOUR = "#e8112d"
NAMES = {
    "lam": "LAM",
    "integrated_gradients": "integrated gradients",
    "gradient_x_input": "gradient x input",
    "occlusion": "occlusion",
}


def draw_region(ax: Axes, image: Float[np.ndarray, "h w 3"], box: Box, *, cut: Box | None = None) -> Axes:
    """Show the image, its region outlined in red and, with dashes, what was cut out of it."""
    ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
    if cut is not None:
        _outline(ax, cut, "white", linestyle="--")
    _outline(ax, box, REGION_COLOUR)
    ax.set(xticks=[], yticks=[])
    return ax


def draw_attribution(
    ax: Axes,
    field: Float[np.ndarray, "h w"],
    box: Box | None = None,
    *,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    untrained: bool = False,
) -> Axes:
    """Show a map with its signs, red above 0 and blue below: the root of its size relative to the largest.

    A pixel of the map is `stride` image px wide, `size` that of the image, beyond which the map is cut off; `box`, in
    image px, is outlined. A map of zeros is shown as such. `untrained` writes so into the picture. Raises `ValueError`
    for values that are not finite.
    """
    if not np.isfinite(field).all():
        raise ValueError("this map holds values that are not finite; compute it in float64, or look into the network")
    peak = float(np.abs(field).max()) or 1.0
    level = np.sign(field) * (np.abs(field) / peak) ** SIGNED_POWER
    h, w = field.shape[0] * stride, field.shape[1] * stride
    look: dict[str, Any] = {"cmap": mpl.colormaps["RdBu_r"], "vmin": -1, "vmax": 1, "interpolation": "nearest"}
    ax.imshow(level, extent=(-0.5, w - 0.5, h - 0.5, -0.5), **look)
    height, width = size or (h, w)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    if box is not None:
        _outline(ax, box, "black", linestyle=":")
    return draw_untrained_badge(ax, size=4.5) if untrained else ax


def attribution_panels(
    networks: Mapping[str, Mapping[str, Attribution]],
    image: Float[Tensor, "3 h w"],
    *,
    corner: tuple[int, int] = (0, 0),
    whole: Float[Tensor, "3 _ _"] | None = None,
    width: Number = 7.16,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """For each named network a row: the image with its region, then a map per method, each relative to its own maximum.

    `image` is what the network saw, cut at `corner` from `whole`, which is then shown first. Below each map stand its
    completeness gap, diffusion index and largest value; the caption says the rest, and `notes` what was found
    about each network's maps. `width` is in inches. Drawn under `PAPER_STYLE`; saving is the caller's.
    """
    first = next(iter(next(iter(networks.values())).values()))
    h, w = image.shape[-2:]
    is_cut = whole is not None and whole.shape[-2:] != image.shape[-2:]
    columns = 1 + is_cut + max(len(maps) for maps in networks.values())
    edge = 0.9 * width / columns
    said = [caption(networks), *(f"{name}: {note}" for name, note in (notes or {}).items())]
    text = "\n".join(fill(line, int(width * 23)) for line in said)
    height = ((edge - 0.15) * h / w + 0.55) * len(networks) + 0.1 * (text.count("\n") + 2)
    with paper_style():
        figure, grid = plt.subplots(len(networks), columns, figsize=(width, height), squeeze=False, layout="compressed")
        for axes, (name, maps) in zip(grid, networks.items(), strict=True):
            panels = list(axes)
            if is_cut:
                assert whole is not None
                _draw_whole(panels.pop(0), whole, first.box, corner, (h, w))
            picture = draw_region(panels[0], _pixels(image), first.box)
            picture.set_title("what the network saw", fontsize=6)
            axes[0].set_ylabel(name, fontsize=6.5)
            for ax, (method, found) in zip(panels[1:], maps.items(), strict=False):
                _draw_one(ax, method, found)
            for ax in panels[1 + len(maps) :]:
                ax.remove()
        maps_shown = [ax for ax in figure.axes if ax.images and ax.images[0].get_clim() == (-1, 1)]
        bar = figure.add_axes((0.925, 0.45, 0.01, 0.4))
        bar.set_in_layout(False)
        draw_scale(bar, maps_shown, style="signed", label="relative to its own max")
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, 0, 0.91, 1))
        figure.supxlabel(text, fontsize=5.5, color="0.35", x=0.01, ha="left")
    return figure


def caption(networks: Mapping[str, Mapping[str, Attribution]]) -> str:
    """How the maps were made: the number explained, the methods with their settings, weights and size."""
    maps = [one for maps in networks.values() for one in maps.values()]
    made = maps[0].provenance
    top, left, height, width = maps[0].box
    number = {"grad": "the strength of the edges", "sum": "the sum of the values"}[made["reduce"]]
    of = "F(x) - x" if made["residual"] == "exclude" else "F(x)"
    h, w = made["size"]
    methods = list(dict.fromkeys((one.method, _settings(one)) for one in maps))
    how = "; ".join(f"{NAMES[method]}: {settings}" for method, settings in methods)
    windows = sorted({edge for one in maps for edge in one.provenance.get("windows", [])}, reverse=True)
    mode = f"windows of {', '.join(map(str, windows))} feature px" if windows else "whole map, no windows"
    return (
        f"What each input pixel contributes to {number} of {of} in the outlined {height} x {width} px at ({top}, "
        f"{left}) of what the network saw, {h} x {w} px, {mode}. {how}. Sign kept, summed over colours, root scale. "
        "Gap: abs(sum of the map - change of the number) / change, which tends to 0 for the integrals alone; DI: "
        "diffusion index, 100 for an even map of this "
        f"size.{_weights(networks)}"
    )


def _settings(found: Attribution) -> str:
    made = found.provenance
    start = {
        "black": "black",
        "mean": "the mean colour",
        "blur": f"a blur of {made['sigma']:g} px" if made["sigma"] else "",
    }.get(made["baseline"], "a given image")
    if found.method == "occlusion":
        return f"squares of {made['window']} px replaced by {start}"
    steps = f", {made['steps']} steps" if made["steps"] else ""
    return f"from {start}{steps}"


def _weights(networks: Mapping[str, Mapping[str, Attribution]]) -> str:
    """What trained networks were trained on, as far as that is known."""
    origins = {
        name: next(iter(maps.values())).provenance.get("provenance") or {} for name, maps in networks.items() if maps
    }
    known = {name: origin for name, origin in origins.items() if origin.get("steps")}
    told = sorted({f"{origin['steps']} training steps on {origin.get('data')}" for origin in known.values()})
    return f" Weights: {'; '.join(told)}." if told else ""


def _draw_one(ax: Axes, method: str, found: Attribution) -> None:
    draw_attribution(ax, found.map, found.box, untrained=found.untrained)
    ax.set_title(NAMES[method], fontsize=6)
    gap = found.completeness_gap
    ax.set_xlabel(
        f"gap {percent(gap)}, DI {found.diffusion_index:.3g}\nmax {np.abs(found.map).max():.1e}", fontsize=5.5
    )


def percent(share: float) -> str:
    """A share in percent, with two digits that count below one percent, and in times from ten on."""
    if share < 10:
        return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
    return f"{share:.2g} times"


def _draw_whole(
    ax: Axes, whole: Float[Tensor, "3 _ _"], box: Box, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    top, left, height, width = box
    place = (top + corner[0], left + corner[1], height, width)
    draw_region(ax, _pixels(whole), place, cut=(*corner, *size)).set_title("image", fontsize=6)


def _pixels(image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w 3"]:
    return image.detach().cpu().double().permute(1, 2, 0).numpy()


def _outline(ax: Axes, box: Box | Sequence[int], colour: str, *, linestyle: str = "-") -> None:
    top, left, height, width = box
    halo = [withStroke(linewidth=1.6, foreground="black" if colour == "white" else "white")]
    ax.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            width,
            height,
            fill=False,
            edgecolor=colour,
            linewidth=0.8,
            linestyle=linestyle,
            path_effects=halo,
        )
    )
