"""Fig. 5 of the supplement: receptive fields of EVSSM with and without its turns, and with four-direction scanning."""

from pathlib import Path

from fields import draw_fields, fields_of_seeds, held_out

from analysis.field import ERF
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


def measured() -> tuple[dict[str, list[ERF]], list[Verdict]]:
    """The fields of each variant, one per seed, and the verdicts on the supplement's claims about them."""
    images = held_out()
    fields = {title: fields_of_seeds("erf_transforms", name, images) for name, title in NETWORKS.items()}
    radius = {"statistic": "radius", "share": 0.9, "label": "R90 in px"}
    claims = [compare(f"{a} reaches farther than {b}", fields[a], fields[b], **radius) for a, b in LARGER]
    ours, four = fields["EVSSM"], fields["four-direction"]
    margin = EQUAL_WITHIN * ERF.pooled(ours).radius(0.9)
    claims.append(
        compare("EVSSM reaches as far as four-direction", ours, four, **radius, expected="equal", margin=margin)
    )
    return fields, claims


def make() -> list[Path]:
    return draw_fields("erf_transforms", *measured())
