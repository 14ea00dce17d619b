"""`evssm activation`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    file_for,
    peak_memory,
    plain,
    progress,
    tasks_of,
    the_network,
    the_queries,
    told_in_a_line,
    whole_photograph,
)
from evssm.cli.options import Check, Local, MiddleOfOne, Out, Photograph, Seed, Stages, Untrained, WeightsOfEach

COMPANIONS = {"evssm": ("evssm-four-direction", "evssm-no-geot"), "evssm2": ("evssm2-no-geot",)}
"""What stands beside a network in Fig. 6: four directions in every block, and no turns."""


@app.command(epilog="Example: evssm activation evssm-compact --image photo.png --query 120,300 --out results")
def activation(
    networks: Annotated[
        list[str],
        typer.Argument(help="EVSSM or its variants from `evssm list`, or your own as package.module:callable."),
    ],
    weights: WeightsOfEach = None,
    image: Photograph = None,
    size: MiddleOfOne = None,
    query: Annotated[str, typer.Option(help="ROW,COLUMN in what is left after cutting, or centre.")] = "centre",
    stages: Stages = None,
    level: Annotated[str, typer.Option(help="A0 to A7: what a map contains; A3 is the scan's own matrix.")] = "A3",
    reduction: Annotated[str, typer.Option(help="Channels to one map: abs, rms, signed or output.")] = "abs",
    scale: Annotated[
        str, typer.Option(help="each: a map relative to its own maximum; shared: to its network's.")
    ] = "each",
    style: Annotated[
        str | None, typer.Option(help="log (four decades), linear or signed; by default log, and signed for signed.")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Beside a single EVSSM, its four-direction form and the one w/o F&T.")
    ] = True,
    check: Check = False,
    local: Local = False,
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("activation"),
) -> None:
    """What a pixel gathers in every selective scan (Fig. 6): a picture, the maps as .npz, their checks as .json."""
    from analysis.activation_figure import SCALES, activation_panels
    from analysis.activation_plots import STYLES
    from analysis.kept_rows import kept_rows
    from analysis.map_verdict import check_rows, tally
    from analysis.panels import save_figure
    from evssm.sidecar import command_line, write_sidecar

    for option, given, known in (("scale", scale, SCALES), ("style", style or "log", STYLES)):
        if given not in known:
            raise ValueError(f"--{option} {given} is unknown; choose from {', '.join(known)}")
    name, photograph = whole_photograph(image, size)
    asked = list(dict.fromkeys(networks))
    files = {one: file_for(one, asked, weights or []) for one in asked}
    beside = _beside(asked, untrained) if compare else []
    made = {one: the_network(one, files.get(one), local, untrained, seed) for one in [*asked, *beside]}
    place = the_queries(query)
    found = {}
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        for one, net in made.items():
            with told_in_a_line(one, own=":" in one):
                found[one] = kept_rows(
                    out / f"activation_{plain(one)}.npz",
                    net,
                    photograph,
                    place if isinstance(place, str) else place[0],
                    stages or None,
                    level=level,
                    reduction=reduction,
                    progress=track(one),
                )
        verdicts = {}
        for one, net in made.items() if check else ():
            with told_in_a_line(one, own=":" in one):
                verdicts[one] = check_rows(net, photograph, found[one], seed=seed, track=tasks_of(track, one))
    notes = {one: tally(of_one) for one, of_one in verdicts.items()}
    figure = activation_panels(found, photograph, scale=scale, style=style, notes=notes)
    picture = save_figure(figure, out / "activation", command=command_line())
    checks = {one: {stage: row.check() for stage, row in rows.items()} for one, rows in found.items()}
    facts: dict[str, Any] = {
        "command": command_line(),
        "image": name,
        "seed": seed,
        "peak_memory_bytes": peak_memory(),
        "maps": {
            one: {
                stage: {"error": row.check(), "share_inside": row.share_inside(), "made": row.provenance}
                for stage, row in rows.items()
            }
            for one, rows in found.items()
        },
    }
    for one, of_one in verdicts.items():
        for stage, verdict in of_one.items():
            facts["maps"][one][stage]["check"] = verdict.as_dict()
            typer.echo(f"{one} {stage}: {verdict}")
    sidecar = write_sidecar(out / "activation.json", facts)
    for path in (*picture, sidecar):
        typer.echo(path)
    worst = max(error for errors in checks.values() for error in errors.values())
    typer.echo(f"largest reconstruction error {worst:.1e}; peak memory {peak_memory() / 2**30:.2f} GiB")


def _beside(asked: list[str], untrained: bool) -> list[str]:
    """The networks to show beside a single one: those that have weights, or may go without."""
    from evssm.weights import bundled

    if len(asked) != 1:
        return []
    base = asked[0].removesuffix("-compact")
    suffix = asked[0][len(base) :]
    names = [name + suffix for name in COMPANIONS.get(base, ())]
    return [name for name in names if untrained or name in bundled()]
