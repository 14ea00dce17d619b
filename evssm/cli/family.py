"""`evssm family`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from evssm.cli.ablate import EXTENTS
from evssm.cli.app import app
from evssm.cli.common import advance, demand_files, progress, trained_files


@app.command(epilog="Example: evssm family --out family")
def family(
    weights: Annotated[
        Path | None, typer.Option(help="A folder of your own `evssm train --family`, in place of the bundled networks.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Also copy what gained enough, with its training log and this table, to this folder."),
    ] = None,
    rerun: Annotated[
        int, typer.Option(help="Instead, train each one's first steps again and compare with its log, digit by digit.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the table and the scores.")] = Path("family"),
) -> None:
    """The tables of the trained compact networks: gains on held-out images with intervals, cost, and origin.

    Scores that are there already are not computed again.
    """
    import torch

    from analysis.tasks import the_tasks
    from analysis.trained_family import bundle, family_page, reached
    from evssm.provenance import written_whole

    files = trained_files(weights)
    demand_files(files, weights)
    torch.set_num_threads(1)  # so that no digit depends on the machine's cores
    if rerun:
        _rerun(files, rerun)
        return
    tests = the_tasks(EXTENTS)
    with progress() as track:
        members = [reached(name, path, tests, out / "scores", progress=track(name)) for name, path in files.items()]
    table = family_page(members)
    typer.echo(table)
    bundled = bundle(members, files, into) if into else []
    for place in (out, into) if into else (out,):
        with written_whole(place / "family.md") as part:
            part.write_text(table, encoding="utf-8")
        typer.echo(place / "family.md")
    for path in bundled:
        typer.echo(path)


def _elsewhere(file: Path) -> str:
    """Which other processor trained the network; nothing where it was one like this."""
    from evssm.machine import hardware
    from evssm.weights import load

    net: Any = load(file)
    made = net.provenance.hardware
    return "" if made == hardware() else f"made on {made}, and this is {hardware()}"


def _rerun(files: dict[str, Path], steps: int) -> None:
    """Says of each network whether its training's first steps repeat; exit status 1 where one does not.

    On another processor than the one that trained it digits may differ, and the first loss decides.
    """
    from evssm.training.loop import LOG
    from evssm.training.rerun import rerun

    differing = 0
    with progress() as track:
        for name, file in files.items():
            beside = file.with_suffix(".csv")
            log = beside if beside.exists() else file.with_suffix("") / LOG
            found, agrees = rerun(file, log, steps, report=partial(advance, track(name)))
            elsewhere = _elsewhere(file) if found else ""
            fails = found is not None and not (elsewhere and agrees)
            note = f" ({elsewhere}: the first loss {'differs' if fails else 'agrees'})" if elsewhere else ""
            typer.echo(f"{name}: {found or f'{steps} steps, every digit as logged'}{note}")
            differing += fails
    if differing:
        raise typer.Exit(1)
