"""`evssm deblur`."""

from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import progress, told_in_a_line, trained_network
from evssm.cli.options import Ensemble, Local, Overlap, Tile


@app.command(
    epilog="Example: evssm deblur holiday/ sharper/ --network evssm --weights net_g_GoPro.pth --tile 512 --overlap 64"
)
def deblur(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, or a folder with images at any depth.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A file (such as sharp.png), or a folder for the results.")
    ],
    network: Annotated[
        str | None,
        typer.Option(help="A name from `evssm list`, or your own as package.module:callable; else what --weights say."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="File of weights: an official checkpoint (with --network) or our own.")
    ] = None,
    local: Local = False,
    tile: Tile = 0,
    overlap: Overlap = 64,
    ensemble: Ensemble = "none",
    suffix: Annotated[str, typer.Option(help="Format of the results in a folder: png, tif, bmp or jpg.")] = "png",
    bits: Annotated[int, typer.Option(help="8, or 16 for png and tif.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Deblurs images of any size; finished ones are kept, so the same command goes on after an interruption."""
    from evssm.deblur import deblur as run
    from evssm.deblur import plan
    from evssm.inference import Inference
    from evssm.sidecar import command_line, write_sidecar

    inference = Inference(tile or None, overlap, ensemble)
    jobs, ledger = plan(source, out, suffix=f".{suffix.lower().lstrip('.')}")
    net = trained_network(network, weights, local=local)
    with progress() as track, told_in_a_line(network or "the network", own=":" in (network or "")):
        made, failures = run(
            net,
            jobs,
            ledger,
            inference=inference,
            bits=bits,
            overwrite=overwrite,
            progress=track("deblurring"),
            say=lambda line: typer.echo(line, err=True),
        )
    for path in made:
        typer.echo(path)
    facts = {"command": command_line(), "table": ledger.name, "results": len(made), "failures": failures}
    write_sidecar(ledger.with_suffix(".json"), facts)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} images not deblurred: {'; '.join(failures[:3])}")
