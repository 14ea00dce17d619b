"""`evssm ablate`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import demand_files, progress, trained_files

if TYPE_CHECKING:
    from evssm.data.pairs import Pairs

EXTENTS = (6, 12, 24)
"""Pixels that the camera travels in the test images."""


@app.command(epilog="Example: evssm ablate transforms loss --out ablations")
def ablate(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="transforms, mamba2, loss, kernel, ensemble, defocus, dual-pixel; all of them where none is named."
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="compact: the bundled networks; smoke: networks trained for a few steps, as a trial.")
    ] = "compact",
    weights: Annotated[
        Path | None, typer.Option(help="A folder of your own `evssm train --family`, in place of the bundled networks.")
    ] = None,
    extents: Annotated[str, typer.Option(help="Pixels that the camera travels in the test images.")] = ",".join(
        map(str, EXTENTS)
    ),
    out: Annotated[Path, typer.Option(help="Folder of the tables, pictures and scores.")] = Path("ablations"),
) -> None:
    """The paper's ablations: published numbers, the compact networks' own with intervals, and a verdict on each claim.

    The commands that train the full networks stand under each table. Scores that are there already are not computed
    again.
    """
    import torch

    from analysis.ablate import ablate as measured
    from analysis.ablations import ABLATIONS
    from analysis.tasks import the_tasks
    from evssm.sidecar import command_line

    if unknown := sorted(set(names or ()) - set(ABLATIONS)):
        raise ValueError(f"no ablation is called {', '.join(unknown)}; there are {', '.join(ABLATIONS)}")
    if profile not in ("compact", "smoke"):
        raise ValueError(f"--profile is compact or smoke, not {profile!r}; each table names the paper's own commands")
    chosen = [ABLATIONS[name] for name in names or ABLATIONS]
    sizes = _extents(extents)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # so that scores do not depend on the machine's cores
    tests = the_tasks(sizes)
    with progress() as track:
        if profile == "smoke":
            wanted = {method.network for ablation in chosen for method in ablation.methods} - {""}
            files = _trial(wanted, out / "weights", track)
            tests = {
                name: replace(task, pairs=_middles(task.pairs), data=f"{task.data}, middles of 64 px")
                for name, task in tests.items()
            }
        else:
            files = trained_files(weights)
        demand_files(files, weights)
        for ablation in chosen:
            test = tests[ablation.task]
            for path in measured(ablation, files, test.pairs, test.data, out, command=command_line(), progress=track):
                typer.echo(path)


def _extents(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--extents {text} is no list of pixels; try 6,12,24") from None


def _trial(wanted: set[str], folder: Path, track: Any) -> dict[str, Path]:
    """Weights of networks trained for a few steps: nothing is learnt, but all that a real ablation does is done."""
    from evssm.training.family import FAMILY
    from evssm.training.recipes import RECIPES
    from evssm.training.run import built_in_data, trained_file

    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for member in FAMILY:
        if member.name in wanted:
            config = replace(RECIPES["smoke"], **member.changes)
            data = built_in_data(member.network, member.data, config, member.seed, validation=False)
            path = trained_file(member.name, member.network, data, config, folder, seed=member.seed)
            if path:
                found[member.name] = path
            track(f"trial of {member.name}")(1, 1)
    return found


def _middles(pairs: "Pairs") -> "Pairs":
    """Small crops of a few pairs."""
    from evssm.data.pairs import Pair, each
    from evssm.images import crop_centre

    return [Pair(crop_centre(p.blurred, 64, 64), crop_centre(p.sharp, 64, 64), p.name) for p in each(pairs)][:4]
