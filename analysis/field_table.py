"""The numbers of several networks' fields as a table that stands beside their picture."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from analysis.field import ERF
from analysis.verdicts import Verdict

BEYOND = 8
"""Pixels from the query up to which convolutions reach by themselves; directions are compared beyond."""

COLUMNS: dict[str, Callable[[ERF], float]] = {
    "R50 [px]": lambda erf: erf.radius(0.5),
    "R90 [px]": lambda erf: erf.radius(0.9),
    "area ratio 50 %": lambda erf: erf.area_ratio(0.5),
    "area ratio 99 %": lambda erf: erf.area_ratio(0.99),
    "up-down": lambda erf: erf.asymmetry(BEYOND).vertical,
    "left-right": lambda erf: erf.asymmetry(BEYOND).horizontal,
    "raster-causal share": lambda erf: erf.asymmetry(BEYOND).raster,
}
"""Heading -> number; asymmetries in [-1, 1] and the share of what a raster scan has seen are beyond `BEYOND` px."""


def field_table(fields: Mapping[str, Sequence[ERF]], claims: Sequence[Verdict] = ()) -> str:
    """Markdown: a row for each network with 95 % intervals over images, seeds pooled, and the verdicts on claims.

    Beside the pooled number stand those of the single seeds, where there are several. Where weights are untrained no
    claim is judged.
    """
    lines = [
        "| network | seeds | weights | " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * (len(COLUMNS) + 3),
    ]
    for title, seeds in fields.items():
        pooled = ERF.pooled(seeds)
        cells = [_cell(measure, pooled, seeds) for measure in COLUMNS.values()]
        lines.append(f"| {title} | {len(seeds)} | {_weights(pooled)} | " + " | ".join(cells) + " |")
    first = next(iter(fields.values()))[0]
    lines += [
        "",
        f"95 % bootstrap intervals over {len(first.mass)} images in brackets; after the slash, each seed by itself. "
        f"Directions are compared beyond {BEYOND} px of the query.",
    ]
    if any(seeds[0].untrained for seeds in fields.values()):
        lines += [
            "",
            "Some of these weights are untrained: they say nothing about the paper's claims, so none is judged.",
        ]
    elif claims:
        lines += ["", "## What the paper says, and what shows here", "", *(f"- {claim}" for claim in claims)]
    return "\n".join(lines) + "\n"


def _cell(measure: Callable[[ERF], float], pooled: ERF, seeds: Sequence[ERF]) -> str:
    low, high = pooled.interval(measure) if len(pooled.mass) > 1 else (np.nan, np.nan)
    alone = " / " + ", ".join(f"{measure(seed):.3g}" for seed in seeds) if len(seeds) > 1 else ""
    return f"{measure(pooled):.3g} [{low:.3g}, {high:.3g}]{alone}"


def _weights(field: ERF) -> str:
    made = field.provenance.get("provenance") or {}
    return f"{made['steps']} steps" if made.get("steps") else "untrained" if field.untrained else "as given"
