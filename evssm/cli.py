"""The command line: parses, calls one function, prints where the results are. Heavy imports wait for the command."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(
    help="Look inside EVSSM and its deblurring baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _commands() -> None:
    """Keeps `evssm list` a subcommand however many there are."""


@app.command("list", epilog="Example: evssm list")
def list_networks() -> None:
    """The networks, the trained ones that come with the package, and the scan backends of this machine."""
    from rich.console import Console
    from rich.table import Table

    from evssm.models import MODELS
    from evssm.scan import scan_backends
    from evssm.weights import bundled

    console = Console()
    table = Table("network", "what it is", "source", box=None, header_style="bold")
    for name, model in MODELS.items():
        table.add_row(name, model.summary, model.source)
    console.print(table)
    console.print("bundled trained networks:", ", ".join(bundled()) or "none yet")
    console.print("scan backends:", "; ".join(f"{name}: {state}" for name, state in scan_backends().items()))


@app.command(
    epilog="Example: evssm erf evssm nafnet --weights evssm=net_g_GoPro.pth --weights nafnet=NAFNet-GoPro-width64.pth "
    "--image photo.png --size 256 --out results"
)
def erf(
    networks: Annotated[
        list[str], typer.Argument(help="Names from `evssm list`, or your own network as package.module:callable.")
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights, as FILE for a single network or NAME=FILE; official checkpoints or our own files."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image or a folder of them; the bundled photographs otherwise.")
    ] = None,
    size: Annotated[str, typer.Option(help="What is cut from the middle of each image: N or HxW pixels.")] = "256",
    queries: Annotated[str, typer.Option(help="centre, grid, or ROW,COLUMN.")] = "centre",
    estimator: Annotated[str, typer.Option(help="rss, abs, signed, replknet or mambair.")] = "rss",
    residual: Annotated[str, typer.Option(help="exclude: of F(x) - x; include: of F(x).")] = "exclude",
    local: Annotated[bool, typer.Option("--local", help="Released test-time windows (EVSSM, NAFNet).")] = False,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Allow random weights; the picture then says so.")
    ] = False,
    style: Annotated[
        str, typer.Option(help="honest: four decades on a log scale; paper: RdYlGn, power 0.25.")
    ] = "honest",
    seed: Annotated[int, typer.Option(help="For random weights and query grids.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("erf"),
) -> None:
    """Effective receptive fields: a picture, the maps as .npz and their numbers as .json."""
    from analysis.kept import kept_field
    from analysis.panels import erf_panels, save_figure
    from analysis.summary import summarise
    from evssm.sidecar import command_line, write_sidecar

    photographs = _images(image or [], size)
    files = {name: _file_for(name, networks, weights or []) for name in networks}
    made = {name: _network(name, files[name], local, untrained, seed) for name in networks}
    fields = {}
    out.mkdir(parents=True, exist_ok=True)
    with _progress() as track:
        for name, net in made.items():
            with _told_in_a_line(name, own=":" in name):
                fields[name] = kept_field(
                    out / f"erf_{_plain(name)}.npz",
                    net,
                    list(photographs.values()),
                    queries=_queries(queries),
                    estimator=estimator,
                    residual=residual,
                    seed=seed,
                    progress=track(name),
                    command=command_line(),
                )
    picture = save_figure(erf_panels(fields, style=style), out / "erf", command=command_line())
    facts = {"command": command_line(), "images": list(photographs), "seed": seed}
    summary = {name: {**summarise(field), "made": field.provenance} for name, field in fields.items()}
    sidecar = write_sidecar(out / "erf.json", {**facts, "fields": summary})
    for path in (*picture, sidecar):
        typer.echo(path)


def main() -> None:
    """Runs the command line: exit status 0, or 2 with one line for what the caller got wrong."""
    from typer._click.exceptions import ClickException

    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # threads that wait by spinning starve each other on busy machines

    try:
        status = app(standalone_mode=False)
    except ClickException as error:
        _refuse(error.format_message())
    except KeyboardInterrupt:
        typer.echo("evssm: interrupted; finished files are whole, and the same command goes on from them", err=True)
        sys.exit(130)
    except (ValueError, LookupError, OSError) as error:
        _refuse(str(error))
    sys.exit(status or 0)


def _refuse(message: str) -> None:
    typer.echo(f"evssm: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _network(name: str, file: str | None, local: bool, untrained: bool, seed: int) -> Callable[..., Any]:
    """The network to look at: one's own, one with weights, or where that is allowed an untrained one."""
    import torch

    from evssm.foreign import own_network
    from evssm.models import build
    from evssm.weights import bundled, load

    if ":" in name:
        return own_network(name)
    overrides = {"local": True} if local else {}
    if file or name in bundled():
        return load(file or name, name=name if file else None, **overrides)
    torch.manual_seed(seed)
    net = build(name, **overrides)  # first, for what it says of unknown names
    if not untrained:
        raise ValueError(
            f"no trained weights of {name} here; give --weights FILE, or --untrained, which the picture says"
        )
    return net


@contextmanager
def _told_in_a_line(name: str, *, own: bool) -> Iterator[None]:
    """Says of a network of the user's own that it failed, and how, whatever it raised."""
    try:
        yield
    except Exception as error:
        if not own or isinstance(error, (ValueError, LookupError, OSError)):
            raise
        raise ValueError(f"{name} fails on an image of this size: {type(error).__name__}: {error}") from error


def _file_for(name: str, networks: list[str], weights: list[str]) -> str | None:
    """The file that `--weights` gives this network."""
    for entry in weights:
        network, equals, file = entry.partition("=")
        if equals and network == name:
            return file
        if not (equals and network in networks):
            if len(networks) == 1:
                return entry
            raise ValueError(f"--weights {entry} does not say for which network; write NAME={entry}")
    return None


def _images(given: list[Path], size: str) -> dict[str, "Tensor"]:
    """The middle of each image by name; folders give what they hold."""
    from evssm.images import SMALLEST, SUFFIXES, crop_centre, read_image
    from evssm.photographs import photographs

    edge = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if edge is None:
        raise ValueError(f"--size {size} is neither N nor HxW; try 256 or 256x384")
    h, w = int(edge[1]), int(edge[2] or edge[1])
    if min(h, w) < SMALLEST:
        raise ValueError(f"--size {size} has a side under {SMALLEST} pixels, the least that the networks take")
    if not given:
        return photographs((h, w))
    files = [
        file
        for path in given
        for file in (sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path])
    ]
    if not files:
        raise ValueError(f"no image in {', '.join(map(str, given))}; known suffixes are {', '.join(SUFFIXES)}")
    found = {}
    for file in files:
        try:
            found[str(file)] = crop_centre(read_image(file), h, w)
        except ValueError as error:
            raise ValueError(f"{file}: {error}" if str(file) not in str(error) else str(error)) from None
    return found


def _queries(text: str) -> str | list[tuple[int, int]]:
    place = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    return [(int(place[1]), int(place[2]))] if place else text


def _plain(name: str) -> str:
    """A network's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Makes a bar per task on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def track(name: str) -> Callable[[int, int], None]:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield track
