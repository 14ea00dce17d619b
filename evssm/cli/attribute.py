"""`evssm attribute`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    file_for,
    peak_memory,
    plain,
    progress,
    tasks_of,
    the_network,
    the_region,
    the_selector,
    told_in_a_line,
    whole_photograph,
)
from evssm.cli.options import (
    Box,
    Check,
    Local,
    MiddleOfOne,
    Networks,
    OfRegion,
    Out,
    Photograph,
    Reduce,
    Seed,
    Select,
    Surroundings,
    Untrained,
    WeightsOfEach,
)

if TYPE_CHECKING:
    from torch import Tensor


@app.command(epilog="Example: evssm attribute evssm-compact --image photo.png --box 120,300,32,32 --out results")
def attribute(
    networks: Networks,
    weights: WeightsOfEach = None,
    image: Photograph = None,
    size: MiddleOfOne = None,
    box: Box = "centre",
    surroundings: Surroundings = "96",
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
    reduce: Reduce = "grad",
    residual: OfRegion = "include",
    select: Select = None,
    check: Check = False,
    local: Local = False,
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("attribution"),
) -> None:
    """Which input pixels make up a region of the output: a picture, the maps as .npz and their numbers as .json."""
    from analysis.attribution_figure import attribution_panels, percent
    from analysis.attribution_verdict import check_attributions
    from analysis.attributions import METHODS, Settings
    from analysis.check_panels import check_panels
    from analysis.kept_attributions import kept_attributions
    from analysis.map_verdict import tally
    from analysis.panels import save_figure
    from evssm.sidecar import command_line, write_sidecar

    if unknown := [method for method in methods or () if method not in METHODS]:
        raise ValueError(f"--method {unknown[0]} is unknown; choose from {', '.join(METHODS)}")
    settings = Settings(steps, sigma, window)
    name, photograph = whole_photograph(image, size)
    seen, within, corner = the_region(photograph, box, surroundings)
    start = _baseline(baseline, photograph, image, size)
    if not (start is None or isinstance(start, str)):
        start = the_region(start, box, surroundings)[0]
    asked = list(dict.fromkeys(networks))
    made = {one: the_network(one, file_for(one, asked, weights or []), local, untrained, seed) for one in asked}
    chosen = the_selector(select)
    found, verdicts = {}, {}
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
                    select=chosen,
                    progress=lambda method, one=one: track(f"{one} {method}"),  # type: ignore[misc]
                )
                if check:
                    verdicts[one] = check_attributions(
                        net,
                        seen,
                        found[one],
                        baseline=start if not isinstance(start, str) else None,
                        select=chosen,
                        seed=seed,
                        track=tasks_of(track, one),
                    )
    notes = {one: tally(of_one) for one, of_one in verdicts.items()}
    figure = attribution_panels(found, seen[0], corner=corner, whole=photograph, notes=notes)
    picture = save_figure(figure, out / "attribution", command=command_line())
    maps = {(one, method): held for one, of_one in found.items() for method, held in of_one.items()}
    judged = {(one, method): said for one, of_one in verdicts.items() for method, said in of_one.items()}
    if judged:
        bare = {" ".join(key): maps[key].untrained for key in judged}
        panels = check_panels({" ".join(key): said for key, said in judged.items()}, bare)
        picture += save_figure(panels, out / "attribution_check", command=command_line())
    facts: dict[str, Any] = {one: {} for one in found}
    for (one, method), held in maps.items():
        facts[one][method] = {**held.numbers(), "made": held.provenance}
        if (one, method) in judged:
            facts[one][method]["check"] = judged[one, method].as_dict()
    sidecar = write_sidecar(
        out / "attribution.json",
        {
            "command": command_line(),
            "image": name,
            "seed": seed,
            "region": [within[0] + corner[0], within[1] + corner[1], *within[2:]],
            "seen": {"row": corner[0], "column": corner[1], "height": seen.shape[-2], "width": seen.shape[-1]},
            "peak_memory_bytes": peak_memory(),
            "maps": facts,
        },
    )
    for path in (*picture, sidecar):
        typer.echo(path)
    for (one, method), held in maps.items():
        gap, index = percent(held.completeness_gap), held.diffusion_index
        typer.echo(f"{one} {method}: completeness gap {gap}, diffusion index {index:.3g}")
        if (one, method) in judged:
            typer.echo(f"{one} {method}: {judged[one, method]}")
    typer.echo(f"peak memory {peak_memory() / 2**30:.2f} GiB")


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
