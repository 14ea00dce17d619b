"""What small changes of a scan's inputs at a few steps do to all of its output: its derivative in forward mode.

One pixel touches few steps: itself, and those whose convolution and selection look at it. Between them the change dh of
the state only decays, so that all of l steps follow from a handful of states, for many directions of change at a time:

    dh[t] = exp(delta[t] A) dh[t-1] + ddelta (A (h - delta B u) + B u) + delta (dB u + B du)      all of step t
    dy[t] = C[t] . dh[t] + dC . h[t] + D du

which is the product rule for the recurrence of `analysis.scan_rows`, whose axes these are; `p` channels share a decay,
and `c` counts directions. Nothing is divided by a decay; time grows with l k p n c, memory with l (d + c).
"""

from collections.abc import Iterable, Mapping
from math import log
from typing import NamedTuple

from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from analysis.scan_rows import Scan, faded, gaps_after, gaps_before

BLOCK = 2**22
"""Numbers that one matrix product takes from the steps, so that a large state does not crowd the memory."""


class Nudge(NamedTuple):
    """How the inputs of one step change, along `c` directions."""

    u: Float[Tensor, "d c"]
    delta: Float[Tensor, "k c"]
    B: Float[Tensor, "g n c"]
    C: Float[Tensor, "g n c"]


def tangent(scan: Scan, nudges: Mapping[int, Nudge], weights: Float[Tensor, "d l"]) -> Float[Tensor, "c l"]:
    """The sum over channels of weights[:, t] dy[:, t] for every step t, the inputs changing as `nudges` say, by step.

    Raises `ValueError` where nothing changes or a step is outside the scan.
    """
    l, k = scan.u.shape[1], len(scan.delta)
    steps = sorted(nudges)
    if not steps or steps[0] < 0 or steps[-1] >= l:
        raise ValueError(f"changes at steps {steps}, of a scan whose steps run from 0 to {l - 1}")
    directions = nudges[steps[0]].u.shape[1]
    out = weights.new_zeros(directions, l)
    split = rearrange(weights, "(k p) l -> k p l", k=k)
    change: Tensor | None = None
    held = states(scan, steps)
    for s, end in zip(steps, [*steps[1:], l], strict=True):
        injected, at_once = _entering(scan, s, nudges[s], held[s])
        change = injected if change is None else change + injected
        out[:, s] += einsum(split[:, :, s], at_once, "k p, k p c -> c")
        _add_heard(out, scan, change, split, slice(s, end))
        if end < l:
            change = change * _decay(scan.A, scan.delta[:, s + 1 : end + 1].double().sum(1), change)[:, None, :, None]
    return out


def states(scan: Scan, steps: Iterable[int]) -> dict[int, Float[Tensor, "k p n"]]:
    """The scan's state h after each of these steps."""
    k, start, found = len(scan.delta), 0, {}
    u = rearrange(scan.u, "(k p) l -> k p l", k=k)
    B = repeat(scan.B, "g n l -> (g heads) n l", heads=k // len(scan.B))
    h = u.new_zeros(*u.shape[:2], B.shape[1])
    for s in sorted(steps):
        span = slice(start, s + 1)
        h = h * _decay(scan.A, scan.delta[:, span].double().sum(1), h)[:, None]
        for part, gap in gaps_before(scan.delta[:, span], s - start):
            at = slice(start + part.start, start + part.stop)
            driven = B[:, :, at] * scan.delta[:, None, at] * _decay(scan.A, gap, u)
            h = h + einsum(u[:, :, at], driven, "k p l, k n l -> k p n")
            if faded(scan, gap[:, 0]):
                break
        found[s], start = h, s + 1
    return found


def _entering(
    scan: Scan, s: int, nudge: Nudge, h: Float[Tensor, "k p n"]
) -> tuple[Float[Tensor, "k p n c"], Float[Tensor, "k p c"]]:
    """What a step's changes add to the state, and what they add to y at that step but not by way of the state."""
    k = len(scan.delta)
    u, du = scan.u[:, s].unflatten(0, (k, -1)), nudge.u.unflatten(0, (k, -1))
    D = scan.D.unflatten(0, (k, -1))
    B, dB, dC = (x.repeat_interleave(k // len(x), dim=0) for x in (scan.B[:, :, s], nudge.B, nudge.C))
    step = scan.delta[:, s]
    drive = einsum(B, u, "k n, k p -> k p n")
    faster = scan.A[:, None] * (h - step[:, None, None] * drive) + drive
    injected = einsum(faster, nudge.delta, "k p n, k c -> k p n c")
    injected += einsum(step, dB, u, "k, k n c, k p -> k p n c")
    injected += einsum(step, B, du, "k, k n, k p c -> k p n c")
    return injected, einsum(h, dC, "k p n, k n c -> k p c") + D[:, :, None] * du


def _add_heard(
    out: Float[Tensor, "c l"],
    scan: Scan,
    change: Float[Tensor, "k p n c"],
    weights: Float[Tensor, "k p l"],
    span: slice,
) -> None:
    """Add what a change of the state, which decays from the span's first step on, does to the weighted output there."""
    k, p, n, _ = change.shape
    C = repeat(scan.C[:, :, span], "g n l -> (g heads) n l", heads=k // len(scan.C))
    mixing = rearrange(change, "k p n c -> c (k p n)")
    block = max(1, BLOCK // (k * p * n))
    for part, gap in gaps_after(scan.delta[:, span], 0):
        for first in range(part.start, part.stop, block):
            at = slice(first, min(first + block, part.stop))
            steps = slice(span.start + at.start, span.start + at.stop)
            gain = C[:, :, at] * _decay(scan.A, gap[:, at.start - part.start : at.stop - part.start], C)
            heard = einsum(weights[:, :, steps], gain, "k p l, k n l -> k p n l")
            out[:, steps] += mixing @ heard.flatten(0, 2)
        if faded(scan, gap[:, -1]):
            break


def _decay(A: Float[Tensor, "k n"], gap: Float[Tensor, "k ..."], like: Tensor) -> Tensor:
    """exp(A gap), `k n` and the gap's other axes; by powers of two, which are fast where the result is near zero."""
    exponent = A.double() / log(2)
    return (exponent.view(*A.shape, *[1] * (gap.ndim - 1)) * gap[:, None]).exp2().to(like.dtype)
