"""`evssm trace`."""

from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    peak_memory,
    plain,
    progress,
    the_network,
    the_selector,
    told_in_a_line,
    whole_photograph,
    write_table,
)
from evssm.cli.options import Local, MiddleOfOne, Network, Out, Seed, Select, Untrained, Weights


@app.command(epilog="Example: evssm trace evssm blotches.png --weights net_g_GoPro.pth --local --normal fine.png")
def trace(
    network: Network,
    image: Annotated[Path, typer.Argument(help="The image on which the network fails.")],
    weights: Weights = None,
    size: MiddleOfOne = None,
    normal: Annotated[
        Path | None, typer.Option(help="An image on which the network works: its largest sizes are the normal range.")
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option(
            help="How many times its usual size a stage may reach; by default 10 times the median of the image itself, "
            "or with --normal twice the largest there."
        ),
    ] = None,
    states: Annotated[bool, typer.Option(help="Norms of the scans' states, which take longest.")] = True,
    select: Select = None,
    local: Local = False,
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("trace"),
) -> None:
    """Finds where in a network an artefact begins: a picture, every stage's numbers as .csv, and a .json."""
    from torch import nn

    from analysis.artefact_figure import artefact_panels
    from analysis.artefacts import FACTOR, table
    from analysis.artefacts import trace as run
    from analysis.panels import save_figure
    from evssm.sidecar import command_line, write_sidecar

    _, photograph = whole_photograph(image, size)
    sound = None if normal is None else whole_photograph(normal, size)[1]
    net = the_network(network, weights, local, untrained, seed)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{network} is a function; only the modules of an nn.Module can be traced")
    times = factor if factor is not None else FACTOR if sound is None else 2.0
    if not times > 0:
        raise ValueError(f"--factor {times:g} is no factor; try 10")
    chosen = the_selector(select)
    with progress() as track, told_in_a_line(network, own=":" in network):
        found = run(net, photograph, states=states, select=chosen, progress=track("tracing"))
        usual = None if sound is None else run(net, sound, states=False, select=chosen, progress=track("normal"))
    out.mkdir(parents=True, exist_ok=True)
    stem = f"trace_{plain(network)}"
    figure = artefact_panels(found, photograph, factor=times, normal=usual)
    picture = save_figure(figure, out / stem, command=command_line())
    numbers = write_table(out / f"{stem}.csv", table(found))
    first = found.first(times, usual)
    facts = {
        "command": command_line(),
        "image": str(image),
        "normal": None if normal is None else str(normal),
        "factor": times,
        "seed": seed,
        "first_out_of_range": first.name if first else None,
        "output": {"not_finite": found.health.not_finite, "overshoot": found.health.overshoot},
        "peak_memory_bytes": peak_memory(),
        "made": found.provenance,
    }
    sidecar = write_sidecar(out / f"{stem}.json", facts)
    for path in (*picture, numbers, sidecar):
        typer.echo(path)
    typer.echo(f"output: {found.health.describe() or 'all values finite and near [0, 1]'}")
    if first is None:
        typer.echo(f"no stage is out of range (more than {times:g} times)")
    else:
        typer.echo(f"first out of range: {first.name}, {first.excess:.3g} times its median, around {first.where}")
    typer.echo(f"peak memory {peak_memory() / 2**30:.2f} GiB")
