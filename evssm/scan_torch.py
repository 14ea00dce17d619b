"""The selective scan in plain PyTorch, for any device: a stretch of steps at a time, with a backward pass of its own.

Tensors are sequence-major: u and delta `(b, l, d)`, B and C `(b, l, g, n)`. A stretch is cut into k pieces of t steps
that run side by side, so that one operator of PyTorch serves the same step of every piece. They run twice: from zero,
which gives what each piece hands on, and, once the states between pieces are known, from the right state. Nothing is
ever divided by a decay, so nothing is lost where decays underflow.
"""

from math import ceil, log

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from evssm.precision import without_autocast

# Steps of a piece, and numbers b l d of a stretch, at most. On a CPU a stretch's decays and states, n times as many,
# should stay in the second cache; elsewhere what counts is the number of operators, about k + 2 t for each stretch.
CUT = {"cpu": (8, 2**15)}
CUT_ELSEWHERE = (64, 2**20)

Pieces = Float[Tensor, "t b k g _n _c"]
"""Numbers of every step, state n (or 1) and channel c of group g (or 1). Step t of all pieces is one run of memory."""


def piece_steps(x: Tensor) -> int:
    """The steps of a piece on the device of `x`."""
    return CUT.get(x.device.type, CUT_ELSEWHERE)[0]


def stretches(u: Float[Tensor, "b l d"]) -> list[slice]:
    """The stretches of steps of a scan, each of whole pieces but for the last."""
    piece, most = CUT.get(u.device.type, CUT_ELSEWHERE)
    per_step = max(1, u.shape[0] * u.shape[2])
    steps = piece * max(1, min(ceil(u.shape[1] / piece), most // (per_step * piece)))
    return [slice(start, start + steps) for start in range(0, u.shape[1], steps)]


def borders_shape(
    u: Float[Tensor, "b l d"], A: Float[Tensor, "d n"], B: Float[Tensor, "b l g n"]
) -> tuple[int, int, int, int, int]:
    """The shape of the states that the forward pass keeps for the backward pass: one `b g n c` before each stretch."""
    groups = B.shape[2]
    return len(stretches(u)), len(u), groups, A.shape[1], len(A) // groups


def in_pieces(x: Float[Tensor, "b s ..."], groups: int) -> Pieces:
    """u (or delta, dy) with a states axis of 1, or B (or C) with a channels axis of 1; zeros fill up the last piece."""
    piece = piece_steps(x)
    missing = -x.shape[1] % piece
    if missing:
        x = torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
    if x.ndim == 3:
        return rearrange(x, "b (k t) (g c) -> t b k g 1 c", t=piece, g=groups)
    return rearrange(x, "b (k t) g n -> t b k g n 1", t=piece)


def from_pieces(x: Pieces, like: Tensor) -> Tensor:
    """The inverse of `in_pieces`: the steps and the shape of `like`, which may keep the axis of groups or join it."""
    return rearrange(x, "t b k g n c -> b (k t) g (n c)")[:, : like.shape[1]].reshape(like.shape)


def step_sizes(
    delta: Float[Tensor, "b l d"], bias: Float[Tensor, " d"] | None, smooth: bool
) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l d"] | None]:
    """delta after bias and softplus; and the slope of the softplus, None where there is none."""
    if bias is not None:
        delta = delta + bias
    if not smooth:
        return delta, None
    return F.softplus(delta), torch.where(delta > 20, 1, torch.sigmoid(delta))  # softplus is the identity above 20


def handed_on(
    ends: Float[Tensor, "b k g n c"], total_delta: Float[Tensor, "b k g 1 c"], A: Float[Tensor, "g n c"], first: Tensor
) -> tuple[Float[Tensor, "b k g n c"], Float[Tensor, "b g n c"]]:
    """What each piece starts from, and what the last one hands on.

    `ends` is what the pieces end with when started from zero; the decay over a piece is exp(A times its sum of delta).
    """
    # Short of infinity, so that a state of zero stays zero where a growing mode (A > 0) overflows within a piece.
    decay = (total_delta * A).clamp_(max=log(torch.finfo(A.dtype).max)).exp_()
    starts = []
    for end, kept in zip(ends.unbind(1), decay.unbind(1), strict=True):
        starts.append(first)
        first = torch.addcmul(end, kept, first)
    return torch.stack(starts, dim=1), first


def run(
    u: Pieces, delta: Pieces, A: Float[Tensor, "g n c"], B: Pieces, first: Float[Tensor, "b g n c"]
) -> tuple[Pieces, Pieces, Float[Tensor, "b k g n c"], Float[Tensor, "b g n c"]]:
    """One stretch of the recurrence from the state `first`.

    Out come all decays and states, the state before each piece, and the last state.
    """
    decay = (delta * A).exp_()
    states = (delta * u) * B
    end = states[0]
    for kept, drive in zip(decay[1:].unbind(), states[1:].unbind(), strict=True):
        end = torch.addcmul(drive, kept, end)
    starts, last = handed_on(end, delta.sum(0), A, first)
    h = starts
    for kept, drive in zip(decay.unbind(), states.unbind(), strict=True):
        h = drive.addcmul_(kept, h)  # the drive turns into the state
    return decay, states, starts, last


def run_back(
    decay: Pieces, wanted: Pieces, delta: Pieces, A: Float[Tensor, "g n c"], last: Float[Tensor, "b g n c"]
) -> tuple[Pieces, Float[Tensor, "b g n c"]]:
    """The gradients of all states of a stretch, and what its first step asks of the state before it.

    `wanted` is what y asks of each state, C dy, and turns into the result; `last` is what later stretches ask.
    """
    decays, states = decay.unbind()[::-1], wanted.unbind()[::-1]
    ahead = states[0]
    for kept, here in zip(decays[:-1], states[1:], strict=True):
        ahead = torch.addcmul(here, kept, ahead)
    starts, first = handed_on((decay[0] * ahead).flip(1), delta.sum(0).flip(1), A, last)
    asked = starts.flip(1)
    for kept, here in zip(decays, states, strict=True):
        asked = here.add_(asked) * kept
    return wanted, first


def forward(
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    D: Float[Tensor, " d"] | None,
    bias: Float[Tensor, " d"] | None,
    smooth: bool,
    keep: bool,
) -> tuple[Float[Tensor, "b l d"], Tensor]:
    """y, and the states before each stretch (none unless `keep`)."""
    groups = B.shape[2]
    rates = rearrange(A, "(g c) n -> g n c", g=groups)
    borders = u.new_empty(borders_shape(u, A, B) if keep else 0)
    state, y = u.new_zeros(len(u), *rates.shape), torch.empty_like(u, memory_format=torch.contiguous_format)
    with without_autocast(u):
        for i, steps in enumerate(stretches(u)):
            if keep:
                borders[i] = state
            sizes = in_pieces(step_sizes(delta[:, steps], bias, smooth)[0], groups)
            _, h, _, state = run(in_pieces(u[:, steps], groups), sizes, rates, in_pieces(B[:, steps], groups), state)
            y[:, steps] = from_pieces(in_pieces(C[:, steps], groups).mT @ h, y[:, steps])
            if D is not None:
                y[:, steps].addcmul_(u[:, steps], D)
    return y, borders


def backward(
    dy: Float[Tensor, "b l d"],
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    D: Float[Tensor, " d"] | None,
    bias: Float[Tensor, " d"] | None,
    borders: Tensor,
    smooth: bool,
) -> tuple[Tensor, ...]:
    """The gradients of u, delta, A, B, C, D and bias (the last two whether or not they were given)."""
    groups = B.shape[2]
    rates = rearrange(A, "(g c) n -> g n c", g=groups)
    du, ddelta, dB, dC = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, B, C))
    dA, dD, dbias = torch.zeros_like(rates), A.new_zeros(len(A)), A.new_zeros(len(A))
    asked = u.new_zeros(len(u), *rates.shape)
    with without_autocast(u):
        for steps, first in zip(reversed(stretches(u)), reversed(borders.unbind()), strict=True):
            sizes, slope = step_sizes(delta[:, steps], bias, smooth)
            x, step, wanted = (in_pieces(part, groups) for part in (u[:, steps], sizes, dy[:, steps]))
            input_row, output_row = in_pieces(B[:, steps], groups), in_pieces(C[:, steps], groups)
            decay, h, starts, _ = run(x, step, rates, input_row, first)
            dC[:, steps] = from_pieces(h @ wanted.mT, dC[:, steps])
            dh, asked = run_back(decay, output_row * wanted, step, rates, asked)
            dB[:, steps] = from_pieces(dh @ (step * x).mT, dB[:, steps])
            through_B = input_row.mT @ dh
            # From here on `decay` holds dh times the decayed state, which is the gradient of the exponent delta A.
            decay.mul_(dh)
            decay[0].mul_(starts)
            decay[1:].mul_(h[:-1])
            dA += (decay * step).sum((0, 1, 2))
            through = from_pieces((decay * rates).sum(-2, keepdim=True) + through_B * x, u[:, steps])
            ddelta[:, steps] = through if slope is None else through * slope
            du[:, steps] = from_pieces(through_B * step, u[:, steps])
            if D is not None:
                du[:, steps].addcmul_(dy[:, steps], D)
            dD += (dy[:, steps] * u[:, steps]).sum((0, 1))
            dbias += ddelta[:, steps].sum((0, 1))
    return du, ddelta, rearrange(dA, "g n c -> (g c) n"), dB, dC, dD, dbias
