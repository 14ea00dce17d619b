"""Fig. 4 of the supplement: receptive fields of EVSSM beside a CNN or Transformer of every kind it is compared with."""

from pathlib import Path

from fields import draw_fields, fields_of_seeds, held_out

from analysis.field import ERF
from analysis.verdicts import Verdict, compare

NETWORKS = {
    "mimo-unet-plus-compact": "MIMO-UNet+",
    "nafnet-compact": "NAFNet",
    "restormer-compact": "Restormer",
    "fftformer-compact": "FFTformer",
    "stripformer-compact": "Stripformer",
    "evssm-compact": "EVSSM",
}


def measured() -> tuple[dict[str, list[ERF]], list[Verdict]]:
    """The fields of each network, one per seed, and the verdicts on the supplement's claim about them."""
    images = held_out()
    fields = {title: fields_of_seeds("erf_networks", name, images) for name, title in NETWORKS.items()}
    ours = fields["EVSSM"]
    claims = [
        compare(f"EVSSM reaches farther than {title}", ours, theirs, "radius", share=0.9, label="R90 in px")
        for title, theirs in fields.items()
        if theirs is not ours and theirs[0].untrained == ours[0].untrained
    ]
    return fields, claims


def make() -> list[Path]:
    return draw_fields("erf_networks", *measured())
