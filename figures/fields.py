"""What the receptive-field figures share: the photographs, the networks, the arrangement, the numbers beside it."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from analysis.kept import kept_field
from analysis.panels import erf_panels, save_figure
from analysis.summary import summarise
from evssm import build
from evssm.photographs import photographs
from evssm.sidecar import write_sidecar

HERE = Path(__file__).parent
SIZE = 96
"""Pixels of each photograph's middle, high and wide: full networks, five photographs, a laptop's patience."""


def draw_fields(figure: str, networks: Mapping[str, str]) -> list[Path]:
    """The files of a figure with one panel for each network, untrained weights, seed 0; fields are kept in `data/`."""
    images = list(photographs(SIZE).values())
    (HERE / "data").mkdir(exist_ok=True)
    command = f"python figures/make.py {figure}"
    fields = {}
    for name, title in networks.items():
        torch.manual_seed(0)
        fields[title] = kept_field(
            HERE / "data" / f"{figure}_{name}.npz", build(name), images, progress=_counter(name), command=command
        )
    numbers = {title: {**summarise(field), "made": field.provenance} for title, field in fields.items()}
    sidecar = write_sidecar(HERE / f"{figure}.json", {"command": command, "fields": numbers})
    return [*save_figure(erf_panels(fields), HERE / figure, command=command), sidecar]


def _counter(name: str) -> Callable[[int, int], None]:
    """Counts on one line of standard error, where that is a terminal."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r    {name}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
