"""The selective scan against other ways to compute it: mambapy's parallel scan, and loops over its definition.

float32, batch 1, 8 states, softplus and skip included; "forward" without gradients, "both" with the gradients of all
seven tensors. "definition" is the loop that everything is held against, "indexing" the same loop with an index instead
of `unbind`, as the reference of state-spaces/mamba has it, whose backward pass is quadratic in the length.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from compare import FLOOR, OURS, Row, in_turn
from einops import einsum
from floor import Rates
from mambapy.pscan import pscan
from torch import Tensor

from evssm.scan import selective_scan

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


def ours(backend: str) -> Callable[..., Tensor]:
    return partial(selective_scan, delta_softplus=True, backend=backend)


SCANS: dict[str, Callable[..., Tensor]] = {
    OURS: ours("numba"),
    "ours, torch": ours("torch"),
    "mambapy": mambapy_scan,
    "definition": ours("reference"),
    "indexing": indexing_scan,
}
# Channels and steps at the three levels of EVSSM for a picture of 256 x 256, then at the lowest for 128 x 128; what is
# timed; and who takes part besides ours and mambapy: the loops only where they end within seconds.
CASES = [
    (96, 65536, "forward", ("ours, torch", "definition")),
    (96, 65536, "both", ("ours, torch",)),
    (192, 16384, "forward", ("ours, torch", "definition")),
    (192, 16384, "both", ("ours, torch",)),
    (384, 4096, "forward", ("ours, torch", "definition")),
    (384, 4096, "both", ("ours, torch", "definition")),
    (384, 1024, "both", ("ours, torch", "definition", "indexing")),
]
SMALL = [(6, 64, what, ("ours, torch", "definition", "indexing")) for what in ("forward", "both")]
FEW = frozenset({"definition", "indexing"})


def random_inputs(d: int, l: int, n: int = 8) -> dict[str, Tensor]:
    """What EVSSM's untrained mixer would hand to its scan, in channels-last memory."""
    u, delta, B, C = (torch.randn(1, l, width).mT for width in (d, d, n, n))
    A = -torch.arange(1.0, n + 1).repeat(d, 1)
    return dict(zip(NAMES, (u, delta, A, B, C, torch.ones(d), torch.randn(d) - 4), strict=True))


def once(scan: Callable[..., Tensor], inputs: dict[str, Tensor], dy: Tensor, what: str) -> None:
    leaves = {name: x.requires_grad_(what == "both") for name, x in inputs.items()}
    y = scan(**leaves)
    if what == "both":
        torch.autograd.grad(y, list(leaves.values()), dy)


def rows(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    for d, l, what, others in SMALL if small else CASES:
        inputs, dy = random_inputs(d, l), torch.randn(1, l, d).mT
        contenders = {
            name: partial(once, SCANS[name], inputs, dy, what) for name in SCANS if name in (OURS, "mambapy", *others)
        }
        start = {name: x[..., :64] if x.ndim == 3 else x for name, x in inputs.items()}
        for name in contenders:
            torch.testing.assert_close(SCANS[name](**start), SCANS["definition"](**start), rtol=1e-4, atol=1e-5)
        case = f"{what}, {d} channels"
        for name, times in in_turn(contenders, rounds, FEW).items():
            yield Row("scan", case, l, name, tuple(times))
        yield Row("scan", case, l, FLOOR, (rates.scan(d, l, backward=what == "both"),))
