"""`evssm erf`."""

from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    file_for,
    plain,
    progress,
    tasks_of,
    the_images,
    the_network,
    the_queries,
    the_selector,
    told_in_a_line,
)
from evssm.cli.options import Local, MiddleOfEach, Networks, Out, Seed, Select, Untrained, WeightsOfEach


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
    out: Out = Path("erf"),
) -> None:
    """Effective receptive fields: a picture, the maps as .npz and their numbers as .json."""
    from analysis.check_panels import check_panels
    from analysis.kept import kept_field
    from analysis.map_verdict import check_field
    from analysis.panels import erf_panels, save_figure
    from analysis.summary import summarise
    from evssm.sidecar import command_line, write_sidecar

    photographs = the_images(image or [], size)
    files = {name: file_for(name, networks, weights or []) for name in networks}
    made = {name: the_network(name, files[name], local, untrained, seed) for name in networks}
    fields = {}
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        for name, net in made.items():
            with told_in_a_line(name, own=":" in name):
                fields[name] = kept_field(
                    out / f"erf_{plain(name)}.npz",
                    net,
                    list(photographs.values()),
                    queries=the_queries(queries),
                    estimator=estimator,
                    residual=residual,
                    select=the_selector(select),
                    seed=seed,
                    progress=track(name),
                    command=command_line(),
                )
        verdicts = {}
        for name, net in made.items() if check else ():
            with told_in_a_line(name, own=":" in name):
                verdicts[name] = check_field(
                    net,
                    list(photographs.values()),
                    fields[name],
                    select=the_selector(select),
                    seed=seed,
                    track=tasks_of(track, name),
                )
    notes = {name: verdict.words for name, verdict in verdicts.items()}
    picture = save_figure(erf_panels(fields, style=style, notes=notes), out / "erf", command=command_line())
    if check:
        bare = {name: field.untrained for name, field in fields.items()}
        picture += save_figure(check_panels(verdicts, bare), out / "erf_check", command=command_line())
    facts = {"command": command_line(), "images": list(photographs), "seed": seed}
    summary = {name: {**summarise(field), "made": field.provenance} for name, field in fields.items()}
    for name, verdict in verdicts.items():
        summary[name]["check"] = verdict.as_dict()
        typer.echo(f"{name}: {verdict}")
    sidecar = write_sidecar(out / "erf.json", {**facts, "fields": summary})
    for path in (*picture, sidecar):
        typer.echo(path)
