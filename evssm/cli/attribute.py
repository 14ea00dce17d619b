"""`evssm attribute`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    answers,
    box_and_margin,
    file_for,
    image_sources,
    peak_memory,
    plain,
    progress,
    stem_of,
    tasks_of,
    the_selector,
    told_in_a_line,
    whole_photograph,
    write_table,
)
from evssm.cli.options import (
    PICTURES,
    Box,
    Check,
    Cluster,
    Device,
    Local,
    MiddleOfOne,
    Networks,
    OfRegion,
    Out,
    Photographs,
    Pictures,
    Reduce,
    Seed,
    Select,
    Surroundings,
    Threads,
    Untrained,
    WeightsOfEach,
    Workers,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from analysis.attribution import Attribution
    from analysis.map_verdict import MapVerdict


@app.command(epilog="Example: evssm attribute evssm-compact --image photo.png --box 120,300,32,32 --out results")
def attribute(
    networks: Networks,
    weights: WeightsOfEach = None,
    image: Photographs = None,
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
    pictures: Pictures = PICTURES,
    cluster: Cluster = None,
    workers: Workers = None,
    device: Device = "cpu",
    threads: Threads = None,
    out: Out = Path("attribution"),
) -> None:
    """Which input pixels make up a region of the output: a picture, the maps as .npz and their numbers as .json.

    Of several images the first few are drawn, and a table has the numbers of all.
    """
    from analysis.attribution_figure import attribution_panels
    from analysis.attribution_verdict import check_attributions
    from analysis.attributions import METHODS, Settings
    from analysis.map_verdict import tally
    from analysis.panels import save_figure
    from analysis.questions import AttributionQuestion
    from evssm.sidecar import command_line, write_sidecar
    from evssm.sources import NetworkSource

    if unknown := [method for method in methods or () if method not in METHODS]:
        raise ValueError(f"--method {unknown[0]} is unknown; choose from {', '.join(METHODS)}")
    photographs = image_sources(image or [], size)[: None if image else 1]
    if check and len(photographs) > 1:
        raise ValueError(f"--check judges the maps of one image, not of {len(photographs)}; name one")
    start, selected = _baseline(baseline, image or [], size), the_selector(select)
    settings, region = Settings(steps, sigma, window), box_and_margin(box, surroundings)
    questions = {
        method: AttributionQuestion(method, *region, settings, start, reduce, residual, selected)
        for method in dict.fromkeys(methods or METHODS)
    }
    asked = list(dict.fromkeys(networks))
    sources = {one: NetworkSource(one, file_for(one, asked, weights or []), local, untrained, seed) for one in asked}
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        where = cluster, workers, device, threads
        answered = answers(sources.values(), photographs, list(questions.values()), out, where, track)

        def maps_of(source: NetworkSource, number: int) -> dict[str, "Attribution"]:
            files = zip(questions.items(), answered[source][number], strict=True)
            return {method: question.load(path) for (method, question), path in files}

        first = next(iter(questions.values()))
        verdicts = {}
        for one, source in sources.items() if check else ():
            with told_in_a_line(one, own=source.own):
                verdicts[one] = check_attributions(
                    source.make(),
                    first.seen(photographs[0].read())[0],
                    maps_of(source, 0),
                    baseline=None if start is None or isinstance(start, str) else first.seen(start)[0],
                    select=selected,
                    seed=seed,
                    track=tasks_of(track, one),
                )
    notes = {one: tally(of_one) for one, of_one in verdicts.items()}
    written: list[Path] = []
    for number, photograph in enumerate(photographs[:pictures] if len(photographs) > 1 else photographs):
        whole = photograph.read()
        seen, within, corner = first.seen(whole)
        found = {one: maps_of(source, number) for one, source in sources.items()}
        figure = attribution_panels(found, seen[0], corner=corner, whole=whole, notes=notes)
        written += save_figure(figure, out / stem_of("attribution", photographs, number), command=command_line())
    facts: dict[str, Any] = {"command": command_line(), "seed": seed, "peak_memory_bytes": peak_memory()}
    if len(photographs) == 1:
        about, lines, panels = _of_one(found, verdicts, out)
        written += panels
        facts |= {
            "image": photographs[0].name,
            "region": [within[0] + corner[0], within[1] + corner[1], *within[2:]],
            "seen": {"row": corner[0], "column": corner[1], "height": seen.shape[-2], "width": seen.shape[-1]},
            "maps": about,
        }
    else:
        table = [
            {"image": photograph.name, "network": one, "method": method, **held.numbers(), "file": path.name}
            for one, source in sources.items()
            for number, photograph in enumerate(photographs)
            for (method, held), path in zip(maps_of(source, number).items(), answered[source][number], strict=True)
        ]
        written.append(write_table(out / "attribution.csv", table))
        facts |= {"images": [photograph.name for photograph in photographs], "drawn": pictures}
        lines = _means(table)
    for path in (*written, write_sidecar(out / "attribution.json", facts)):
        typer.echo(path)
    for line in (*lines, f"peak memory {peak_memory() / 2**30:.2f} GiB"):
        typer.echo(line)


def _of_one(
    found: "dict[str, dict[str, Attribution]]", verdicts: "dict[str, dict[str, MapVerdict]]", out: Path
) -> tuple[dict[str, dict[str, Any]], list[str], list[Path]]:
    """What the sidecar says of the maps of one image, what is printed of them, and the pictures of the verdicts."""
    from analysis.attribution import save_attributions
    from analysis.attribution_figure import percent
    from analysis.check_panels import check_panels
    from analysis.panels import save_figure
    from evssm.sidecar import command_line

    maps = {(one, method): held for one, of_one in found.items() for method, held in of_one.items()}
    judged = {(one, method): said for one, of_one in verdicts.items() for method, said in of_one.items()}
    about: dict[str, dict[str, Any]] = {one: {} for one in found}
    lines = []
    for one, of_one in found.items():
        save_attributions(out / f"attribution_{plain(one)}.npz", of_one)
    for (one, method), held in maps.items():
        about[one][method] = {**held.numbers(), "made": held.provenance}
        gap, index = percent(held.completeness_gap), held.diffusion_index
        lines.append(f"{one} {method}: completeness gap {gap}, diffusion index {index:.3g}")
        if (one, method) in judged:
            about[one][method]["check"] = judged[one, method].as_dict()
            lines.append(f"{one} {method}: {judged[one, method]}")
    if not judged:
        return about, lines, []
    bare = {" ".join(key): maps[key].untrained for key in judged}
    panels = check_panels({" ".join(key): said for key, said in judged.items()}, bare)
    return about, lines, save_figure(panels, out / "attribution_check", command=command_line())


def _mean_of(values: "np.ndarray", chosen: "np.ndarray") -> float:
    return float(values[chosen].mean())


def _means(table: list[dict[str, Any]]) -> list[str]:
    """A line for each network and method: the mean diffusion index with its 95 % bootstrap interval over images."""
    import numpy as np

    from evssm.bootstrap import percentile_interval

    lines = []
    for one, method in dict.fromkeys((row["network"], row["method"]) for row in table):
        index = np.array([row["diffusion_index"] for row in table if (row["network"], row["method"]) == (one, method)])
        low, high = percentile_interval(partial(_mean_of, index), len(index))
        lines.append(
            f"{one} {method}: mean diffusion index {index.mean():.3g} ({low:.3g} to {high:.3g}) of {len(index)} images"
        )
    return lines


def _baseline(asked: str | None, images: list[Path], size: str | None) -> "str | Tensor | None":
    """The baseline by name, or an image file, cut as the image was."""
    from analysis.attributions import BASELINES

    if asked is None or asked in BASELINES:
        return asked
    if not Path(asked).exists():
        raise ValueError(f"--baseline {asked} is neither a file nor one of {', '.join(BASELINES)}")
    if len(images) != 1 or images[0].is_dir():
        raise ValueError("--baseline FILE goes with --image FILE")
    return whole_photograph(Path(asked), size)[1]
