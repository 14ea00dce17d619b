"""Fig. 4 of the supplement: receptive fields of EVSSM beside a CNN or Transformer of every kind it is compared with."""

from functools import cache
from pathlib import Path

from fields import Track, draw_fields, fields_of_seeds

from analysis.field import ERF
from analysis.field_table import field_table
from analysis.verdicts import Verdict, compare

NETWORKS = {
    "mimo-unet-plus-compact": "MIMO-UNet+",
    "nafnet-compact": "NAFNet",
    "restormer-compact": "Restormer",
    "fftformer-compact": "FFTformer",
    "stripformer-compact": "Stripformer",
    "evssm-compact": "EVSSM",
}


@cache
def measured(track: Track) -> tuple[dict[str, list[ERF]], list[Verdict]]:
    """The fields of each network, one per seed, and the verdicts on the supplement's claim about them."""
    fields = {title: fields_of_seeds(name, track) for name, title in NETWORKS.items()}
    ours = fields["EVSSM"]
    claims = [
        compare(f"EVSSM reaches farther than {title}", ours, theirs, "radius", share=0.9, label="R90 in px")
        for title, theirs in fields.items()
        if theirs is not ours and theirs[0].untrained == ours[0].untrained
    ]
    return fields, claims


@cache
def table(track: Track) -> str:
    """The numbers of each network, with intervals, and the verdicts below them."""
    return field_table(*measured(track))


def make(track: Track) -> list[Path]:
    return draw_fields("erf_networks", *measured(track), table(track))
