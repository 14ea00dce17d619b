"""What several commands ask of their arguments: a network, images, places; and the bars they show meanwhile."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from evssm.foreign import told_in_a_line as told_in_a_line

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.questions import Question
    from evssm.sources import ImageSource, NetworkSource


ANSWERS = "answers"
"""The folder in that of the results that holds an answer per network, image and question."""


def answers(
    sources: "Iterable[NetworkSource]",
    images: "Sequence[ImageSource]",
    questions: "Sequence[Question]",
    out: Path,
    where: tuple[str | None, int | None, str, int | None],
    track: Callable[[str], Callable[..., None]],
) -> "dict[NetworkSource, list[list[Path]]]":
    """The files that hold the answers, by network, then in the order of images and questions.

    `where` is what `--cluster`, `--workers`, `--device` and `--threads` say.
    """
    from analysis.engines import OnWorkers, in_turn
    from analysis.fan_out import fan_out

    cluster, workers, device, threads = where
    if cluster is None and workers is not None:
        raise ValueError("--workers is for --cluster; try --cluster local")
    threads = threads or (1 if cluster else None)
    engine = OnWorkers(cluster, workers, device=device, threads=threads or 1, say=resumed) if cluster else in_turn
    return fan_out(
        sources,
        images,
        questions,
        out / ANSWERS,
        engine=engine,
        device=device,
        threads=threads,
        track=track,
        say=resumed,
    )


def stem_of(command: str, images: "Sequence[ImageSource]", number: int) -> str:
    """What the picture of an image is called: after the command, and of several images also after the image."""
    return command if len(images) == 1 else f"{command}_{number:04}_{plain(Path(images[number].name).stem)}"


def resumed(line: str) -> None:
    """Tells a person what was there already, or what had to be done again."""
    typer.echo(f"evssm: {line}", err=True)


def the_network(
    name: str, file: str | None, local: bool | tuple[int, ...], untrained: bool, seed: int
) -> Callable[..., Any]:
    """The network to look at: one's own, one with weights, or where that is asked for an untrained one."""
    from evssm.sources import NetworkSource

    return NetworkSource(name, file, local, untrained, seed).make()


def trained_network(name: str | None, file: str | None, *, local: bool = False) -> Callable[..., Any]:
    """The network that a name, a file of weights or both stand for: one's own, or one with weights, never without.

    Without either it is `evssm-compact`, or the first where that is not bundled.
    """
    from evssm.foreign import own_network
    from evssm.models import MODELS
    from evssm.weights import bundled, load

    if name and ":" in name:
        return own_network(name)
    overrides: dict[str, Any] = {"local": True} if local else {}
    if file:
        return load(file, name=name, **overrides)
    there = list(bundled())
    if name is None and not there:
        raise ValueError("no trained network comes with this installation; give --weights FILE (and --network NAME)")
    if name in MODELS and name not in there:
        raise ValueError(
            f"no trained weights of {name} here; give --weights FILE (bundled: {', '.join(there) or 'none'})"
        )
    return load(name or ("evssm-compact" if "evssm-compact" in there else there[0]), **overrides)


def file_for(name: str, networks: list[str], weights: list[str]) -> str | None:
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


def image_sources(given: list[Path], size: str | None) -> list["ImageSource"]:
    """The middle of each image, or whole ones without a size; folders give what they hold, and nothing the bundled
    photographs."""
    from evssm.images import SUFFIXES
    from evssm.photographs import PHOTOGRAPHS
    from evssm.provenance import existing_file
    from evssm.sources import ImageSource

    edges = None if size is None else the_size(size)
    if not given:
        return [ImageSource(name, None, edges or the_size("256")) for name in PHOTOGRAPHS]
    files = [
        file for path in given for file in (images_in(path) if path.is_dir() else [existing_file(path, "an image")])
    ]
    if not files:
        raise ValueError(f"no image in {', '.join(map(str, given))}; known suffixes are {', '.join(SUFFIXES)}")
    return [ImageSource(str(file), file, edges) for file in dict.fromkeys(files)]


def images_in(folder: Path) -> list[Path]:
    """The images right in a folder; hidden files, among them what a killed run left half-written, are none."""
    from evssm.images import SUFFIXES

    there = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in there if path.suffix.lower() in SUFFIXES)


def the_images(given: list[Path], size: str) -> dict[str, "Tensor"]:
    """The middle of each image by name; folders give what they hold."""
    return {source.name: source.read() for source in image_sources(given, size)}


def whole_photograph(image: Path | None, size: str | None) -> "tuple[str, Tensor]":
    """The image by name: the user's whole unless a size is given, or the first bundled photograph."""
    source = image_sources([] if image is None else [image], size)[0]
    return source.name, source.read()


def the_size(text: str) -> tuple[int, int]:
    """Rows and columns."""
    from evssm.images import SMALLEST

    edge = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if edge is None:
        raise ValueError(f"--size {text} is neither N nor HxW; try 256 or 256x384")
    h, w = int(edge[1]), int(edge[2] or edge[1])
    if min(h, w) < SMALLEST:
        raise ValueError(f"--size {text} has a side under {SMALLEST} pixels, the least that the networks take")
    return h, w


def box_and_margin(box: str, surroundings: str) -> tuple[str | tuple[int, ...], int | None]:
    """A region's four numbers, or its name as it is; the pixels around it, `None` for all."""
    if surroundings != "whole" and not surroundings.isdecimal():
        raise ValueError(f"--surroundings {surroundings} is neither a number of pixels nor whole; try 96")
    numbers = re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){3}", box)
    margin = None if surroundings == "whole" else int(surroundings)
    return tuple(map(int, box.split(","))) if numbers else box, margin


def the_region(
    photograph: "Tensor", box: str, surroundings: str
) -> "tuple[Tensor, tuple[int, int, int, int], tuple[int, int]]":
    """What the network sees of a photograph around a region, the region in it, and the pixel at which it begins."""
    from analysis.attributions import region_of
    from analysis.regions import around

    h, w = photograph.shape[-2:]
    region, margin = box_and_margin(box, surroundings)
    return around(photograph[None], region_of(region, h, w), max(h, w) if margin is None else margin)


def the_queries(text: str) -> str | list[tuple[int, int]]:
    place = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    return [(int(place[1]), int(place[2]))] if place else text


def the_selector(text: str | None) -> int | str | None:
    """An index or a key."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def plain(name: str) -> str:
    """A network's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name)


def advance(bar: Callable[..., None], done: int, total: int, latest: dict[str, float]) -> None:
    """Moves the bar of a training on, with its latest loss and scores beside it."""
    bar(done, total, **latest)


def trained_files(folder: Path | None) -> dict[str, Path]:
    """The weights in a folder by name, or those that come with the package."""
    from evssm.weights import bundled

    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder else bundled()


def demand_files(files: dict[str, Path], folder: Path | None) -> None:
    """`ValueError` where nothing is to be measured."""
    if not files:
        raise ValueError(f"no weights in {folder or 'this package'}; train them: evssm train --family --out runs")


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The path, once it holds a line for each row under the names of the columns; whole or not at all."""
    import csv

    from evssm.provenance import written_whole

    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def peak_memory() -> int:
    """Bytes of memory that this process held at most."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tasks_of(track: Callable[[str], Callable[..., None]], name: str) -> Callable[[str], Callable[..., None]]:
    """`track` for the tasks of one network, each of which is named after both."""
    return lambda task: track(f"{name}, {task}")


@contextmanager
def progress() -> Iterator[Callable[[str], Callable[..., None]]]:
    """Makes a bar per task on standard error, where that is a terminal; numbers given by name stand beside it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:g}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def track(name: str) -> Callable[..., None]:
            task = bars.add_task(name, total=None)

            def advance(done: float | int, total: int, **facts: float) -> None:
                text = " ".join([name, *(f"{fact} {value:.4g}" for fact, value in facts.items())])
                bars.update(task, completed=done, total=total, description=text)

            return advance

        yield track
