"""Fig. 4 of the supplement, extended: receptive fields of the systems that it compares scores and pictures with."""

from functools import cache
from pathlib import Path

from fields import Track, draw_fields, fields_of_seeds, held_out, out_of_focus
from torch import Tensor

from analysis.field_table import field_table

MOTION, DEFOCUS, DUAL_PIXEL = "erf_older", "erf_defocus", "erf_dual_pixel"

NETWORKS = {
    MOTION: {"deblurgan-compact": "DeblurGAN", "srn-compact": "SRN", "evssm-compact": "EVSSM"},
    DEFOCUS: {
        "dpdnet-compact": "DPDNet",
        "kpac-compact": "KPAC",
        "ifan-compact": "IFAN",
        "restormer-compact-defocus": "Restormer",
        "evssm-compact-defocus": "EVSSM",
    },
    DUAL_PIXEL: {
        "dpdnet-dual-pixel-compact": "DPDNet",
        "kpac-dual-pixel-compact": "KPAC",
        "ifan-dual-pixel-compact": "IFAN",
        "restormer-dual-pixel-compact": "Restormer",
    },
}
"""Figure -> file of weights -> title. Networks of one view and of two are apart."""


@cache
def images_of(figure: str) -> dict[str, Tensor]:
    """What the networks of a figure are shown."""
    return held_out() if figure == MOTION else out_of_focus(dual_pixel=figure == DUAL_PIXEL)


def make(track: Track) -> list[Path]:
    written = []
    for figure, networks in NETWORKS.items():
        images = images_of(figure)
        fields = {title: fields_of_seeds(name, track, images) for name, title in networks.items()}
        written += draw_fields(figure, fields, [], field_table(fields), script="erf_systems", images=images)
    return written
