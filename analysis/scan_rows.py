"""Rows and columns of the matrix that a selective scan applies to its input: what a step gathers, where a step goes.

For one channel of `y = selective_scan(u, delta, A, B, C, D)`, with S the running sum of delta,

    y[t] = sum over s <= t of alpha[t, s] u[s], plus D u[t]
    alpha[t, s] = sum over n of C[t, n] exp(A[n] (S[t] - S[s])) delta[s] B[s, n]

(Ali et al. 2024, Eq. 9-12; Gu & Dao 2023, Algorithm 2). The differences S[t] - S[s] are summed outwards from the query
in float64, so that nothing is divided by a decay and nothing large cancels; time grows with l k n, memory with l k.

Axes: `d` channels, `k` decays, each shared by d / k neighbouring channels (as many as channels in Mamba, one per head
in Mamba-2), `n` states, `g` groups of decays that share B and C, `l` steps.
"""

from collections.abc import Callable, Iterator
from math import log
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from evssm.mamba2 import SSDInputs
from evssm.mixer import ScanInputs
from evssm.scan import selective_scan
from evssm.ssd import ssd_scan

SCAN_LEVELS = {
    "A0": "C B",
    "A1": "decay",
    "A2": "C, decay, B",
    "A3": "C, decay, \N{GREEK CAPITAL LETTER DELTA}B: the scan",
    "A4": "the scan with its skip D",
}
"""What a row or column contains; a factor that is left out is one."""

CHUNK = 1024
"""Steps whose decays are held at a time."""


class Scan(NamedTuple):
    """One scan of one image. `A` has one column where all states of a decay decay alike."""

    u: Float[Tensor, "d l"]
    delta: Float[Tensor, "k l"]
    A: Float[Tensor, "k n"] | Float[Tensor, "k 1"]
    B: Float[Tensor, "g n l"]
    C: Float[Tensor, "g n l"]
    D: Float[Tensor, " d"]

    @classmethod
    def of(cls, inputs: ScanInputs | SSDInputs) -> "Scan":
        """The scan of a batch of one, as `SS2D.scan_inputs` and `Mamba2.scan_inputs` describe it."""
        if isinstance(inputs, ScanInputs):
            u, delta, A, B, C, D = inputs
            return cls(u[0], delta[0], A, B[:1], C[:1], D)
        x, dt, A, B, C, D = inputs
        u = rearrange(x[0], "l heads p -> (heads p) l")
        D = repeat(D, "heads -> (heads p)", p=x.shape[-1]) if D.ndim == 1 else D.flatten()
        B, C = (rearrange(t[0], "l g n -> g n l") for t in (B, C))
        return cls(u, dt[0].mT, A[:, None], B, C, D)


def row(scan: Scan, t: int, level: str = "A3") -> Float[Tensor, "_ l"]:
    """alpha[t, s] for all s, zero for s > t: how what came in at step s counts at step t.

    One row per decay, as all its channels have the same, or one per channel at level "A4", where each may have a D of
    its own. Exact up to rounding: the sum stops only where every decay is zero in the tensors' precision.

    Raises `ValueError` for a step outside the sequence and a level that is none of `SCAN_LEVELS`.
    """
    _check(scan, t, level)
    out = scan.delta.new_zeros(scan.delta.shape)
    C_t = scan.C[:, :, t, None]
    for span, gap in gaps_before(scan.delta, t):
        B = scan.B[:, :, span]
        entries = _mixed(scan.A, gap, torch.ones_like(B) if level == "A1" else C_t * B, level)
        out[:, span] = entries * scan.delta[:, span] if level in ("A3", "A4") else entries
        if level != "A0" and faded(scan, gap[:, 0]):
            break
    return with_skip(scan, out, t) if level == "A4" else out


def column(scan: Scan, s: int, level: str = "A3") -> Float[Tensor, "_ l"]:
    """alpha[t, s] for all t, zero for t < s: how what comes in at step s counts later on; else as `row`."""
    _check(scan, s, level)
    out = scan.delta.new_zeros(scan.delta.shape)
    B_s = scan.B[:, :, s, None]
    for span, gap in gaps_after(scan.delta, s):
        C = scan.C[:, :, span]
        out[:, span] = _mixed(scan.A, gap, torch.ones_like(C) if level == "A1" else C * B_s, level)
        if level != "A0" and faded(scan, gap[:, -1]):
            break
    if level in ("A3", "A4"):
        out *= scan.delta[:, s, None]
    return with_skip(scan, out, s) if level == "A4" else out


def with_skip(scan: Scan, line: Float[Tensor, "k l"], t: int) -> Float[Tensor, "d l"]:
    """A row or column of level "A3" as one of level "A4": a line per channel, with D at step t."""
    out = repeat(line, "k l -> (k p) l", p=len(scan.D) // len(line)).clone()
    out[:, t] += scan.D
    return out


def from_alpha(
    line: Callable[[Scan, int, str], Tensor], scan: Scan, step: int, level: str, alpha: Float[Tensor, "k l"]
) -> Float[Tensor, "_ l"]:
    """`line(scan, step, level)`, of `row` or `column`, where that of level "A3" is there already: `alpha`."""
    if level == "A3":
        return alpha
    return with_skip(scan, alpha, step) if level == "A4" else line(scan, step, level)


def scan_output(scan: Scan, u: Float[Tensor, "d l"] | None = None) -> Float[Tensor, "d l"]:
    """y by the scan itself, of `u` in place of its own if given: what rows are checked against."""
    u = scan.u if u is None else u
    per_decay = len(u) // len(scan.delta)
    if scan.A.shape[1] == 1:
        x = rearrange(u, "(k p) l -> 1 l k p", p=per_decay)
        B, C = (rearrange(t, "g n l -> 1 l g n") for t in (scan.B, scan.C))
        D = rearrange(scan.D, "(k p) -> k p", p=per_decay)
        return rearrange(ssd_scan(x, scan.delta.mT[None], scan.A[:, 0], B, C, D), "1 l k p -> (k p) l")
    delta, A = (repeat(t, "k i -> (k p) i", p=per_decay) for t in (scan.delta, scan.A))
    return selective_scan(u[None], delta[None], A, scan.B[None], scan.C[None], scan.D)[0]


def without_skip(scan: Scan) -> Scan:
    """The scan with D = 0."""
    return scan._replace(D=torch.zeros_like(scan.D))


def first(scan: Scan, steps: int) -> Scan:
    """The scan of the first so many steps alone; their outputs are the same, for a scan looks only back."""
    u, delta, B, C = (x[..., :steps] for x in (scan.u, scan.delta, scan.B, scan.C))
    return Scan(u, delta, scan.A, B, C, scan.D)


def memory_horizon(scan: Scan, t: int) -> Float[Tensor, "k _"]:
    """Steps back from t over which each state decays to 1/e; infinite where it has not since the sequence began.

    The smallest lag with -A (S[t] - S[t - lag]) >= 1. Divided by the columns of the map it counts image rows: with a
    step of 0.025 and A = -1 it is 40 pixels of a row, and a tenth of a row of 384 (EVSSM's reason to transpose).
    """
    _check(scan, t, "A3")
    lags = torch.full(scan.A.shape, torch.inf, dtype=torch.float64, device=scan.A.device)
    for span, gap in gaps_before(scan.delta, t):
        reached = -scan.A.double()[:, :, None] * gap[:, None] >= 1
        latest = torch.where(reached, torch.arange(span.start, span.stop, device=gap.device), -1).amax(dim=-1)
        lags = torch.where(lags.isinf() & (latest >= 0), (t - latest).double(), lags)
        if lags.isfinite().all():
            break
    return lags


def gaps_before(delta: Float[Tensor, "k l"], t: int) -> Iterator[tuple[slice, Float[Tensor, "k _"]]]:
    """Spans of steps from t backwards, with S[t] - S[s] for their steps: the sum of delta after s, up to t."""
    beyond = torch.zeros(len(delta), 1, dtype=torch.float64, device=delta.device)
    for end in range(t + 1, 0, -CHUNK):
        span = slice(max(0, end - CHUNK), end)
        inclusive = delta[:, span].double().flip(-1).cumsum(-1).flip(-1) + beyond
        yield span, torch.cat([inclusive[:, 1:], beyond], dim=-1)
        beyond = inclusive[:, :1]


def gaps_after(delta: Float[Tensor, "k l"], s: int) -> Iterator[tuple[slice, Float[Tensor, "k _"]]]:
    """Spans of steps from s onwards, with S[t] - S[s] for their steps: the sum of delta after s, up to t."""
    beyond = torch.zeros(len(delta), 1, dtype=torch.float64, device=delta.device)
    for start in range(s, delta.shape[1], CHUNK):
        span = slice(start, min(start + CHUNK, delta.shape[1]))
        step = delta[:, span].double()
        if start == s:
            step = torch.cat([torch.zeros_like(beyond), step[:, 1:]], dim=-1)  # the decay entering s is none of its own
        gap = step.cumsum(-1) + beyond
        yield span, gap
        beyond = gap[:, -1:]


def _mixed(
    A: Float[Tensor, "k n"], gap: Float[Tensor, "k s"], weight: Float[Tensor, "g states s"], level: str
) -> Float[Tensor, "k s"]:
    """sum over n of exp(A gap) weight; at level "A0" without the decay."""
    per_group = len(A) // len(weight)
    if level == "A0":
        return repeat(weight.sum(dim=1), "g s -> (g per_group) s", per_group=per_group)
    if A.shape[1] == 1:
        weight = reduce(weight, "g n s -> g 1 s", "sum")
    total = weight.new_zeros(gap.shape)
    # Powers of two, since MKL's exp takes ten to thirty times as long where its result is near zero.
    exponent = A.double() / log(2)
    for n, of_state in enumerate(weight.contiguous().unbind(dim=1)):  # B and C lie step by step, as a map's channels
        decay = (exponent[:, n, None] * gap).to(weight.dtype).exp2_()
        decay.unflatten(0, (-1, per_group)).mul_(of_state[:, None])
        total += decay
    return total


def faded(scan: Scan, gap: Float[Tensor, " k"]) -> bool:
    """Whether every state has decayed, over these gaps, to less than the smallest number of the precision."""
    bound = log(torch.finfo(scan.delta.dtype).smallest_normal)
    return bool((scan.A.double().amax(dim=1) * gap < bound).all())


def _check(scan: Scan, t: int, level: str) -> None:
    if level not in SCAN_LEVELS:
        raise ValueError(f'no level "{level}" of a scan; choose from {", ".join(SCAN_LEVELS)}')
    if not 0 <= t < scan.delta.shape[1]:
        raise ValueError(f"step {t} is outside the scan, whose steps run from 0 to {scan.delta.shape[1] - 1}")
