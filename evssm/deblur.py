"""Files and folders of blurred images, deblurred one by one: whole files only, and finished ones are not made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from torch import Tensor

from evssm.images import SUFFIXES, demand_format, read_image, write_image
from evssm.inference import Health, Inference, demand_views, memory_report
from evssm.ledger import Ledger, read_ledger
from evssm.provenance import claimed, file_sha256
from evssm.stamp import network_stamp

READ = (*SUFFIXES, ".webp", ".gif")
"""Suffixes of the files in a folder that are taken for images."""

LEDGER = "deblurred.csv"
COLUMNS = ("source", "result", "source_sha256", "height", "width", "not_finite", "overshoot")


@dataclass(frozen=True)
class Job:
    """One image to read, and where its result goes; `name` is what the ledger calls the result."""

    source: Path
    result: Path
    name: str


def plan(source: Path, out: Path, *, suffix: str = ".png") -> tuple[list[Job], Path]:
    """What is to be done for a file or a folder, and the ledger's file.

    A file goes to `out` where that has the suffix of an image, and into the folder `out` otherwise. Of a folder, every
    image at any depth goes to the same place below `out`, with `suffix`; where that would give two images one name,
    both keep their own suffix before it. What lies below `out` is no source.

    Raises `ValueError` or `FileNotFoundError` for a source that is not there, for a folder without images, for a
    folder into a file, and where a result would take the place of a source.
    """
    if not source.exists():
        what = f"{source} is a link to {source.readlink()}, which leads nowhere" if source.is_symlink() else ""
        raise FileNotFoundError(f"{what or f'there is no {source}'}; give an image or a folder of images")
    if source.is_file():
        if out.suffix.lower() in SUFFIXES and not out.is_dir():
            jobs, ledger = [Job(source, out, out.name)], out.with_name(f"{out.stem}_{LEDGER}")
        else:
            name = source.stem + suffix
            jobs, ledger = [Job(source, out / name, name)], out / LEDGER
    else:
        if out.suffix.lower() in SUFFIXES or out.is_file():
            raise ValueError(f"{source} is a folder and {out} names a file; give a folder for the results")
        places = _places(source, out, suffix)
        jobs, ledger = [Job(path, out / name, name.as_posix()) for path, name in places.items()], out / LEDGER
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.result.resolve() in sources:
            raise ValueError(f"{job.result} would take the place of a blurred image; give another folder")
    return jobs, ledger


def _places(source: Path, out: Path, suffix: str) -> dict[Path, Path]:
    """Each image below `source`, and where below `out` its result goes."""
    home, origin = out.resolve(), source.resolve()
    apart = home != origin and home.is_relative_to(origin)  # then what lies in `out` can be told from the rest
    there = (path for path in source.rglob("*") if not path.name.startswith("."))  # hidden: what a killed run left
    below = sorted(path for path in there if path.suffix.lower() in READ and path.is_file())
    below = [path for path in below if not (apart and path.resolve().is_relative_to(home))]
    if not below:
        raise ValueError(f"no image in {source}; known suffixes are {', '.join(READ)}")
    names = [path.relative_to(source) for path in below]
    times = Counter(name.with_suffix(suffix) for name in names)
    for i, name in enumerate(names):
        names[i] = name.with_suffix(suffix) if times[name.with_suffix(suffix)] == 1 else Path(f"{name}{suffix}")
        if not apart and (out / names[i]).resolve().is_relative_to(origin):
            raise ValueError(f"{out / names[i]} would lie among the blurred images; give a folder of its own")
    return dict(zip(below, names, strict=True))


def deblur(
    net: Callable[..., Any],
    jobs: Sequence[Job],
    ledger_path: Path,
    *,
    inference: Inference | None = None,
    bits: int = 8,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[list[Path], list[str]]:
    """The files that were made or were there already, and a line for each image that has none.

    Every finished image has a row in the ledger (`COLUMNS`), under a header that names network, weights and how they
    were used. A result that has one, made of the same file, is not made again. An image that cannot be read, does not
    fit into the memory, or of which the network makes values that are not finite, is told in a line, and the others
    go on. `progress` counts the images, or the tiles of a single one; `say` is told the memory that a size takes
    before it runs, and what is wrong with an output.

    Raises `ValueError` for untrained weights, for a network that takes two views, for a ledger of another network or
    use or one that another run is writing, for results that are there but in no ledger unless `overwrite`, and for
    formats without so many bits; `OSError` where the disk is full.
    """
    inference, say = inference or Inference(), say or (lambda line: None)
    stamp = network_stamp(net)
    if stamp["trained"] is False:
        raise ValueError(f"{stamp['network']} has no trained weights; random ones deblur nothing")
    demand_views(net, 3)
    for job in jobs:
        demand_format(job.result, bits)
    header = {**stamp, "inference": asdict(inference), "bits": bits}
    known = {row["result"] for row in read_ledger(ledger_path)[1]} if ledger_path.exists() else set()
    foreign = [job.result for job in jobs if job.result.exists() and job.name not in known]
    if foreign and not overwrite:
        raise ValueError(f"{foreign[0]} is there and was not made by this command; --overwrite replaces it")
    ledger_path.parent.mkdir(parents=True, exist_ok=True)
    with claimed(ledger_path):
        return _deblurred(net, jobs, ledger_path, header, inference, bits, overwrite, progress, say)


def _deblurred(
    net: Callable[..., Any],
    jobs: Sequence[Job],
    ledger_path: Path,
    header: dict[str, Any],
    inference: Inference,
    bits: int,
    overwrite: bool,
    progress: Callable[[int, int], None] | None,
    say: Callable[[str], None],
) -> tuple[list[Path], list[str]]:
    """What `deblur` returns, once all is sure to fit together."""
    if overwrite:
        ledger_path.unlink(missing_ok=True)
    ledger = Ledger(ledger_path, header, COLUMNS, lines=(f"deblurred by {header['network']}", inference.describe()))
    finished = {(row["result"], row["source_sha256"]) for row in ledger.rows}
    if finished:
        say(f"{ledger_path} has {len(finished)} rows already; what they name is not made again where it is whole")
    made: list[Path] = []
    failures: list[str] = []
    largest = 0
    for done, job in enumerate(jobs):
        if progress:
            progress(done, len(jobs))
        try:
            digest = file_sha256(job.source)
            if not (job.result.exists() and (job.name, digest) in finished):
                x = read_image(job.source)
                h, w = x.shape[-2:]
                if h * w > largest:
                    say(memory_report(net, inference, h, w))
                    largest = h * w
                y, health = _restored(net, x, inference, progress if len(jobs) == 1 else None)
                if health.describe():
                    say(f"{job.source}: {health.describe()}")
                facts = {"height": h, "width": w, **asdict(health)}
                # The row comes first: an image that has no row would be taken for somebody else's.
                ledger.append({"source": str(job.source), "result": job.name, "source_sha256": digest, **facts})
                job.result.parent.mkdir(parents=True, exist_ok=True)
                write_image(job.result, y, bits=bits)
            made.append(job.result)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EFBIG):
                raise  # the next image would find no room either
            failures.append(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
    if progress:
        progress(len(jobs), len(jobs))
    return made, failures


def _restored(
    net: Callable[..., Any], x: Tensor, inference: Inference, progress: Callable[[int, int], None] | None
) -> tuple[Tensor, Health]:
    """What the network makes of an image `3 h w`, and what is wrong with it."""
    y = inference(net, x[None], progress=progress)[0]
    if y.shape != x.shape:
        raise ValueError(f"the network makes {tuple(y.shape)} of {tuple(x.shape)}")
    return y, Health.of(y)
