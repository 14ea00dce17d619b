"""Fig. 5 of the supplement: receptive fields of EVSSM with and without its turns, and with four-direction scanning."""

from pathlib import Path

from fields import draw_fields

NETWORKS = {
    "evssm-no-geot": "w/o F&T",
    "evssm-no-transpose": "w/o T",
    "evssm-no-flip": "w/o F",
    "evssm-four-direction": "four-direction",
    "evssm": "EVSSM",
}


def make() -> list[Path]:
    return draw_fields("erf_transforms", NETWORKS)
