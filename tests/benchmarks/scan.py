"""How much faster the selective scan is than other ways to compute it on one thread of a CPU: prints a table of ratios.

    python tests/benchmarks/scan.py [--rounds 7]

All run in one process, in turn, and the median of each one's CPU time counts: ratios of such medians travel between
machines, and between quiet and busy ones, far better than milliseconds do. float32, batch 1, 8 states, softplus and
skip included; "forward" without gradients, "both" with the gradients of all seven tensors. The comparisons: mambapy's
parallel scan (`pip install mambapy`), the loop of the definition, and the same loop with an index instead of `unbind`,
as the reference of state-spaces/mamba has it, whose backward pass is quadratic in the length.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from evssm.scan import scan_backends, selective_scan

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def mambapy_scan(u, delta, A, B, C, D, delta_bias):
    """The scan by mambapy's public function, in its own layout, which is that of the inputs' memory."""
    u, delta, B, C = (x.mT for x in (u, delta, B, C))
    delta = F.softplus(delta + delta_bias)
    decay = (delta[..., None] * A).exp()
    states = pscan(decay, (delta * u)[..., None] * B[:, :, None])
    return ((states @ C[..., None]).squeeze(-1) + D * u).mT


def indexing_scan(u, delta, A, B, C, D, delta_bias):
    """The scan by a loop that takes step t out of tensors of all steps by an index."""
    delta = F.softplus(delta + delta_bias[:, None])
    decay = einsum(delta, A, "b d l, d n -> b d l n").exp()
    drive = einsum(delta, B, u, "b d l, b n l, b d l -> b d l n")
    h, ys = torch.zeros_like(decay[:, :, 0]), []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + drive[:, :, t]
        ys.append(einsum(h, C[:, :, t], "b d n, b n -> b d"))
    return torch.stack(ys, dim=-1) + D[:, None] * u


SCANS: dict[str, Callable[..., Tensor]] = {
    **{
        name: partial(selective_scan, delta_softplus=True, backend=name)
        for name, state in scan_backends().items()
        if state == "available"
    },
    **({"mambapy": mambapy_scan} if pscan else {}),
    "indexing": indexing_scan,
}
# Channels and steps at the three levels of EVSSM for a picture of 256 x 256, then at the lowest for 128 x 128; what is
# timed; and whose. The loops take part where they end within seconds.
CASES = [
    (96, 65536, "forward", ("numba", "torch", "mambapy", "reference")),
    (96, 65536, "both", ("numba", "torch", "mambapy")),
    (192, 16384, "forward", ("numba", "torch", "mambapy", "reference")),
    (192, 16384, "both", ("numba", "torch", "mambapy")),
    (384, 4096, "forward", ("numba", "torch", "mambapy", "reference")),
    (384, 4096, "both", ("numba", "torch", "mambapy", "reference")),
    (384, 1024, "both", ("numba", "torch", "mambapy", "reference", "indexing")),
]


def random_inputs(d: int, l: int, n: int = 8) -> dict[str, Tensor]:
    """What EVSSM's untrained mixer would hand to its scan, in channels-last memory."""
    u, delta, B, C = (torch.randn(1, l, width).mT for width in (d, d, n, n))
    A = -torch.arange(1.0, n + 1).repeat(d, 1)
    return dict(zip(NAMES, (u, delta, A, B, C, torch.ones(d), torch.randn(d) - 4), strict=True))


def seconds(scan: Callable[..., Tensor], inputs: dict[str, Tensor], dy: Tensor, what: str) -> float:
    """CPU time of one run."""
    leaves = {name: x.requires_grad_(what == "both") for name, x in inputs.items()}
    start = process_time()
    y = scan(**leaves)
    if what == "both":
        torch.autograd.grad(y, list(leaves.values()), dy)
    return process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each scan in each case")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    if pscan is None:
        print("mambapy is not installed: its columns are missing (`pip install mambapy`)")
    print(f"{'d x l':>12} {'':8} {'ours, ms':>9}   times as long as ours")
    for d, l, what, names in CASES:
        inputs = random_inputs(d, l)
        dy = torch.randn(1, l, d).mT
        present = [name for name in names if name in SCANS]
        times: dict[str, list[float]] = {name: [] for name in present}
        for name in present:
            if name != "indexing":
                seconds(SCANS[name], inputs, dy, what)  # compiles, and fills the caches
        for turn in range(rounds):
            for name in present:
                if turn < 3 or name not in ("reference", "indexing"):
                    times[name].append(seconds(SCANS[name], inputs, dy, what))
        ours = median(times[present[0] if "numba" not in present else "numba"])
        ratios = "  ".join(f"{name} {median(t) / ours:.1f}" for name, t in times.items() if name != "numba")
        print(f"{f'{d} x {l}':>12} {what:8} {ours * 1e3:9.1f}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
