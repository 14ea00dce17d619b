"""EVSSM against itself in the released layout (`tests/released_layout.py`): forward, receptive field, training step.

The released layout keeps maps as `b c h w`, takes Fourier transforms of patches and differentiates operation by
operation. Its scan is mambapy's, the fastest that runs on a CPU without us, and once more ours, which tells what the
layout alone costs. "train" is a step, forward and backward with all weights' gradients, of `evssm-compact` on eight
crops of 64 x 64; the others are of the full network on one picture, the receptive field as the gradient of one colour
of the centre pixel, weights frozen, nothing recomputed.
"""

import runpy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from compare import FLOOR, HERE, OURS, Row, in_turn
from floor import STATES, Rates
from scan import mambapy_scan
from torch import Tensor, nn

from analysis.costs import cost
from analysis.operations import SCAN
from evssm.models import MODELS, build
from evssm.scan import selective_scan
from evssm.weights import to_official

RELEASED = runpy.run_path(str(HERE.parent / "released_layout.py"))["ReleasedEVSSM"]
THEIR_SCANS: dict[str, Callable[..., Tensor]] = {
    "released, mambapy": lambda *tensors, delta_bias, **_: mambapy_scan(*tensors, delta_bias),
    "released, our scan": selective_scan,
}


def released(name: str, scan: str) -> nn.Module:
    """The network `name` of ours in the released layout."""
    arguments = {"width": 48, "depths": (6, 6, 12), **MODELS[name].arguments}
    size = {key: arguments[key] for key in ("width", "depths", "ffn_expansion") if key in arguments}
    return RELEASED(scan=THEIR_SCANS[scan], **size)


def train_step(net: nn.Module, x: Tensor) -> None:
    net.zero_grad()
    (net(x) - x.flip(0)).abs().mean().backward()


def forward(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        net(x)


def receptive_field(net: nn.Module, x: Tensor) -> None:
    """The gradient of one colour of the centre pixel."""
    x = x.detach().requires_grad_()
    h, w = x.shape[-2:]
    torch.autograd.grad(net(x)[0, 0, h // 2, w // 2], x)


WORK: dict[str, Callable[[nn.Module, Tensor], None]] = {
    "forward": forward,
    "receptive field": receptive_field,
    "training step": train_step,
}
PASSES: dict[str, dict[str, Any]] = {
    "forward": {},
    "receptive field": {"products": 1},
    "training step": {"products": 1, "weights": True},
}
CASES = [("forward", "evssm", 1, 128), ("receptive field", "evssm", 1, 128), ("training step", "evssm-compact", 8, 64)]
SMALL = [(what, "evssm-compact", 1, 32) for what in WORK]


def least(rates: Rates, work: str, net: nn.Module, batch: int, side: int) -> float:
    """Seconds of the floor."""
    counted = cost(net, (side, side), batch=batch).flops
    scanned = counted[SCAN] / (9 * STATES + 1)
    return rates.network(sum(counted.values()) - counted[SCAN], scanned, **PASSES[work])


def rows(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    for what, name, batch, side in SMALL if small else CASES:
        x = torch.rand(batch, 3, side, side)
        ours = build(name)
        nets = {OURS: ours, **{scan: released(name, scan) for scan in THEIR_SCANS}}
        for who, net in nets.items():
            if who != OURS:
                net.load_state_dict(to_official(ours))
            with torch.no_grad():
                torch.testing.assert_close(net(x[..., :32, :32]), ours(x[..., :32, :32]), rtol=1e-3, atol=1e-4)
            net.requires_grad_(what == "training step")
        case = f"{what} of {name}, batch {batch}"
        contenders = {who: partial(WORK[what], net, x) for who, net in nets.items()}
        for who, times in in_turn(contenders, rounds).items():
            yield Row("network", case, side, who, tuple(times))
        yield Row("network", case, side, FLOOR, (least(rates, what, ours, batch, side),))
