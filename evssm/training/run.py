"""One training run from beginning to end: data, loop, and a file of weights that says how it came about."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evssm.data.embedded import EmbeddedCrops, embedded_test
from evssm.data.motorcycle import DefocusCrops
from evssm.data.pairs import Pairs
from evssm.machine import commit, hardware
from evssm.models import MODELS
from evssm.training.crops import RandomCrops
from evssm.training.loop import CHECKPOINT, Report, train
from evssm.training.recipes import TrainConfig
from evssm.weights import load, save

EXTENT = (2.0, 24.0)
"""Pixels that the camera travels in embedded training data, evenly and along a line of any direction.

The family's budget is too small for winding paths: in trials of one seed, EVSSM gained 0.10 dB on nine held-out images
after 1,000 steps on paths of 0-24 px, and 0.39 dB on paths of 4-24 px. 500 steps on straight ones brought 0.66 dB on
straight and 0.53 dB on winding test paths.
"""

CIRCLE = (4.0, 24.0)
"""Diameters in pixels, drawn evenly, of the largest blur circle in embedded defocus data."""

BUILT_IN = ("embedded", "defocus")
"""Data that come with the package: camera motion on photographs, and a scene in depth out of focus."""


@dataclass(frozen=True)
class TrainingData:
    """Crops to train on, whole pairs to validate with, and what they are in words."""

    crops: Pairs
    validation: Pairs
    description: str


def embedded_data(config: TrainConfig, seed: int, *, validation: bool = True) -> TrainingData:
    """Camera motion on the photographs that come with scikit-image; nothing is downloaded or made ahead."""
    held_out: Pairs = embedded_test(split="validation", extents=(8, 16), straight=True) if validation else []
    crops = EmbeddedCrops("train", config.crop, seed=seed, extent=EXTENT, straight=True)
    low, high = EXTENT
    text = f"embedded photographs, straight camera motion of {low:g}-{high:g} px, data seed {seed}"
    return TrainingData(crops, held_out, text)


def defocus_data(config: TrainConfig, seed: int, *, dual_pixel: bool = False) -> TrainingData:
    """Defocus on the left part of the motorcycle, in one photograph or in the two views of a dual-pixel sensor.

    Nothing is left for validation: the scene's right part is the test.
    """
    crops = DefocusCrops("train", config.crop, seed=seed, dual_pixel=dual_pixel, circle=CIRCLE)
    low, high = CIRCLE
    views = ", two views" if dual_pixel else ""
    text = f"left part of the motorcycle, defocus of {low:g}-{high:g} px at most{views}, data seed {seed}"
    return TrainingData(crops, [], text)


def built_in_data(network: str, which: str, config: TrainConfig, seed: int, *, validation: bool = True) -> TrainingData:
    """The data of that name in `BUILT_IN`, with as many views as the network takes.

    Raises `ValueError` for another name, and where a network of two views is to learn from motion, which has one.
    """
    if which not in BUILT_IN:
        raise ValueError(f"no data of the package are called {which!r}; there are {', '.join(BUILT_IN)}")
    if which == "defocus":
        return defocus_data(config, seed, dual_pixel=takes_two_views(network))
    if takes_two_views(network):
        raise ValueError(f"{network} takes the two views of a dual-pixel sensor; train it with --data defocus")
    return embedded_data(config, seed, validation=validation)


def takes_two_views(network: str) -> bool:
    """Whether the network of that name takes those of a dual-pixel sensor; `False` for an unknown name."""
    return network in MODELS and bool(MODELS[network].arguments.get("dual_pixel"))


def folder_data(root: Path, config: TrainConfig, seed: int, **choices: Any) -> TrainingData:
    """Pairs of one's own or of a published data set, in a layout that `evssm data list` shows."""
    from evssm.data.folders import paired_folder

    pairs = paired_folder(root, split="train", **choices)
    held_out = paired_folder(root, split="test", **choices)
    crops = RandomCrops(pairs, config.crop, seed=seed)
    return TrainingData(crops, held_out, f"{pairs.label}, data seed {seed}")


def trained_file(
    name: str,
    network: str,
    data: TrainingData,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    overrides: dict[str, Any] | None = None,
    start: Path | None = None,
    stop_after: int | None = None,
    report: Report | None = None,
    say: Callable[[str], object] | None = None,
    **fabric: Any,
) -> Path | None:
    """The file of weights `folder/name.safetensors`, in half precision; `None` where `stop_after` ended the run early,
    and in all processes but the first, which writes it.

    An existing file is left alone, once it is sure to be whole; a run that was interrupted goes on from its checkpoint
    in `folder/name/`, which is removed at the end, while the logs stay. `say` is told of both.
    """
    path, place = folder / f"{name}.safetensors", folder / name
    if path.exists():
        try:
            load(path)
        except ValueError as error:
            raise ValueError(f"{error}; or delete it to train it again") from None
        if say:
            say(f"{path} is there already; it is left as it is")
        return path
    outcome = train(
        network,
        data.crops,
        data.validation,
        config,
        place,
        seed=seed,
        data=data.description,
        overrides=overrides,
        start=start,
        stop_after=stop_after,
        report=report,
        say=say,
        **fabric,
    )
    if outcome.steps < config.steps or not outcome.first:
        return None
    origin = {"data": data.description, "steps": outcome.steps, "seed": seed, "note": json.dumps(config.as_dict())}
    device = next(outcome.net.parameters()).device
    save(outcome.net, path, packed=True, hardware=hardware(device), commit=commit(), **origin)
    (place / CHECKPOINT).unlink(missing_ok=True)
    return path
