"""Fig. 5 of the supplement: receptive fields of EVSSM with and without its turns, and with four-direction scanning."""

from functools import cache
from pathlib import Path

from fields import Track, draw_fields, fields_of_seeds

from analysis.field import ERF
from analysis.field_table import field_table
from analysis.verdicts import Verdict, compare

NETWORKS = {
    "evssm-no-geot-compact": "w/o F&T",
    "evssm-no-transpose-compact": "w/o T",
    "evssm-no-flip-compact": "w/o F",
    "evssm-four-direction-compact": "four-direction",
    "evssm-compact": "EVSSM",
}

LARGER = (
    ("EVSSM", "w/o T"),
    ("EVSSM", "w/o F"),
    ("w/o T", "w/o F&T"),
    ("w/o F", "w/o F&T"),
    ("EVSSM", "w/o F&T"),
)
"""The supplement's claim about Fig. 5: the first of each pair has the larger field."""

EQUAL_WITHIN = 0.1
"""Fields count as equal where their radii differ by less than this share."""


@cache
def measured(track: Track) -> tuple[dict[str, list[ERF]], list[Verdict]]:
    """The fields of each variant, one per seed, and the verdicts on the supplement's claims about them."""
    fields = {title: fields_of_seeds(name, track) for name, title in NETWORKS.items()}
    radius = {"statistic": "radius", "share": 0.9, "label": "R90 in px"}
    claims = [compare(f"{a} reaches farther than {b}", fields[a], fields[b], **radius) for a, b in LARGER]
    ours, four = fields["EVSSM"], fields["four-direction"]
    margin = EQUAL_WITHIN * ERF.pooled(ours).radius(0.9)
    claims.append(
        compare("EVSSM reaches as far as four-direction", ours, four, **radius, expected="equal", margin=margin)
    )
    return fields, claims


@cache
def table(track: Track) -> str:
    """The numbers of each network, with intervals, and the verdicts below them."""
    return field_table(*measured(track))


def make(track: Track) -> list[Path]:
    return draw_fields("erf_transforms", *measured(track), table(track))
