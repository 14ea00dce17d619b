"""`evssm attribute`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import file_for, peak_memory, plain, progress, the_network, told_in_a_line, whole_photograph

if TYPE_CHECKING:
    from torch import Tensor


@app.command(epilog="Example: evssm attribute evssm-compact --image photo.png --box 120,300,32,32 --out results")
def attribute(
    networks: Annotated[
        list[str], typer.Argument(help="Names from `evssm list`, or your own network as package.module:callable.")
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights, as FILE for a single network or NAME=FILE; official checkpoints or our own files."),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="An image; a bundled photograph otherwise.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Cut N or HxW pixels from the image's middle; the bundled one is cut to 256.")
    ] = None,
    box: Annotated[
        str, typer.Option(help="The region as ROW,COLUMN,HEIGHT,WIDTH in what is left after cutting, or centre.")
    ] = "centre",
    surroundings: Annotated[
        str, typer.Option(help="Pixels around the region that the network sees, or whole: all of the image.")
    ] = "96",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="lam, integrated_gradients, gradient_x_input or occlusion; repeat for several, all else."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradients along the paths of lam and integrated_gradients.")] = 25,
    sigma: Annotated[float, typer.Option(help="Blur in px at which the path of lam begins.")] = 1.2,
    window: Annotated[int, typer.Option(help="Edge in px of the squares of occlusion.")] = 32,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What all but lam compare with: black, mean, blur, or an image such as the sharp one; by default "
            "black for gradient_x_input, mean otherwise."
        ),
    ] = None,
    reduce: Annotated[str, typer.Option(help="grad: how strong the region's edges are; sum: of its values.")] = "grad",
    residual: Annotated[str, typer.Option(help="include: of F(x); exclude: of F(x) - x.")] = "include",
    local: Annotated[bool, typer.Option("--local", help="Released test-time windows (EVSSM, NAFNet).")] = False,
    untrained: Annotated[
        bool,
        typer.Option("--untrained", help="Random weights, also where trained ones are bundled; the picture says so."),
    ] = False,
    seed: Annotated[int, typer.Option(help="For random weights.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("attribution"),
) -> None:
    """Which input pixels make up a region of the output: a picture, the maps as .npz and their numbers as .json."""
    from analysis.attribution_figure import attribution_panels, percent
    from analysis.attributions import METHODS, Settings, region_of
    from analysis.kept_attributions import kept_attributions
    from analysis.panels import save_figure
    from analysis.regions import around
    from evssm.sidecar import command_line, write_sidecar

    if unknown := [method for method in methods or () if method not in METHODS]:
        raise ValueError(f"--method {unknown[0]} is unknown; choose from {', '.join(METHODS)}")
    settings = Settings(steps, sigma, window)
    name, photograph = whole_photograph(image, size)
    h, w = photograph.shape[-2:]
    region = region_of(_box(box), h, w)
    seen, within, corner = around(photograph[None], region, _margin(surroundings, h, w))
    start = _baseline(baseline, photograph, image, size)
    if not (start is None or isinstance(start, str)):
        start = around(start[None], region, _margin(surroundings, h, w))[0]
    asked = list(dict.fromkeys(networks))
    made = {one: the_network(one, file_for(one, asked, weights or []), local, untrained, seed) for one in asked}
    found = {}
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        for one, net in made.items():
            with told_in_a_line(one, own=":" in one):
                found[one] = kept_attributions(
                    out / f"attribution_{plain(one)}.npz",
                    net,
                    seen,
                    within,
                    list(dict.fromkeys(methods or METHODS)),
                    settings=settings,
                    baseline=start,
                    reduce=reduce,
                    residual=residual,
                    progress=lambda method, one=one: track(f"{one} {method}"),  # type: ignore[misc]
                )
    figure = attribution_panels(found, seen[0], corner=corner, whole=photograph)
    picture = save_figure(figure, out / "attribution", command=command_line())
    sidecar = write_sidecar(
        out / "attribution.json",
        {
            "command": command_line(),
            "image": name,
            "seed": seed,
            "region": region,
            "seen": {"row": corner[0], "column": corner[1], "height": seen.shape[-2], "width": seen.shape[-1]},
            "peak_memory_bytes": peak_memory(),
            "maps": {
                one: {method: {**a.numbers(), "made": a.provenance} for method, a in maps.items()}
                for one, maps in found.items()
            },
        },
    )
    for path in (*picture, sidecar):
        typer.echo(path)
    for one, maps in found.items():
        for method, attribution in maps.items():
            gap, index = percent(attribution.completeness_gap), attribution.diffusion_index
            typer.echo(f"{one} {method}: completeness gap {gap}, diffusion index {index:.3g}")
    typer.echo(f"peak memory {peak_memory() / 2**30:.2f} GiB")


def _box(text: str) -> str | tuple[int, ...]:
    """A region's four numbers; anything else as it is."""
    return tuple(map(int, text.split(","))) if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){3}", text) else text


def _margin(text: str, h: int, w: int) -> int:
    """Pixels around the region."""
    if text == "whole":
        return max(h, w)
    if not text.isdecimal():
        raise ValueError(f"--surroundings {text} is neither a number of pixels nor whole; try 96")
    return int(text)


def _baseline(asked: str | None, photograph: "Tensor", image: Path | None, size: str | None) -> "str | Tensor | None":
    """The baseline by name, or an image file of the same size, cut as the image was."""
    from analysis.attributions import BASELINES

    if asked is None or asked in BASELINES:
        return asked
    if not Path(asked).exists():
        raise ValueError(f"--baseline {asked} is neither a file nor one of {', '.join(BASELINES)}")
    if image is None:
        raise ValueError("--baseline FILE goes with --image FILE")
    found = whole_photograph(Path(asked), size)[1]
    if found.shape != photograph.shape:
        raise ValueError(
            f"--baseline {asked} has {tuple(found.shape[-2:])} pixels, the image {tuple(photograph.shape[-2:])}"
        )
    return found
