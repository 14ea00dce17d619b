"""`evssm layers`."""

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
    Stages,
    Surroundings,
    Untrained,
    WeightsOfEach,
)


@app.command(
    epilog="Example: evssm layers evssm-compact --image photo.png --box 120,300,32,32 --stages 'encoder.*.ffn'"
)
def layers(
    networks: Networks,
    weights: WeightsOfEach = None,
    image: Photograph = None,
    size: MiddleOfOne = None,
    box: Box = "centre",
    surroundings: Surroundings = "96",
    stages: Stages = None,
    kind: Annotated[
        str, typer.Option(help="gradient_x_activation, which adds up to the number; gradient; or activation.")
    ] = "gradient_x_activation",
    reduce: Reduce = "grad",
    residual: OfRegion = "include",
    select: Select = None,
    check: Check = False,
    local: Local = False,
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("layers"),
) -> None:
    """What a region of the output owes to the feature maps inside: a picture, the maps as .npz, and a .json."""
    from torch import nn

    from analysis.attribution_verdict import check_layers
    from analysis.layer_attributions import layer_attribution, save_layers
    from analysis.layer_figure import layer_panels
    from analysis.map_verdict import tally
    from analysis.panels import save_figure
    from evssm.sidecar import command_line, write_sidecar

    name, photograph = whole_photograph(image, size)
    seen, within, corner = the_region(photograph, box, surroundings)
    asked = list(dict.fromkeys(networks))
    made = {one: the_network(one, file_for(one, asked, weights or []), local, untrained, seed) for one in asked}
    chosen = the_selector(select)
    found, verdicts, files = {}, {}, []
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        for one, net in made.items():
            if not isinstance(net, nn.Module):
                raise ValueError(f"{one} is a function; only an nn.Module has feature maps inside")
            with told_in_a_line(one, own=":" in one):
                found[one] = layer_attribution(
                    net,
                    seen,
                    within,
                    stages or "*",
                    kind=kind,
                    reduce=reduce,
                    residual=residual,
                    select=chosen,
                    progress=track(one),
                )
                files.append(save_layers(out / f"layers_{plain(one)}.npz", found[one]))
                if check:
                    verdicts[one] = check_layers(
                        net, seen, found[one], select=chosen, seed=seed, track=tasks_of(track, one)
                    )
    notes = {one: tally(of_one) for one, of_one in verdicts.items()}
    figure = layer_panels(found, seen[0], notes=notes)
    picture = save_figure(figure, out / "layers", command=command_line())
    facts: dict[str, Any] = {
        one: {stage: {"sum": float(held.map.sum()), "made": held.provenance} for stage, held in maps.items()}
        for one, maps in found.items()
    }
    for one, of_one in verdicts.items():
        for stage, verdict in of_one.items():
            facts[one][stage]["check"] = verdict.as_dict()
            typer.echo(f"{one} {stage}: {verdict}")
    sidecar = write_sidecar(
        out / "layers.json",
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
    for path in (*picture, *files, sidecar):
        typer.echo(path)
    typer.echo(f"peak memory {peak_memory() / 2**30:.2f} GiB")
