"""How much faster, and how much leaner, EVSSM is here than in its released layout on one thread: prints a table.

    python tests/benchmarks/network.py [--rounds 7] [--scan numba]

Both networks run in one process, in turn, and medians of CPU time are compared: such ratios travel between machines far
better than milliseconds do. The released layout (`tests/released_layout.py`) keeps maps as `b c h w`, takes Fourier
transforms of patches and differentiates operation by operation; it has the same scan unless told otherwise. "train" is
a step, forward and backward with all weights' gradients, of `evssm-compact` on eight crops of 64 x 64; "forward" and
"ERF" (the gradient of the centre pixel, weights frozen) are of the full network on one picture. Memory is the peak of a
process of its own that computes the gradients of the centre pixel's three colours.
"""

import argparse
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import torch
from torch import Tensor, nn

from evssm.models import MODELS, build
from evssm.scan import scan_backends, selective_scan

LAYOUT = Path(__file__).parent.parent / "released_layout.py"


def train_step(net: nn.Module, x: Tensor) -> None:
    net.zero_grad()
    (net(x) - x.flip(0)).abs().mean().backward()


def forward(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        net(x)


def receptive_field(net: nn.Module, x: Tensor, colours: int = 1) -> None:
    """The gradients of some colours of the centre pixel."""
    x = x.detach().requires_grad_()
    h, w = x.shape[-2:]
    centre = net(x)[0, :, h // 2, w // 2]
    for colour in centre[:colours]:
        torch.autograd.grad(colour, x, retain_graph=True)


def compare(
    name: str, work: Callable[[nn.Module, Tensor], None], nets: list[nn.Module], x: Tensor, rounds: int
) -> None:
    """One row of the table: our CPU time, and the released layout's over it."""
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for net, seconds in zip(nets, times, strict=True):
            start = process_time()
            work(net, x)
            if turn:  # the first round compiles, and fills the caches
                seconds.append(process_time() - start)
    ours, theirs = map(median, times)
    print(f"{name:>14} {ours:12.3f} {theirs:12.3f} {theirs / ours:8.2f}", flush=True)


def peak_memory(side: int, recompute: bool) -> float:
    """Peak resident memory, GB, of a process of its own that computes three receptive fields of `side` pixels."""
    command = [sys.executable, __file__, "--memory-of", str(side), *(["--recompute"] if recompute else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(side: int, recompute: bool) -> None:
    net = build("evssm").requires_grad_(False)
    net.checkpoint = recompute
    receptive_field(net, torch.rand(1, 3, side, side), colours=3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each network in each case (default: 7)")
    usable = [name for name, state in scan_backends().items() if state == "available"]
    parser.add_argument("--scan", choices=usable, default="numba", help="the released layout's scan (default: numba)")
    parser.add_argument("--memory-of", type=int, metavar="PIXELS", help="only measure this process's own memory")
    parser.add_argument("--recompute", action="store_true", help="... with blocks recomputed in the backward pass")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        return measure_memory(options.memory_of, options.recompute)
    # First of all: a new process's peak starts from its parent's size.
    for side, recompute in ((128, False), (128, True), (256, True)):
        how = "blocks recomputed" if recompute else "nothing recomputed"
        print(f"peak memory of three colours' ERF {side}, {how}: {peak_memory(side, recompute):.2f} GB", flush=True)
    released = runpy.run_path(str(LAYOUT))["ReleasedEVSSM"]
    scan = partial(selective_scan, backend=options.scan)
    print(f"{'':14} {'ours, s':>12} {'released, s':>12} {'ratio':>8}")
    size = {key: MODELS["evssm-compact"].arguments[key] for key in ("width", "depths", "ffn_expansion")}
    nets = [build("evssm-compact"), released(scan=scan, **size)]
    compare("train 8 x 64", train_step, nets, torch.rand(8, 3, 64, 64), options.rounds)
    nets = [build("evssm").requires_grad_(False), released(48, (6, 6, 12), scan).requires_grad_(False)]
    x = torch.rand(1, 3, 128, 128)
    compare("forward 128", forward, nets, x, options.rounds)
    compare("ERF 128", receptive_field, nets, x, options.rounds)
    return None


if __name__ == "__main__":
    main()
