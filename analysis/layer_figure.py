"""What a region of the output owes to the feature maps of a network: its stages in order, network by network."""

from collections.abc import Mapping
from math import ceil
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analysis.activation_plots import draw_scale
from analysis.attribution_figure import draw_attribution, draw_region
from analysis.layer_attributions import KINDS, LayerMap
from analysis.panels import paper_style

Number = float | int


def layer_panels(
    networks: Mapping[str, Mapping[str, LayerMap]],
    image: Float[Tensor, "3 h w"],
    *,
    columns: int = 7,
    width: Number = 7.16,
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """For each named network the image with its region, then a map per stage, each relative to its own largest value.

    That value stands below the map. The caption says how the maps were made, and `notes` what was found about each
    network's. `width` is in inches. Drawn under `PAPER_STYLE`; saving is the caller's.
    """
    if not any(networks.values()):
        raise ValueError("no maps to draw; choose stages of the network")
    first = next(one for maps in networks.values() for one in maps.values())
    h, w = image.shape[-2:]
    columns = min(columns, 1 + max(len(maps) for maps in networks.values()))
    lines = {name: ceil((1 + len(maps)) / columns) for name, maps in networks.items()}
    said = [caption(first), *(f"{name}: {note}" for name, note in (notes or {}).items())]
    text = "\n".join(fill(line, int(width * 23)) for line in said)
    edge = 0.9 * width / columns
    height = ((edge - 0.15) * h / w + 0.5) * sum(lines.values()) + 0.1 * (text.count("\n") + 2)
    pixels = image.detach().cpu().double().permute(1, 2, 0).numpy()
    with paper_style():
        figure, grid = plt.subplots(
            sum(lines.values()), columns, figsize=(width, height), squeeze=False, layout="compressed"
        )
        free, drawn = iter(grid), []
        for name, maps in networks.items():
            panels = [ax for _ in range(lines[name]) for ax in next(free)]
            draw_region(panels[0], pixels, first.box).set_title("what the network saw", fontsize=6)
            panels[0].set_ylabel(name, fontsize=6.5)
            drawn += [_draw(ax, one) for ax, one in zip(panels[1:], maps.values(), strict=False)]
            for ax in panels[1 + len(maps) :]:
                ax.remove()
        bar = figure.add_axes((0.925, 0.45, 0.01, 0.4))
        bar.set_in_layout(False)
        draw_scale(bar, drawn, style="signed", label="relative to its own max")
        figure.get_layout_engine().set(rect=(0, 0, 0.91, 1))  # type: ignore[union-attr, call-arg]
        figure.supxlabel(text, fontsize=5.5, color="0.35", x=0.01, ha="left")
    return figure


def caption(one: LayerMap) -> str:
    """How the maps were made."""
    made = one.provenance
    top, left, height, width = one.box
    number = {"grad": "the strength of the edges", "sum": "the sum of the values"}[made["reduce"]]
    of = "F(x) - x" if made["residual"] == "exclude" else "F(x)"
    h, w = made["size"]
    how = "sign kept, summed over channels" if one.kind == "gradient_x_activation" else "root mean square over channels"
    what = KINDS[one.kind].replace("that gradient", "gradient of the region's number")
    return (
        f"Of every stage: {what}; {how}, root scale. The number is {number} of {of} in the outlined {height} x {width} "
        f"px at ({top}, {left}) of what the network saw, {h} x {w} px. Maps lie as the image does; a cell of one at "
        "1/n is n image px wide."
    )


def _draw(ax: Axes, one: LayerMap) -> Axes:
    draw_attribution(
        ax, one.map, one.box, stride=one.stride, size=tuple(one.provenance["size"]), untrained=one.untrained
    )
    ax.set_title(f"{one.stage} (1/{one.stride})", fontsize=5.5)
    ax.set_xlabel(f"max {np.abs(one.map).max():.1e}", fontsize=5.5)
    return ax
