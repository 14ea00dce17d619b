"""Whether a selective scan is in trouble: steps that wipe its state or leave it, the state's size, window seams."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from analysis.scan_rows import Scan, scan_output

WIPED = 1e-3
"""A step whose slowest state keeps less than this of its value wipes the past; one whose fastest state loses less than
this holds still."""

BESIDE = 4
"""Lines on either side of a window border that it is compared with."""

BLOCK = 32
"""Steps of a scan with shared decays whose states are held at a time."""


@dataclass(frozen=True)
class ScanHealth:
    """What is said of one scan. `wipes` and `holds` are shares of its steps and decays; `state` is the largest norm of
    the state, root of the mean square over channels, at any step; `None` where it was not asked for."""

    wipes: float
    holds: float
    state: float | None


def wiping(scan: Scan) -> Float[Tensor, " l"]:
    """The share of decays that wipe the state at each step: exp(delta A) below `WIPED` for every state."""
    slowest = scan.A.abs().amin(dim=1)
    return (scan.delta * slowest[:, None] > -log(WIPED)).double().mean(dim=0)


def holding(scan: Scan) -> Float[Tensor, " l"]:
    """The share of decays that leave the state as it is at each step: 1 - exp(delta A) below `WIPED` for every state.

    Such a step lets little in, since its input too is multiplied by delta.
    """
    fastest = scan.A.abs().amax(dim=1)
    return (scan.delta * fastest[:, None] < -log(1 - WIPED)).double().mean(dim=0)


def state_norm(scan: Scan) -> Float[Tensor, " l"]:
    """The norm of the state h[t] over its n components, root of the mean square over channels, at each step.

    Component n is what the scan gives for C = 1 there and 0 elsewhere: n scans, where each state has a decay of its
    own. Where all states of a decay decay alike (Mamba-2), blocks of steps are multiplied out instead.
    """
    if scan.A.shape[1] == 1:
        return torch.cat([h.square().sum(dim=-1).mean(dim=(0, 2)).sqrt() for h in _states(scan)])
    total = scan.u.new_zeros(scan.u.shape[1], dtype=torch.float64)
    for k in range(scan.B.shape[1]):
        C = torch.zeros_like(scan.C)
        C[:, k] = 1
        h = scan_output(scan._replace(C=C, D=torch.zeros_like(scan.D)))
        total += reduce(h.double().square(), "d l -> l", "mean")
    return total.sqrt()


def _states(scan: Scan) -> Iterator[Float[Tensor, "k t p n"]]:
    """The states of a scan with one decay for all of them, `BLOCK` steps after the other.

    Within a block h[t] = exp(S[t]) h + sum over s <= t of exp(S[t] - S[s]) delta[s] B[s] u[s], S being the running sum
    of delta A and h the state before it (Dao & Gu 2024, Sec. 6).
    """
    u = rearrange(scan.u, "(k p) l -> k l p", k=len(scan.delta))
    B = repeat(scan.B, "g n l -> (g r) l n", r=len(scan.delta) // len(scan.B))
    state = torch.zeros_like(einsum(u[:, 0], B[:, 0], "k p, k n -> k p n"))
    for delta, x, b in zip(*(y.split(BLOCK, dim=1) for y in (scan.delta, u, B)), strict=True):
        S = (scan.A.double() * delta.double()).cumsum(dim=1)
        # masked before the exponential too, which is infinite above the diagonal of long steps
        decay = (S[:, :, None] - S[:, None]).tril().exp().tril().to(u.dtype)
        drive = einsum(delta, x, b, "k s, k s p, k s n -> k s p n")
        states = einsum(decay, drive, "k t s, k s p n -> k t p n")
        states = states + einsum(S.exp().to(u.dtype), state, "k t, k p n -> k t p n")
        state = states[:, -1]
        yield states.double()


def seam(x: Float[Tensor, "b c h w"], rows: list[int], columns: list[int]) -> float:
    """How much stronger `x` changes across the given borders than just beside them: 1 where nothing is seen.

    A border at r lies between rows r - 1 and r. Each line's change is the mean absolute difference along it; that of a
    border is divided by the median of up to `BESIDE` lines on either side which are no borders, and the largest ratio
    of all borders is given. 1 where there are no borders, or nothing to compare with; infinite where only borders
    change. An edge of the picture that runs along a border counts as one too.
    """
    found = [1.0]
    for axis, borders in ((-2, rows), (-1, columns)):
        lines = x.diff(dim=axis).abs().double().mean(dim=(0, 1, -1 if axis == -2 else -2))
        free = torch.ones(len(lines), dtype=torch.bool)
        at = [border - 1 for border in borders if 0 < border <= len(lines)]
        free[at] = False
        for line in at:
            near = slice(max(0, line - BESIDE), line + BESIDE + 1)
            beside = lines[near][free[near]]
            if len(beside):
                usual, strength = float(beside.median()), float(lines[line])
                found.append(strength / usual if usual else (float("inf") if strength else 1.0))
    return max(found)
