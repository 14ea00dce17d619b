"""`evssm explore`."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import file_for, progress, the_network, the_queries, the_size

if TYPE_CHECKING:
    from ipywidgets import VBox

    from analysis.explorer import Explorer


@app.command(
    epilog="Example: evssm explore | evssm explore evssm-compact nafnet-compact --image photo.png --size 128 | "
    "evssm explore --lab | evssm explore --static page.html | evssm explore --view field --query 48,64 --save figure"
)
def explore(
    networks: Annotated[
        list[str] | None,
        typer.Argument(help="One or two to begin with, of `evssm list` or your own as package.module:callable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Weights, as FILE for a single network or NAME=FILE; official checkpoints or our own files."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="An image file, or the name of a bundled photograph, such as chelsea-blurred.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Cut N or HxW pixels from the middle; bundled photographs are cut to 96x128.")
    ] = None,
    view: Annotated[
        str, typer.Option(help="maps: rows of all modules; module: of one; field: receptive field; region: LAM.")
    ] = "maps",
    query: Annotated[str, typer.Option(help="ROW,COLUMN in what is left after cutting, or centre.")] = "centre",
    box: Annotated[str | None, typer.Option(help="The region of LAM as ROW,COLUMN,HEIGHT,WIDTH.")] = None,
    level: Annotated[str, typer.Option(help="A0 to A7: what a row contains; A3 is the scan's own matrix.")] = "A3",
    stage: Annotated[str, typer.Option(help="The module to show large, such as decoder.2.1.mixer.")] = "",
    local: Annotated[bool, typer.Option("--local", help="Released test-time windows (EVSSM, NAFNet).")] = False,
    untrained: Annotated[
        bool,
        typer.Option("--untrained", help="Random weights, also where trained ones are bundled; the picture says so."),
    ] = False,
    seed: Annotated[int, typer.Option(help="For random weights.")] = 0,
    save: Annotated[
        Path | None, typer.Option(help="Write the panel as figure (PNG, PDF, JSON) instead of opening a page.")
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(help="Write one HTML file with a grid of pixels computed beforehand, for any browser."),
    ] = None,
    grid: Annotated[str, typer.Option(help="Rows x columns of the pixels of --static.")] = "5x7",
    lab: Annotated[bool, typer.Option("--lab", help="Open JupyterLab instead of a page.")] = False,
    port: Annotated[int, typer.Option(help="Of the page on this machine; any free one by default.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of saved figures and uploaded images.")] = Path("explorer"),
) -> None:
    """Click a pixel, see what it gathers in every module, its receptive field, what a region is made of.

    Opens a page that only this machine can reach, with a key in its address; it ends with Ctrl-C. Needs the optional
    packages: pip install "evssm-lab[explore]". --save and --static do without them.
    """
    how: dict[str, Any] = {
        "networks": list(dict.fromkeys(networks or ())),
        "weights": weights or [],
        "image": image,
        "size": size,
        "local": local,
        "untrained": untrained,
        "seed": seed,
        "choices": {"view": view, "level": level, "stage": stage, "query": query, "box": box},
    }
    if save is None and static is None:
        from evssm.cli.page import demand_packages, serve

        demand_packages(lab)
        the_explorer(**how)  # so that what is wrong is said here, not on the page
        serve(how, out, lab=lab, port=port, browser=browser)
        return
    explorer = the_explorer(**how)
    if save is not None:
        _save(explorer, save)
    if static is not None:
        from analysis.explorer_page import write_page

        with progress() as track:
            typer.echo(write_page(explorer, static, _grid(grid), progress=track("pixels")))


def the_explorer(
    networks: list[str],
    weights: list[str],
    image: str | None,
    size: str | None,
    local: bool,
    untrained: bool,
    seed: int,
    choices: dict[str, Any],
) -> "Explorer":
    """What the arguments of `evssm explore` ask for: the networks named, and beside them all that are bundled."""
    from analysis.explorer import Explorer
    from analysis.explorer_choices import SIZE, bundled_images, bundled_networks
    from evssm.cli.common import whole_photograph

    cut = the_size(size) if size else SIZE
    images: dict[str, Any] = dict(bundled_images(cut))
    if image is not None and image not in images:
        if not Path(image).exists():
            raise ValueError(f"--image {image} is neither a file nor one of {', '.join(images)}")
        images[image] = lambda: whole_photograph(Path(image), size)[1]
    opens = {
        one: partial(the_network, one, file_for(one, networks, weights), local, untrained, seed) for one in networks
    }
    words = [word for entry in weights for word in ("--weights", entry)]
    words += ["--size", size] if size else []
    words += ["--local"] * local + ["--untrained"] * untrained + (["--seed", str(seed)] if untrained else [])
    chosen = {key: value for key, value in choices.items() if value}
    place = the_queries(chosen.pop("query"))
    if not isinstance(place, str):
        chosen["query"] = place[0]
    elif place != "centre":
        raise ValueError(f"--query {place} is neither ROW,COLUMN nor centre")
    if "box" in chosen:
        if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){3}", chosen["box"]):
            raise ValueError(f"--box {chosen['box']} is not ROW,COLUMN,HEIGHT,WIDTH; try 40,56,16,16")
        chosen["box"] = tuple(map(int, chosen["box"].split(",")))
    if networks:
        chosen["networks"] = tuple(networks)
    if image is not None:
        chosen["image"] = image
    overrides = {"local": True} if local else {}
    return Explorer(images, {**bundled_networks(**overrides), **opens}, words=words, **chosen)


def page(folder: str, out: str, **how: Any) -> "VBox":
    """The explorer's widgets: what the only cell of the served notebook asks for, in the folder of the command."""
    import os

    from analysis.explorer_view import ExplorerView

    os.chdir(folder)
    return ExplorerView(the_explorer(**how), out).widget


def _save(explorer: "Explorer", path: Path) -> None:
    with progress() as track:
        explorer.answer(progress=track(explorer.panel.view))
    for file in explorer.save(path):
        typer.echo(file)


def _grid(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None or "0" in found.groups():
        raise ValueError(f"--grid {text} is not ROWSxCOLUMNS; try 5x7")
    return int(found[1]), int(found[2])
