"""The trained compact family as tables: what each network gained on images that none of them was trained on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.ablate import COUNTED_AT
from analysis.costs import cost
from analysis.tasks import Task, task_of
from evssm.evaluate import evaluate
from evssm.metrics import Protocol
from evssm.models import MODELS
from evssm.provenance import Provenance
from evssm.scores import Scores
from evssm.training.family import FAMILY
from evssm.training.loop import LOG
from evssm.weights import load

LEAST_GAIN = 0.5
"""Mean gain in dB, over the blurred held-out images and seeds, below which a network is not bundled."""

ROOM = 24_500_000
"""Bytes that all bundled weights may take together; with logs and tables their folder stays under 25 MB."""


@dataclass(frozen=True, eq=False)
class Reached:
    """What one training run reached: its scores, its origin, and what the network costs at 256 x 256 pixels.

    `task` is what it was scored on. `windowed` are the scores with test-time windows, `None` for a network that has
    none. `size` is that of its file in bytes.
    """

    name: str
    task: Task
    scores: Scores
    windowed: Scores | None
    origin: Provenance
    parameters: int
    multiply_adds: float
    size: int

    @property
    def gain(self) -> float:
        """Mean gain in PSNR over the blurred images, dB, used the better way: whole images or windows."""
        return max(way.mean("gain") for way in (self.scores, self.windowed) if way is not None)


def reached(
    name: str,
    file: Path,
    tests: Mapping[str, Task],
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Reached:
    """Scores a file of trained weights on that of `tests` that it was trained for; the rows are kept in `folder` and
    not computed twice."""
    folder.mkdir(parents=True, exist_ok=True)
    net: Any = load(file)
    task = tests[task_of(net)]
    scores = evaluate(net, task.pairs, data=task.data, path=folder / f"{name}.csv", progress=progress)
    windowed = None
    if "local" in signature(MODELS[net.recipe.name].network).parameters:
        local = load(file, local=True)
        windowed = evaluate(local, task.pairs, data=task.data, path=folder / f"{name}_local.csv", progress=progress)
    taken = cost(net, COUNTED_AT)
    parameters = sum(weights.numel() for weights in net.parameters())
    return Reached(
        name, task, scores, windowed, net.provenance, parameters, taken.conv_linear_macs, file.stat().st_size
    )


def mean_gains(members: Sequence[Reached]) -> dict[str, float]:
    """Each member's name -> the mean of `gain` over the seeds of its network, dB."""
    seeds: dict[str, list[float]] = {}
    for one in members:
        seeds.setdefault(_without_seed(one.name), []).append(one.gain)
    return {one.name: fmean(seeds[_without_seed(one.name)]) for one in members}


def fates(members: Sequence[Reached]) -> dict[str, str]:
    """Each member's name -> "bundled", "not bundled" where its network gained too little, or "no room" where it did
    not but those before it fill `ROOM`.

    All seeds of a network have the same fate, by their mean: to leave out the weaker ones would flatter every figure
    that pools seeds. Networks take their places in the order of `FAMILY`, others after them.
    """
    places = {member.name: place for place, member in enumerate(FAMILY)}
    means, taken = mean_gains(members), 0
    found: dict[str, str] = {}
    for one in sorted(members, key=lambda one: places.get(one.name, len(places))):
        if one.name in found:
            continue
        seeds = [other for other in members if _without_seed(other.name) == _without_seed(one.name)]
        size = sum(seed.size for seed in seeds)
        fate = "not bundled" if means[one.name] < LEAST_GAIN else "no room" if taken + size > ROOM else "bundled"
        taken += size if fate == "bundled" else 0
        found |= {seed.name: fate for seed in seeds}
    return found


def _without_seed(name: str) -> str:
    return re.sub(r"-seed\d+$", "", name)


def family_page(members: Sequence[Reached]) -> str:
    """Markdown: a table for each task that networks were trained for, and below them how all were made."""
    lines = ["# The trained compact family"]
    decided = fates(members)
    for title, of_task in by_task(members).items():
        lines += ["", f"## {title}", "", family_table(of_task, decided)]
    if "no room" in decided.values():
        lines += ["", f"No room: gained enough, but all bundled weights together may take {ROOM / 1e6:g} MB."]
    lines += ["", "## How they were made", ""]
    ways = {(one.origin.data, one.origin.hardware, one.origin.commit): one for one in members}
    lines += [f"- commit {commit}, {hardware}: {text}" for text, hardware, commit in ways]
    return "\n".join(lines) + "\n"


def by_task(members: Sequence[Reached]) -> dict[str, list[Reached]]:
    """The networks of each task, under its title."""
    titles = dict.fromkeys(one.task.title for one in members)
    return {title: [one for one in members if one.task.title == title] for title in titles}


def family_table(members: Sequence[Reached], decided: Mapping[str, str]) -> str:
    """Markdown: a row per network and seed of one task; the last column says what `fates` decided and by what mean."""
    means, task = mean_gains(members), members[0].task
    head = ["network", "seed", "parameters", "multiply-adds at 256 x 256", "steps", "PSNR [dB]", "gain [dB]"]
    head += ["gain with test-time windows", f"seeds' mean gain, bundled from {LEAST_GAIN} dB on"]
    blurred = members[0].scores.mean("blurred_psnr")
    images = len(members[0].scores.rows)
    lines = [
        f"{images} images: {task.data}; blurred {blurred:.2f} dB. {Protocol().describe()}. "
        "In brackets, 95 % intervals that draw images (percentile bootstrap); they do not say how training varies.",
        *(["", task.scope] if task.scope else []),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for one in members:
        cells = [
            _without_seed(one.name),
            str(one.origin.seed),
            f"{one.parameters:,}",
            f"{one.multiply_adds / 1e9:.2f} G",
        ]
        cells += [f"{one.origin.steps:,}", f"{one.scores.mean('psnr'):.2f}", _gain(one.scores)]
        cells += [
            _gain(one.windowed) if one.windowed else "-",
            f"{means[one.name]:+.2f}, {decided[one.name]}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gain(scores: Scores) -> str:
    low, high = scores.interval("gain")
    return f"{scores.mean('gain'):+.2f} [{low:+.2f}, {high:+.2f}]"


def bundle(members: Sequence[Reached], files: Mapping[str, Path], folder: Path) -> list[Path]:
    """Copies the networks that are to be bundled (`fates`), with the training logs that reruns are held against, to
    `folder`; the files there.

    Raises `FileNotFoundError` for a network whose log does not lie in the folder beside its file that bears its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    decided = fates(members)
    written = []
    for one in members:
        if decided[one.name] == "bundled":
            log = files[one.name].with_suffix("") / LOG
            if not log.is_file():
                raise FileNotFoundError(f"{log}, the log of {one.name}'s training, is missing; train it again")
            written.append(Path(shutil.copyfile(files[one.name], folder / f"{one.name}.safetensors")))
            written.append(Path(shutil.copyfile(log, folder / f"{one.name}.csv")))
    return written
