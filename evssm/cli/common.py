"""What several commands ask of their arguments: a network, images, places; and the bars they show meanwhile."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def the_network(
    name: str, file: str | None, local: bool | tuple[int, ...], untrained: bool, seed: int
) -> Callable[..., Any]:
    """The network to look at: one's own, one with weights, or where that is asked for an untrained one.

    `local` is the argument of that name of `build`.
    """
    import torch

    from evssm.foreign import own_network
    from evssm.models import build
    from evssm.weights import bundled, load

    if ":" in name:
        return own_network(name)
    overrides = {"local": local} if local else {}
    if file or (name in bundled() and not untrained):
        return load(file or name, name=name if file else None, **overrides)
    torch.manual_seed(seed)
    net = build(name, **overrides)  # first, for what it says of unknown names
    if not untrained:
        raise ValueError(
            f"no trained weights of {name} here; give --weights FILE, or --untrained, which the picture says"
        )
    return net


def trained_network(name: str | None, file: str | None, *, local: bool = False) -> Callable[..., Any]:
    """The network that a name, a file of weights or both stand for: one's own, or one with weights, never without.

    Without either it is the first bundled one.
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
    return load(name or there[0], **overrides)


@contextmanager
def told_in_a_line(name: str, *, own: bool) -> Iterator[None]:
    """Says of a network of the user's own that it failed, and how, whatever it raised."""
    try:
        yield
    except Exception as error:
        if not own or isinstance(error, (ValueError, LookupError, OSError)):
            raise
        raise ValueError(f"{name} fails on an image of this size: {type(error).__name__}: {error}") from error


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


def the_images(given: list[Path], size: str) -> dict[str, "Tensor"]:
    """The middle of each image by name; folders give what they hold."""
    from evssm.images import SUFFIXES, crop_centre, read_image
    from evssm.photographs import photographs

    h, w = the_size(size)
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


def whole_photograph(image: Path | None, size: str | None) -> "tuple[str, Tensor]":
    """The image by name: the user's whole unless a size is given, or the first bundled photograph."""
    from evssm.images import read_image

    if image is not None and size is None:
        return str(image), read_image(image)
    return next(iter(the_images([] if image is None else [image], size or "256").items()))


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


def the_region(
    photograph: "Tensor", box: str, surroundings: str
) -> "tuple[Tensor, tuple[int, int, int, int], tuple[int, int]]":
    """What the network sees of a photograph around a region, the region in it, and the pixel at which it begins."""
    from analysis.attributions import region_of
    from analysis.regions import around

    h, w = photograph.shape[-2:]
    numbers = re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*){3}", box)
    region = region_of(tuple(map(int, box.split(","))) if numbers else box, h, w)
    if surroundings != "whole" and not surroundings.isdecimal():
        raise ValueError(f"--surroundings {surroundings} is neither a number of pixels nor whole; try 96")
    return around(photograph[None], region, max(h, w) if surroundings == "whole" else int(surroundings))


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
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def track(name: str) -> Callable[..., None]:
            task = bars.add_task(name, total=None)

            def advance(done: int, total: int, **facts: float) -> None:
                text = " ".join([name, *(f"{fact} {value:.4g}" for fact, value in facts.items())])
                bars.update(task, completed=done, total=total, description=text)

            return advance

        yield track
