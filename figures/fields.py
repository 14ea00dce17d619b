"""What the receptive-field figures share: the photographs, the networks, the arrangement, the numbers beside it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from analysis.ablate import files_of
from analysis.field import ERF
from analysis.field_table import field_table
from analysis.kept import kept_field
from analysis.panels import erf_panels, save_figure
from analysis.summary import summarise
from analysis.verdicts import Verdict
from evssm import build, load
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre
from evssm.provenance import written_whole
from evssm.sidecar import write_sidecar
from evssm.weights import bundled

HERE = Path(__file__).parent
SIZE = 128
"""Pixels of each photograph's middle, high and wide."""

EXTENTS = (8, 24)
"""Pixels that the camera travels along a line, in the blurred images that the networks are shown."""


def held_out() -> list[Tensor]:
    """The middle of each photograph that no network was trained on, blurred by camera motion of two extents."""
    pairs = embedded_test(extents=EXTENTS, straight=True)
    return [crop_centre(pairs[i].blurred, SIZE, SIZE) for i in range(len(pairs))]


def fields_of_seeds(figure: str, name: str, images: Sequence[Tensor]) -> list[ERF]:
    """The fields of a network, one per bundled seed; of fresh weights where none is bundled."""
    (HERE / "data").mkdir(exist_ok=True)
    seeds = list(files_of(name, bundled()))
    return [
        kept_field(
            HERE / "data" / f"{figure}_{seed}.npz",
            load(seed) if seed in bundled() else _fresh(seed),
            images,
            progress=counter(seed),
            command=_command(figure),
        )
        for seed in seeds or [name]
    ]


def draw_fields(figure: str, fields: Mapping[str, Sequence[ERF]], claims: Sequence[Verdict] = ()) -> list[Path]:
    """The files of a figure with one panel for each network, the seeds of each pooled; table and claims beside it."""
    if any(seeds[0].untrained for seeds in fields.values()):
        claims = ()
    pooled = {title: ERF.pooled(seeds) for title, seeds in fields.items()}
    numbers = {title: {**summarise(field), "made": field.provenance} for title, field in pooled.items()}
    facts = {"command": _command(figure), "fields": numbers, "claims": [str(claim) for claim in claims]}
    sidecar = write_sidecar(HERE / f"{figure}.json", facts)
    table = HERE / f"{figure}.md"
    with written_whole(table) as part:
        part.write_text(field_table(fields, claims), encoding="utf-8")
    return [*save_figure(erf_panels(pooled), HERE / figure, command=_command(figure)), sidecar, table]


def _fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name)


def _command(figure: str) -> str:
    return f"python figures/make.py {figure}"


def counter(name: str) -> Callable[[int, int], None]:
    """Counts on one line of standard error, where that is a terminal."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r    {name}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
