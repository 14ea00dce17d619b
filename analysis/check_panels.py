"""What the checks of several networks' maps found, a row of panels for each."""

from collections.abc import Mapping
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis.check_plots import draw_convergence, draw_likeness, draw_orders
from analysis.image_count import Convergence
from analysis.map_verdict import MapVerdict
from analysis.order_check import Faithfulness
from analysis.panels import paper_style
from analysis.plots import draw_untrained_badge
from analysis.randomisation import Randomisation


def check_panels(verdicts: Mapping[str, MapVerdict], untrained: Mapping[str, bool], *, width: float = 7.16) -> Figure:
    """For each named network: curves of deletion and insertion, likeness under redrawn weights, R_90 by images.

    The last column is left out where no map is of several images. A check that could not be made says why in its place;
    below stands each verdict in words. `untrained` says whose weights are, in the picture too. Drawn under
    `PAPER_STYLE`; saving is the caller's.
    """
    columns = 2 + any(isinstance(verdict.images, Convergence) for verdict in verdicts.values())
    text = "\n".join(fill(f"{name}: {verdict}", int(width * 23)) for name, verdict in verdicts.items())
    height = 1.75 * len(verdicts) + 0.11 * (text.count("\n") + 1) + 0.1
    with paper_style():
        figure, grid = plt.subplots(
            len(verdicts), columns, figsize=(width, height), squeeze=False, layout="constrained"
        )
        for axes, (name, verdict) in zip(grid, verdicts.items(), strict=True):
            for ax, part in zip(axes, (verdict.order, verdict.weights, verdict.images), strict=False):
                if isinstance(part, Faithfulness):
                    draw_orders(ax, part.counts, part.deletion, part.insertion)
                elif isinstance(part, Randomisation):
                    draw_likeness(ax, part.shares, part.steps)
                elif isinstance(part, Convergence):
                    curve = (part.counts, part.middle, part.low, part.high)
                    label = f"{part.statistic} [{part.unit}]" if part.unit else part.statistic
                    draw_convergence(ax, *curve, settled=part.settled, label=label)
                else:
                    ax.axis("off")
                    ax.text(0.5, 0.5, fill(part, 36), ha="center", va="center", fontsize=5.5, transform=ax.transAxes)
            axes[0].set_title(name, loc="left", fontsize=7, fontweight="bold")
            if untrained.get(name):
                draw_untrained_badge(axes[1], top=True)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=5.5, color="0.35")
    return figure
