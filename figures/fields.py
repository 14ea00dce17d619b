"""What the receptive-field figures share: the photographs, the networks, the arrangement, the numbers beside it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from card import HERE, Picture, save_card
from matplotlib.figure import Figure as Drawing
from sources import ROOT, digest_of, sources_of
from torch import Tensor, nn

from analysis.ablate import files_of
from analysis.field import ERF
from analysis.kept import kept_field
from analysis.panels import caption, erf_panels
from analysis.summary import summarise
from analysis.verdicts import Verdict
from evssm import build, load
from evssm.data.embedded import embedded_test
from evssm.data.motorcycle import DefocusTest
from evssm.data.pairs import Pairs, each
from evssm.images import crop_centre
from evssm.weights import bundled

Track = Callable[[str], Callable[..., None]]

SIZE = 128
"""Pixels of each photograph's middle, high and wide."""

EXTENTS = (8, 24)
"""Pixels that the camera travels along a line, in the blurred images that the networks are shown."""


@cache
def held_out() -> dict[str, Tensor]:
    """The middle of each photograph that no network was trained on, blurred by camera motion of two extents."""
    return _middles(embedded_test(extents=EXTENTS, straight=True))


@cache
def out_of_focus(dual_pixel: bool) -> dict[str, Tensor]:
    """The middle of the scene's held-out part, at each focus and blur of the test; or its two dual-pixel views."""
    return _middles(DefocusTest(dual_pixel=dual_pixel))


def _middles(pairs: Pairs) -> dict[str, Tensor]:
    return {pair.name: crop_centre(pair.blurred, SIZE, SIZE) for pair in each(pairs)}


def computed(*modules: str) -> Path:
    """The folder for what these files of `analysis/` compute; of earlier versions of them, nothing is left there."""
    code = digest_of(sources_of(*(ROOT / "analysis" / f"{name}.py" for name in modules)))
    folder = HERE / "data" / f"{modules[0]}-{code[:12]}"
    for older in folder.parent.glob(f"{modules[0]}-*"):
        if older != folder:
            shutil.rmtree(older)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fields_of_seeds(name: str, track: Track, images: Mapping[str, Tensor] | None = None) -> list[ERF]:
    """The fields of a network, one per bundled seed; of fresh weights where none is bundled.

    `images` are what it is shown, `held_out()` where none are given.
    """
    folder = computed("kept")
    found = [
        kept_field(
            folder / f"{seed}.npz",
            load(seed) if seed in bundled() else _fresh(seed),
            list((images or held_out()).values()),
            progress=track(f"field of {seed}"),
            command="python figures/make.py",
        )
        for seed in list(files_of(name, bundled())) or [name]
    ]
    for field in found:
        field.provenance.pop("seconds", None)  # a clock's, and so of no use to whoever compares reruns
    return found


def draw_fields(
    figure: str,
    fields: Mapping[str, Sequence[ERF]],
    claims: Sequence[Verdict],
    table: str,
    *,
    script: str = "",
    images: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """The files of a figure with one panel for each network, the seeds of each pooled, and its numbers as a table.

    `script` makes it, by default one of its name; `images` are what the networks were shown, by default `held_out()`.
    """
    pooled = {title: ERF.pooled(seeds) for title, seeds in fields.items()}
    alt = _in_words(pooled)

    def arranged(style: str) -> Callable[[bool, bool], Drawing]:
        narrowed = {"columns": 3, "width": 3.5}
        return lambda captioned, narrow: erf_panels(
            pooled, style=style, captioned=captioned, **(narrowed if narrow else {})
        )

    return save_card(
        figure,
        [
            Picture(
                arranged("honest"), f"{alt} Logarithmic scale over four decades, 80 dB, from black to pale yellow."
            ),
            Picture(
                arranged("paper"),
                f"{alt} Drawn as published fields are: the fourth root, from pale yellow to green.",
                "In the published style: RdYlGn, fourth root. It lifts the faint parts.",
                "_paper",
            ),
        ],
        script=script or figure,
        table=table,
        caption=caption(pooled),
        weights=[seed.provenance["provenance"] or _nothing(seed) for seeds in fields.values() for seed in seeds],
        images=images or held_out(),
        facts={
            "fields": {title: {**summarise(field), "made": field.provenance} for title, field in pooled.items()},
            "claims": [str(claim) for claim in claims],
        },
    )


def _in_words(pooled: Mapping[str, ERF]) -> str:
    """What the panels show, for those who do not see them."""
    found = [
        f"{title}{' (untrained weights)' if field.untrained else ''}, half within {field.radius(0.5):.0f} px and 90 % "
        f"within {field.radius(0.9):.0f} px"
        for title, field in pooled.items()
    ]
    return (
        f"{len(pooled)} maps side by side, one per network, of how strongly each pixel around the middle one moves "
        f"that pixel's output. Share of the sensitivity: {'; '.join(found)}."
    )


def _nothing(field: ERF) -> dict[str, object]:
    """What a card says of weights that nobody trained."""
    made = field.provenance
    return {"model": made["network"], "weights": "untrained", "tensors_sha256": made["weights"], "file": None}


def _fresh(name: str) -> nn.Module:
    """The network of that name, whatever data the name says that it would have been trained on."""
    torch.manual_seed(0)
    return build(name.removesuffix("-defocus"))
