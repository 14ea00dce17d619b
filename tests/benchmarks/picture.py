"""Time and memory against the size of the image and the number of images, with the floor drawn in."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from compare import COUNTED, FLOOR, OURS, Row
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.panels import paper_style
from evssm.provenance import written_whole

STYLES = {OURS: "o-", "released, mambapy": "s-", FLOOR: "k:", COUNTED: "k:"}


def draw_growth_of(ax: Axes, rows: Sequence[Row], value: str) -> Axes:
    """`value` ("median" or "peak") of each contender against size, on logarithmic axes."""
    for who in dict.fromkeys(row.who for row in rows):
        points = [(row.size, getattr(row, value)) for row in rows if row.who == who and getattr(row, value)]
        if points:
            sizes, values = zip(*points, strict=True)
            scale = 2**30 if value == "peak" else 1
            ax.plot(sizes, [number / scale for number in values], STYLES[who], label=who, markersize=3)
    ticks = sorted({row.size for row in rows})
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    low, high = ax.get_ylim()
    ax.set_ylim(low / 1.5, high * 1.5)  # so that a line that hardly rises has numbers beside it too
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("processor time [s]" if value == "median" else "peak memory [GiB]")
    return ax


def draw(rows: Sequence[Row], machine: str, path: Path) -> None:
    """The picture of all parts that grow, as a file."""
    cases = dict.fromkeys((row.part, row.case) for row in rows if row.part in ("size", "images"))
    with paper_style():
        figure, axes = plt.subplots(2, len(cases), figsize=(2.4 * len(cases), 4.4), layout="constrained", squeeze=False)
        for (part, case), (above, below) in zip(cases, axes.T, strict=True):
            chosen = [row for row in rows if (row.part, row.case) == (part, case)]
            draw_growth_of(above, chosen, "median").set_title(case.replace(" of ", " of\n"))
            draw_growth_of(below, chosen, "peak")
            below.set_xlabel("side of the image [px]" if part == "size" else "images")
        lines = {line.get_label(): line for ax in axes.flat for line in ax.lines}
        lines.pop(COUNTED, None)  # the floor of the lower row, drawn alike
        names = [f"{name} (below: {COUNTED})" if name == FLOOR else name for name in lines]
        figure.legend(list(lines.values()), names, loc="outside upper center", ncols=len(names))
        figure.supxlabel(machine, fontsize=5)
        with written_whole(path) as part_file:
            figure.savefig(part_file, format=path.suffix[1:], dpi=200)
        plt.close(figure)
