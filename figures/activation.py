"""Fig. 6 of the supplement: what one pixel gathers in every scan of EVSSM, with four directions, and without turns."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from card import Picture, save_card
from fields import Track

from analysis.activation_figure import activation_panels, caption
from analysis.activations import activation_maps
from analysis.row_map import ScanRow
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre

NETWORKS = {
    "evssm-compact": "EVSSM",
    "evssm-four-direction-compact": "four-direction",
    "evssm-no-geot-compact": "w/o F&T",
}
SIZE = (128, 160)
QUERY = (64, 80)
EXTENT = 12
"""Pixels that the camera travels along a line."""

DECADES = 4


def make(track: Track) -> list[Path]:
    pair = embedded_test(extents=(EXTENT,), straight=True)[0]
    image = crop_centre(pair.blurred, *SIZE)
    nets = {title: load(name) for name, title in NETWORKS.items()}
    rows = {
        title: activation_maps(net, image, QUERY, keep_channels=False, progress=track(f"maps of {title}"))
        for title, net in nets.items()
    }
    seen = {title: _seen(of_one) for title, of_one in rows.items()}
    return save_card(
        "activation",
        [
            Picture(
                lambda captioned, narrow: activation_panels(
                    rows,
                    image,
                    decades=DECADES,
                    captioned=captioned,
                    **({"columns": 3, "width": 3.5} if narrow else {}),
                ),
                f"A blurred photograph with a red star on its pixel {QUERY[0]}, {QUERY[1]}, and for each of "
                f"{len(rows)} networks a map per module of what that pixel gathers there. {_in_words(rows, seen)}",
            )
        ],
        script="activation",
        table=_table(rows, seen),
        caption=caption([row for of_one in rows.values() for row in of_one.values()], "each", "log", DECADES),
        weights=[net.provenance.as_dict() for net in nets.values()],
        images={pair.name: image},
        facts={
            "query": list(QUERY),
            "maps": {
                title: {stage: {"error": row.check(), "made": row.provenance} for stage, row in of_one.items()}
                for title, of_one in rows.items()
            },
        },
    )


def _seen(rows: Mapping[str, ScanRow]) -> tuple[list[float], list[float]]:
    """For each module the share of the image that its scan allows, and the mean distance it gathers from, in px."""
    allowed, reach = [], []
    for row in rows.values():
        mass = np.abs(row.map[row.inside])
        down, across = np.indices(mass.shape)
        far = np.hypot(down - row.cell[0], across - row.cell[1]) * row.stride
        allowed.append(float(row.support[row.inside].mean()))
        reach.append(float((mass * far).sum() / mass.sum()))
    return allowed, reach


def _in_words(rows: Mapping[str, Mapping[str, ScanRow]], seen: Mapping[str, tuple[list[float], list[float]]]) -> str:
    found = [
        f"{title}: {len(rows[title])} modules, each of which may see {min(allowed):.0%} of the image or more and which "
        f"gather from {np.mean(reach):.0f} px away on average"
        for title, (allowed, reach) in seen.items()
    ]
    return f"{'; '.join(found)}."


def _table(rows: Mapping[str, Mapping[str, ScanRow]], seen: Mapping[str, tuple[list[float], list[float]]]) -> str:
    lines = [
        "| network | modules | a module may see, least | most | gathers from [px] | largest error of a row |",
        "|---|---|---|---|---|---|",
    ]
    for title, (allowed, reach) in seen.items():
        worst = max(row.check() for row in rows[title].values())
        lines.append(
            f"| {title} | {len(reach)} | {min(allowed):.1%} | {max(allowed):.1%} | {np.mean(reach):.1f} | {worst:.1e} |"
        )
    lines += [
        "",
        "One image, one query, hence no intervals. What a module may see is the share of pixels that the order of its "
        "scans allows: architecture, not learning. Where it gathers from is the mean distance, weighted by the map, "
        "over modules. The error is that of the row, multiplied with what entered the scan, against what left it.",
    ]
    return "\n".join(lines) + "\n"
