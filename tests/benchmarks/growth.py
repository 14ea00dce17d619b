"""How time and memory grow with the size of an image and with their number, each measured in a process of its own."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from time import process_time
from typing import Any

import torch
from compare import COUNTED, FLOOR, OURS, Row, alone, peak_memory
from floor import Rates
from network import least, receptive_field, released, train_step
from scan import SCANS, once, random_inputs
from torch import nn

from analysis.erf import effective_receptive_field
from evssm.memory import counted_memory
from evssm.models import build

RECOMPUTED_FROM = 161
"""Pixels of a side from which receptive fields recompute the network's blocks, as `analysis` does by itself."""


def the_network(name: str, who: str, side: int, local: bool) -> nn.Module:
    if who != OURS:
        return released(name, who)
    net = build(name, local=local)
    net.checkpoint = side >= RECOMPUTED_FROM
    return net


def forward(name: str, who: str, h: int, w: int, local: bool = False) -> Callable[[], object]:
    net, x = the_network(name, who, max(h, w), local).requires_grad_(False), torch.rand(1, 3, h, w)

    def run() -> None:
        with torch.no_grad():
            net(x)

    return run


def field(name: str, who: str, h: int, w: int, local: bool = False) -> Callable[[], object]:
    net, x = the_network(name, who, max(h, w), local).requires_grad_(False), torch.rand(1, 3, h, w)
    return partial(receptive_field, net, x)


def training(name: str, who: str, side: int, batch: int) -> Callable[[], object]:
    net = build(name) if who == OURS else released(name, who)
    return partial(train_step, net, torch.rand(batch, 3, side, side))


def many_fields(name: str, side: int, images: int) -> Callable[[], object]:
    net, x = build(name), torch.rand(images, 3, side, side)
    return partial(effective_receptive_field, net, x, estimator="replknet", residual="include")


def scanned(who: str, channels: int, steps: int) -> Callable[[], object]:
    return partial(once, SCANS[who], random_inputs(channels, steps), torch.randn(1, steps, channels).mT, "both")


TASKS: dict[str, Callable[..., Callable[[], object]]] = {
    "forward": forward,
    "receptive field": field,
    "training step": training,
    "fields of many images": many_fields,
    "scan": scanned,
}
TINY = {
    "forward": {"h": 32, "w": 32},
    "receptive field": {"h": 32, "w": 32},
    "training step": {"side": 32},
    "fields of many images": {"side": 32, "images": 1},
    "scan": {"steps": 64},
}
"""A smaller task of the same kind, which compiles what is compiled before the clock runs."""


def run_alone(what: str, rounds: int, **options: Any) -> None:
    """The work of the process of its own: prints its times and its peak memory."""
    torch.set_num_threads(1)
    TASKS[what](**{**options, **TINY[what]})()
    work, times = TASKS[what](**options), []
    for _ in range(rounds):
        start = process_time()
        work()
        times.append(process_time() - start)
    print(json.dumps({"seconds": times, "peak": peak_memory()}))


def counted(what: str, name: str, side: int) -> int:
    """Peak bytes of the tensors of a task of ours, found without computing: no process can do with less."""
    TASKS[what](name=name, who=OURS, **TINY[what])()  # kernels are compiled when first used
    return counted_memory(lambda: TASKS[what](name=name, who=OURS, h=side, w=side)())


def rounds_at(side: int, rounds: int) -> int:
    """Fewer where one takes minutes."""
    return rounds if side <= 128 else max(1, rounds // 2) if side <= 256 else 1


def memory(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    """Peak memory of what `scan` and `network` time, each in a fresh process."""
    channels, steps = (6, 64) if small else (96, 65536)
    for who in (OURS, "ours, torch", "mambapy"):
        times, peak = alone("scan", who=who, channels=channels, steps=steps, rounds=1)
        yield Row("memory", f"scan, both, {channels} channels", steps, who, times, peak)
    name, side = ("evssm-compact", 32) if small else ("evssm", 128)
    for what in ("forward", "receptive field"):
        for who in (OURS, "released, mambapy"):
            times, peak = alone(what, name=name, who=who, h=side, w=side, rounds=1)
            yield Row("memory", f"{what} of {name}", side, who, times, peak)
    for who in (OURS, "released, mambapy"):
        times, peak = alone("training step", name="evssm-compact", who=who, side=64, batch=1 if small else 8, rounds=1)
        yield Row("memory", "training step of evssm-compact", 64, who, times, peak)


def sizes(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    """Growth with the side of a square image."""
    name = "evssm-compact" if small else "evssm"
    net = build(name)
    for what, upto, theirs_upto in (("forward", 1024, 256), ("receptive field", 1024, 128)):
        for side in (32, 64) if small else (64, 128, 256, 512, 1024):
            for who in (OURS, "released, mambapy"):
                if side <= (upto if who == OURS else theirs_upto):
                    options = {"name": name, "who": who, "h": side, "w": side, "rounds": rounds_at(side, rounds)}
                    yield Row("size", f"{what} of {name}", side, who, *alone(what, **options))
            yield Row("size", f"{what} of {name}", side, FLOOR, (least(rates, what, net, 1, side),))
            yield Row("size", f"{what} of {name}", side, COUNTED, (), counted(what, name, side))


def images(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    """Growth of receptive fields with the number of images."""
    side = 32 if small else 128
    for count in (1, 2) if small else (1, 2, 4, 8, 16):
        options = {"name": "evssm-compact", "side": side, "images": count, "rounds": rounds}
        case = f"fields of evssm-compact at {side} x {side}"
        yield Row("images", case, count, OURS, *alone("fields of many images", **options))
        least_of_all = count * least(rates, "receptive field", build("evssm-compact"), 1, side)
        yield Row("images", case, count, FLOOR, (least_of_all,))


def large(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    """A frame of GoPro, once: deblurred in the released windows, and its receptive field."""
    name, h, w = ("evssm-compact", 48, 80) if small else ("evssm", 720, 1280)
    for what in ("forward", "receptive field"):
        for local in (True, False):
            how = "in windows" if local else "whole"
            times, peak = alone(what, name=name, who=OURS, h=h, w=w, local=local, rounds=1)
            yield Row("large", f"{what} of {name}, {h} x {w}, {how}", w, OURS, times, peak)
