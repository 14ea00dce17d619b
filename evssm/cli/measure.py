"""`evssm measure`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    file_for,
    plain,
    progress,
    the_images,
    the_network,
    the_queries,
    the_selector,
    the_size,
    told_in_a_line,
    write_table,
)
from evssm.cli.options import Local, MiddleOfEach, Network, Out, Seed, Select, Stages, Untrained, Weights

if TYPE_CHECKING:
    from torch import Tensor

EXTENTS = (8, 24)
"""Pixels of straight motion in the bundled photographs that networks are shown: of the kind that ours learn from."""


@app.command(epilog="Example: evssm measure growth evssm-compact --size 128 --out results")
def measure(
    what: Annotated[str, typer.Argument(help="What to measure: one of the words below.")],
    network: Network,
    weights: Weights = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A blurred image or a folder of them; bundled photographs, moved straight, otherwise."),
    ] = None,
    sharp: Annotated[
        list[Path] | None,
        typer.Option(help="Sharp images: those of --image in the same order, for PSNR, or those to blur."),
    ] = None,
    size: MiddleOfEach = "128",
    count: Annotated[int, typer.Option(help="At most so many images.", min=1)] = 4,
    query: Annotated[str, typer.Option(help="The pixel asked: ROW,COLUMN of what was cut, or centre.")] = "centre",
    stages: Stages = None,
    local: Local = False,
    window: Annotated[
        int | None,
        typer.Option(help="Windows of so many image px (EVSSM), or for training crops of that size (NAFNet)."),
    ] = None,
    select: Select = None,
    length: Annotated[float, typer.Option(help="Of the straight blur for transfer, in px.")] = 8.0,
    angle: Annotated[float, typer.Option(help="Of that blur, in degrees, anticlockwise from the right.")] = 0.0,
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("measure"),
) -> None:
    """A network beyond the picture of its receptive field: a figure, a table as .csv, and how it was made as .json.

    growth: how far the query sees after every block. half-planes: on which sides. horizons: how far back every scan
    remembers. selection: steering against routing in every scan. knock-outs: without scans, turns or windows. modes: in
    windows and on the whole map (with --local or --window). alignment: whether the field turns with the blur. transfer:
    gain by frequency beside the ideal inverse. structure: what a pixel can reach, whatever the weights. causes: which
    blocks help or harm the restoration around the query, by exchanging them for other patches.
    """
    from analysis.measures import MEASURES, Question
    from analysis.panels import save_figure
    from evssm.sidecar import command_line, write_sidecar

    if what not in MEASURES:
        raise ValueError(f"nothing called {what} can be measured; choose from {', '.join(MEASURES)}")
    names, blurred, clear = _pairs(image or [], sharp or [], size, count)
    net, whole = _networks(network, weights, local, window, untrained, seed, both=what == "modes")
    place = the_queries(query)
    chosen = MEASURES[what]
    with progress() as track, told_in_a_line(network, own=":" in network):
        question = Question(
            blurred,
            clear,
            query=place if isinstance(place, str) else place[0],
            stages=stages or None,
            select=the_selector(select),
            seed=seed,
            length=length,
            angle=angle,
            whole=whole,
            progress=track(f"{what} of {network}"),
        )
        found = chosen.ask(net, question)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{what}_{plain(network)}"
    picture = save_figure(chosen.draw(found), stem, command=command_line())
    table = write_table(stem.with_suffix(".csv"), found.rows())
    facts = {"command": command_line(), "what": what, "images": names, "made": found.provenance}
    sidecar = write_sidecar(stem.with_suffix(".json"), {**facts, "rows": found.rows()})
    for path in (*picture, table, sidecar):
        typer.echo(path)


def _pairs(
    image: list[Path], sharp: list[Path], size: str, count: int
) -> "tuple[list[str], list[Tensor], list[Tensor] | None]":
    """Names, blurred images and, where they are known, the sharp ones."""
    from evssm.data.embedded import embedded_test
    from evssm.images import crop_centre

    if sharp and not image:
        image = sharp  # alone they are what is to be blurred
    if not image:
        h, w = the_size(size)
        pairs = embedded_test(extents=EXTENTS, straight=True)
        chosen = [pairs[i] for i in range(min(count, len(pairs)))]
        cut = [[crop_centre(x, h, w) for x in (pair.blurred, pair.sharp)] for pair in chosen]
        return [pair.name for pair in chosen], [b for b, _ in cut], [s for _, s in cut]
    found = dict(list(the_images(image, size).items())[:count])
    if not sharp:
        return list(found), list(found.values()), None
    beside = list(the_images(sharp, size).values())[:count]
    if len(beside) != len(found):
        raise ValueError(f"{len(found)} blurred images and {len(beside)} sharp ones do not belong together")
    return list(found), list(found.values()), beside


def _networks(
    name: str, weights: str | None, local: bool, window: int | None, untrained: bool, seed: int, *, both: bool
) -> tuple[Any, Any]:
    """The network in the mode asked for and, where `both` are wanted, without windows; `None` where it has none."""
    file = file_for(name, [name], [weights] if weights else [])
    mode: Any = local
    if window is not None:
        if window < 4 or window % 4:
            raise ValueError(f"--window {window} is no multiple of 4 px; each level halves it, try 64")
        mode = (window, window) if name.startswith("nafnet") else (window, window // 2, window // 4)
    whole = the_network(name, file, False, untrained, seed) if both and mode else None
    return the_network(name, file, mode, untrained, seed), whole
