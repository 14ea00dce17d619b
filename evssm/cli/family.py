"""`evssm family`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import progress

if TYPE_CHECKING:
    from evssm.data.pairs import Pairs


@app.command(epilog="Example: evssm family --out family")
def family(
    weights: Annotated[
        Path | None, typer.Option(help="A folder of your own `evssm train --family`, in place of the bundled networks.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Also copy what gained enough, with its training log, to this folder.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the table and the scores.")] = Path("family"),
) -> None:
    """The table of the trained compact networks: gains on held-out photographs with intervals, cost, and origin.

    Scores that are there already are not computed again.
    """
    import torch

    from analysis.trained_family import bundle, family_table, reached
    from evssm.data.embedded import embedded_test
    from evssm.provenance import written_whole
    from evssm.weights import bundled

    files = {path.stem: path for path in sorted(weights.glob("*.safetensors"))} if weights else bundled()
    if not files:
        raise ValueError(f"no weights in {weights or 'this package'}; train them: evssm train --family --out runs")
    torch.set_num_threads(1)  # so that scores do not depend on the machine's cores
    pairs: Pairs = embedded_test(extents=EXTENTS)
    data = f"embedded camera shake of {', '.join(map(str, EXTENTS))} px on held-out photographs"
    with progress() as track:
        members = [
            reached(name, path, pairs, data, out / "scores", progress=track(name)) for name, path in files.items()
        ]
    table = family_table(members, data=data)
    typer.echo(table)
    with written_whole(out / "family.md") as part:
        part.write_text(table, encoding="utf-8")
    for path in [out / "family.md", *(bundle(members, files, into) if into else ())]:
        typer.echo(path)
