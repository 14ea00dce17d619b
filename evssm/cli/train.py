"""`evssm train`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import advance, progress, resumed


@app.command(
    epilog="Example: evssm train evssm-compact --profile compact --seed 0 --out runs; interrupted, the same command "
    "goes on from its last checkpoint"
)
def train(
    networks: Annotated[list[str] | None, typer.Argument(help="Names from `evssm list`.")] = None,
    family: Annotated[
        bool, typer.Option("--family", help="The compact family of the project, one network after the other.")
    ] = False,
    profile: Annotated[str, typer.Option(help="smoke, compact, paper, or paper-second-stage.")] = "compact",
    data: Annotated[
        str,
        typer.Option(help="embedded (camera motion), defocus, or the folder of a data set (see `evssm data list`)."),
    ] = "embedded",
    seed: Annotated[int, typer.Option(help="Of the first weights and of the data.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, where not the profile's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step, where not the profile's.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts in which a step takes its crops.")] = None,
    loss: Annotated[str, typer.Option(help="both: L1 and frequency loss; l1: L1 alone.")] = "both",
    fft_norm: Annotated[str, typer.Option(help="backward, as released, or ortho.")] = "backward",
    start: Annotated[
        Path | None, typer.Option(help="Weights to begin with, such as the first stage's for paper-second-stage.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the weights, logs and checkpoints.")] = Path("runs"),
    threads: Annotated[
        int, typer.Option(help="CPU threads; with more than one a rerun may differ in the last digits.")
    ] = 1,
    devices: Annotated[int, typer.Option(help="Processes or GPUs on each machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    accelerator: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train networks; what is finished is left alone, what was interrupted goes on.

    With several devices the processes start themselves; on several machines start the same command on each with
    torchrun or srun.
    """
    import torch

    from evssm.training.family import FAMILY, Member, label_of
    from evssm.training.recipes import RECIPES
    from evssm.training.run import BUILT_IN, built_in_data, folder_data, trained_file

    if family == bool(networks):
        raise ValueError("give the networks to train, or --family for those of the project")
    if profile not in RECIPES:
        raise ValueError(f"no profile is called {profile!r}; there are {', '.join(RECIPES)}")
    if loss not in ("both", "l1") or fft_norm not in ("backward", "ortho"):
        raise ValueError(f"--loss is both or l1 and --fft-norm backward or ortho, not {loss!r} and {fft_norm!r}")
    if start and len(networks or ()) != 1:
        raise ValueError("--start is for one network; train the others in commands of their own")
    if family and data == "defocus":
        raise ValueError("--family knows which of its networks learn from defocus; leave --data out")
    members = FAMILY
    if networks:
        labels = {name: [label_of(name, data), *(["l1"] if loss == "l1" else [])] for name in networks}
        members = tuple(Member(name, seed, label="-".join(filter(None, labels[name])), data=data) for name in labels)
    given: dict[str, Any] = {"steps": steps, "batch": batch, "accumulate": accumulate, "scaling": fft_norm}
    if loss == "l1":
        given["frequency_weight"] = 0.0
    chosen = {key: value for key, value in given.items() if value is not None}
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    with progress() as track:
        for member in members:
            config = replace(RECIPES[profile], **{**chosen, **member.changes})
            source = (
                built_in_data(member.network, member.data, config, member.seed)
                if data in BUILT_IN
                else folder_data(Path(data), config, member.seed)
            )
            path = trained_file(
                member.name,
                member.network,
                source,
                config,
                out,
                seed=member.seed,
                start=start,
                report=partial(advance, track(member.name)),
                say=resumed,
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
            )
            if path is not None:
                typer.echo(path)
