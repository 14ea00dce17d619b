"""Figures of curves and shares that `evssm measure` makes, each with how it was made below it."""

import numpy as np
from matplotlib.figure import Figure

from analysis.alignment import Alignments
from analysis.growth import Growth
from analysis.half_planes import HalfPlaneShares
from analysis.knock_out_table import KnockOuts
from analysis.measure_frame import WIDTH, badges, framed
from analysis.measure_plots import draw_changes, draw_growth, draw_shares
from analysis.plots import draw_erf
from analysis.selection_share import Selection
from analysis.transfer import Transfer

SIDES = ("up", "down", "left", "right")


def growth_panel(growth: Growth) -> Figure:
    """Radii and standard deviations after every block, scanning blocks with dots."""
    names = [step.name for step in growth.steps]
    column = {key: [row[key] for row in growth.rows()] for key in growth.rows()[0]}
    with framed(growth.provenance, (WIDTH, 4.0), 2, 1, sharex=True) as (figure, (above, below)):
        marked = column["scans"] if any(column["scans"]) else None
        band = (column["low"], column["high"])
        radii = {"$R_{90}$": column["r90"], "$R_{50}$": column["r50"]}
        draw_growth(above, names, radii, band=band, marked=marked, label="radius [image px]")
        spreads = {r"$\sigma_y$": column["sigma_y"], r"$\sigma_x$": column["sigma_x"]}
        draw_growth(below, names, spreads, label="standard deviation [image px]")
        above.tick_params(labelbottom=False)
        badges(growth.provenance, (above, below))
    return figure


def half_planes_panel(shares: HalfPlaneShares) -> Figure:
    """The whole field, what the scans add to it where that is known, and the shares of the four sides."""
    rows = shares.rows()
    shown = {name: field for name, field in shares.fields.items() if not name.startswith("beyond")}
    with framed(shares.provenance, (WIDTH, 2.6), 1, len(shown) + 1) as (figure, axes):
        for ax, (name, field) in zip(axes, shown.items(), strict=False):
            draw_erf(ax, field.map, untrained=field.untrained)
            ax.set_title(name)
        groups = {row["field"]: [row[side] for side in SIDES] for row in rows}
        whiskers = {row["field"]: [(row[f"{side} low"], row[f"{side} high"]) for side in SIDES] for row in rows}
        draw_shares(axes[-1], SIDES, groups, whiskers)
        axes[-1].set(xlabel="share of the field's mass", title="half-planes")
        badges(shares.provenance, axes[-1:])
    return figure


def selection_panel(selection: Selection) -> Figure:
    """Bars for every scanning module: the selection share of the whole row, and off the query's cell."""
    rows = selection.rows()
    names = [row["stage"] for row in rows]
    with framed(selection.provenance, (WIDTH / 2, 0.9 + 0.22 * len(rows)), 1, 1) as (figure, (ax,)):
        draw_shares(
            ax, names, {"whole row": [r["share"] for r in rows], "off the query": [r["off_query"] for r in rows]}
        )
        ax.set(xlabel=r"$|J - R|_1 / |J|_1$", title="selection share")
        badges(selection.provenance, (ax,))
    return figure


def knock_outs_panel(found: KnockOuts) -> Figure:
    """What each knock-out changes: PSNR (the output where no sharp image is known) and the 90 % radius."""
    rows = found.rows()[1:]
    labels = [f"{row['part']}, {row['stage']}" for row in rows]
    scored = all(np.isfinite(row["psnr_change"]) for row in rows)
    first = ("psnr_change", "change of PSNR [dB]") if scored else ("output_change", "rms change of the output")
    columns = (first, ("r90_change", "change of $R_{90}$ [px]"))
    with framed(found.provenance, (WIDTH, 0.9 + 0.16 * len(rows)), 1, 2, sharey=True) as (figure, axes):
        for ax, (key, title) in zip(axes, columns, strict=True):
            draw_changes(ax, labels, [row[key] for row in rows], strong=[row["stage"] == "all" for row in rows])
            ax.set_xlabel(title)
        badges(found.provenance, axes)
    return figure


def alignment_panel(found: Alignments) -> Figure:
    """The field's axis against the blur's direction, and its reach along and across against the blur's length."""
    lengths = list(dict.fromkeys(motion.length for motion in found.motions))
    with framed(found.provenance, (WIDTH, 2.8), 1, 2) as (figure, (left, right)):
        left.plot([-15, 180], [-15, 180], color="0.8", zorder=0)
        for length in lengths:
            of = [m for m in found.motions if m.length == length]
            nearest = [m.angle + (m.axis - m.angle + 90) % 180 - 90 for m in of]  # axes have no sign
            name = f"{length:g} px, mean score {found.scores()[length]:.2f}"
            left.plot([m.angle for m in of], nearest, "o", label=name)
        left.set(xlabel="direction of the blur [deg]", ylabel="long axis of the field [deg]", title="alignment")
        left.set_ylim(-100, 300)  # room for the legend
        left.legend(loc="upper left")
        for key, mark in (("along", "o-"), ("across", "s--")):
            means = [np.mean([getattr(m, key) for m in found.motions if m.length == length]) for length in lengths]
            right.plot(lengths, means, mark, label=f"{key} the motion")
        right.set(xlabel="length of the blur [px]", ylabel="$R_{90}$ [px]", title="reach", ylim=(0, None))
        right.legend(loc="lower right")
        badges(found.provenance, (left, right))
    return figure


def transfer_panel(found: Transfer) -> Figure:
    """The gain by frequency beside the ideal inverse, and what network and blur together leave, by direction."""
    rows = found.rows()
    directions = list(dict.fromkeys(row["direction"] for row in rows))
    shown = (
        ("gain", "network $|H|$"),
        ("ideal", "ideal $1/|K|$"),
        ("blur", "blur $|K|$"),
        ("together", "both, Re $HK$"),
    )
    known = found.blur is not None
    note = (
        f"; straight blur of {found.provenance['length']:g} px at {found.angle:g} degrees"
        if known and "length" in found.provenance
        else ""
    )
    with framed(found.provenance, (WIDTH, 2.6), 1, len(directions), note=note, sharey=True) as (figure, axes):
        for ax, direction in zip(axes, directions, strict=True):
            of = [row for row in rows if row["direction"] == direction]
            middle = [(row["from"] + row["to"]) / 2 for row in of]
            for index, (key, name) in enumerate(shown if known else shown[:1]):
                ax.plot(middle, [row[key] for row in of], ("o-", "--", ":", "s-")[index], label=name)
            ax.axhline(1, color="0.8", linewidth=0.6, zorder=0)
            ax.set(xlabel="frequency [cycles/px]", title=_direction(direction))
            ax.set_yscale("symlog", linthresh=1)
        axes[0].set_ylabel("gain")
        axes[0].legend(loc="best")
        badges(found.provenance, axes)
    return figure


def _direction(name: str) -> str:
    return "all directions" if name == "all" else f"{name} the motion"
