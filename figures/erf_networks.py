"""Fig. 4 of the supplement: receptive fields of EVSSM beside a CNN or Transformer of every kind it is compared with."""

from pathlib import Path

from fields import draw_fields

NETWORKS = {
    "mimo-unet-plus": "MIMO-UNet+",
    "nafnet": "NAFNet",
    "restormer": "Restormer",
    "fftformer": "FFTformer",
    "stripformer": "Stripformer",
    "evssm": "EVSSM",
}


def make() -> list[Path]:
    return draw_fields("erf_networks", NETWORKS)
