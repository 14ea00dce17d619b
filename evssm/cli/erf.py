"""`evssm erf`."""

from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    answers,
    file_for,
    image_sources,
    plain,
    progress,
    tasks_of,
    the_queries,
    the_selector,
    told_in_a_line,
)
from evssm.cli.options import (
    Cluster,
    Device,
    Local,
    MiddleOfEach,
    Networks,
    Out,
    Seed,
    Select,
    Threads,
    Untrained,
    WeightsOfEach,
    Workers,
)


@app.command(
    epilog="Example: evssm erf evssm nafnet --weights evssm=net_g_GoPro.pth --weights nafnet=NAFNet-GoPro-width64.pth "
    "--image photo.png --size 256 --out results"
)
def erf(
    networks: Networks,
    weights: WeightsOfEach = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image or a folder of them; the bundled photographs otherwise.")
    ] = None,
    size: MiddleOfEach = "256",
    queries: Annotated[str, typer.Option(help="centre, grid, or ROW,COLUMN.")] = "centre",
    estimator: Annotated[str, typer.Option(help="rss, abs, signed, replknet or mambair.")] = "rss",
    residual: Annotated[str, typer.Option(help="exclude: of F(x) - x; include: of F(x).")] = "exclude",
    local: Local = False,
    untrained: Untrained = False,
    style: Annotated[
        str, typer.Option(help="honest: four decades on a log scale; paper: RdYlGn, power 0.25.")
    ] = "honest",
    select: Select = None,
    check: Annotated[
        bool, typer.Option("--check", help="Judge each map: its order, its weights, its number of images. Takes long.")
    ] = False,
    seed: Seed = 0,
    cluster: Cluster = None,
    workers: Workers = None,
    device: Device = "cpu",
    threads: Threads = None,
    out: Out = Path("erf"),
) -> None:
    """Effective receptive fields: a picture, the maps as .npz and their numbers as .json.

    Each image's field is kept in a file as soon as it is known, so the same command goes on where it was interrupted.
    """
    from analysis.check_panels import check_panels
    from analysis.field import ERF
    from analysis.map_verdict import check_field
    from analysis.panels import erf_panels, save_figure
    from analysis.questions import FieldQuestion
    from analysis.summary import summarise
    from evssm.sidecar import command_line, write_sidecar
    from evssm.sources import NetworkSource

    photographs = image_sources(image or [], size)
    sources = {
        name: NetworkSource(name, file_for(name, networks, weights or []), local, untrained, seed) for name in networks
    }
    question = FieldQuestion(the_queries(queries), estimator, residual, the_selector(select), seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    fields, verdicts = {}, {}
    with progress() as track:
        where = cluster, workers, device, threads
        found = answers(sources.values(), photographs, [question], out, where, track)
        for name, source in sources.items():
            fields[name] = ERF.joined([question.load(path) for (path,) in found[source]])
            fields[name].provenance["command"] = command_line()
            fields[name].save(out / f"erf_{plain(name)}.npz")
        for name, source in sources.items() if check else ():
            with told_in_a_line(name, own=source.own):
                verdicts[name] = check_field(
                    source.make(),
                    [photograph.read() for photograph in photographs],
                    fields[name],
                    select=question.select,
                    seed=seed,
                    track=tasks_of(track, name),
                )
    notes = {name: verdict.words for name, verdict in verdicts.items()}
    picture = save_figure(erf_panels(fields, style=style, notes=notes), out / "erf", command=command_line())
    if check:
        bare = {name: field.untrained for name, field in fields.items()}
        picture += save_figure(check_panels(verdicts, bare), out / "erf_check", command=command_line())
    facts = {"command": command_line(), "images": [photograph.name for photograph in photographs], "seed": seed}
    summary = {name: {**summarise(field), "made": field.provenance} for name, field in fields.items()}
    for name, verdict in verdicts.items():
        summary[name]["check"] = verdict.as_dict()
        typer.echo(f"{name}: {verdict}")
    sidecar = write_sidecar(out / "erf.json", {**facts, "fields": summary})
    for path in (*picture, sidecar):
        typer.echo(path)
