"""`evssm data ...`."""

from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app
from evssm.cli.common import progress

data = typer.Typer(help="Data sets: which are read, and whether a copy is whole.", no_args_is_help=True)
app.add_typer(data, name="data", epilog="Example: evssm data verify Datasets")


@data.command("list", epilog="Example: evssm data list")
def list_layouts() -> None:
    """The layouts that are recognised, how to lay folders out, and how many pairs the published sets have."""
    from evssm.data.layouts import EXAMPLES
    from evssm.data.published import PUBLISHED

    for name, example in EXAMPLES:
        typer.echo(f"{name}\n    {example}")
    typer.echo("\npublished pairs")
    for name, facts in PUBLISHED.items():
        counts = ", ".join(f"{split} {n}" for split, n in facts.counts.items())
        size = "{} x {}".format(*facts.size) if facts.size else "of several sizes"
        typer.echo(f"    {name:<12}{counts}; {facts.bits} bit, {size}")


@data.command("verify", epilog="Example: evssm data verify Datasets/test --all")
def verify_folder(
    root: Annotated[Path, typer.Argument(help="A data set, or a folder of several.")],
    dataset: Annotated[
        str | None, typer.Option(help="What unnamed folders are: GoPro, HIDE, RealBlur-J, RealBlur-R or DPDD.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Decode every image, not a sample of each set.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
) -> None:
    """Checks copies of data sets: counts, pairs, sizes, depth, damage, mix-ups.

    Exit status 0 where no error was found, 2 otherwise; each finding is one line on standard error.
    """
    from evssm.data.verify import verify

    with progress() as track:
        report = verify(root, dataset=dataset, everything=everything, progress=track("pairs"))
    rows: list[tuple[str, ...]] = [
        ("set", "layout", "paired", "pairs", "published", "decoded", "pixels", "bits", "blur, by brightness")
    ]
    for line in report.sets:
        numbers = (line.pairs, "unknown" if line.published is None else line.published, line.decoded)
        rows.append(
            (
                line.where,
                line.label.layout,
                line.paired,
                *map(str, numbers),
                line.size,
                line.bits,
                line.kind or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for finding in report.findings:
        typer.echo(" ".join(str(finding).split()), err=True)
    failed = bool(report.errors or (strict and report.warnings))
    typer.echo(report.summary(), err=failed)
    if failed:
        raise typer.Exit(2)


@data.command("preview", epilog="Example: evssm data preview shake --count 8 --out shake.png")
def preview_embedded(
    kind: Annotated[str, typer.Argument(help="shake, leaves, test, video, defocus or dual-pixel.")] = "shake",
    count: Annotated[int, typer.Option(help="Pairs to show.")] = 8,
    size: Annotated[int, typer.Option(help="Edge of crops in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="Of what is random.")] = 0,
    out: Annotated[Path, typer.Option(help="The picture: each blurred image above its sharp one.")] = Path("data.png"),
) -> None:
    """A picture of the embedded data, which need no download."""
    from evssm.data.preview import contact_sheet, preview
    from evssm.images import write_image

    typer.echo(write_image(out, contact_sheet(preview(kind, count, seed, size))))
