"""The scan of Mamba-2: a state space whose decay is one number per head, run by matrix products over chunks of steps.

`ssd_recurrence` says what is computed, `ssd_scan` computes it. Axes: `l` scan steps, `p` channels of a head, `n` states
per channel; `groups` of consecutive heads share B and C. Inside: `c` chunks of `q` steps, `g` groups of `k` heads.
"""

import math
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from evssm.precision import computing_dtype, without_autocast

CHUNK = 32
"""Steps that one matrix mixes; on a CPU at or near the fastest, for heads of 12 as of 64 channels."""

SEGMENT = 2**20
"""Numbers in the matrices and states of those chunks that are worked on together, so that they stay in the cache."""

UNDERFLOW = -750.0
"""A log decay whose exponential is zero even in float64."""


def ssd_recurrence(
    x: Float[Tensor, "b l heads p"],
    dt: Float[Tensor, "b l heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "b l groups n"],
    C: Float[Tensor, "b l groups n"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads p"] | None = None,
) -> Float[Tensor, "b l heads p"]:
    """The definition, step by step (Dao & Gu 2024, Sec. 2 and 7): slow, to be read and to test against.

        h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]^T        one p x n state per head, from zero
        y[t] = h[t] C[t] + D x[t]

    A is negative, dt positive. Raises `ValueError` if the shapes do not fit together.
    """
    _check(x, dt, A, B, C, D)
    heads_per_group = x.shape[2] // B.shape[2]
    B, C = (t.repeat_interleave(heads_per_group, dim=2) for t in (B, C))
    h, ys = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]), []
    for x_t, dt_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, dt, B, C)), strict=True):
        h = (dt_t * A).exp()[..., None, None] * h + torch.einsum("bh,bhp,bhn->bhpn", dt_t, x_t, B_t)
        ys.append(torch.einsum("bhpn,bhn->bhp", h, C_t))
    return _with_skip(torch.stack(ys, dim=1), x, D)


def ssd_scan(
    x: Float[Tensor, "b l heads p"],
    dt: Float[Tensor, "b l heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "b l groups n"],
    C: Float[Tensor, "b l groups n"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads p"] | None = None,
    *,
    chunk: int = CHUNK,
) -> Float[Tensor, "b l heads p"]:
    """What `ssd_recurrence` gives, in the state space dual form (Dao & Gu 2024, Sec. 6): any length, any head size.

    Computed in at least float32, returned in the dtype of `x`; differentiable once in every tensor. `chunk` changes
    the time, not the result. Beyond a few arrays of the size of `x`, memory does not grow with the length. Raises
    `ValueError` if the shapes do not fit together.
    """
    _check(x, dt, A, B, C, D)
    start = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    return ssd_scan_from(start, x, dt, A, B, C, D, chunk=chunk)[0]


def ssd_scan_from(
    state: Float[Tensor, "b heads p n"],
    x: Float[Tensor, "b l heads p"],
    dt: Float[Tensor, "b l heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "b l groups n"],
    C: Float[Tensor, "b l groups n"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads p"] | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "b l heads p"], Float[Tensor, "b heads p n"]]:
    """`ssd_scan` of a sequence that starts from `state` instead of zero, and the state after its last step.

    A long sequence can thus be handed over piece by piece; the pieces' results are those of the whole.
    """
    _check(x, dt, A, B, C, D, state)
    if chunk < 1:
        raise ValueError(f"a chunk holds one step or more, got chunk={chunk}; leave it out for {CHUNK}")
    dtype = computing_dtype(state, x, dt, A, B, C, D)
    # Running sums in float64 keep the small differences that follow large decays. A log decay below the bound makes a
    # decay of zero either way, but sums of infinities would have no difference.
    a = (dt.double() * A.double()).clamp(min=UNDERFLOW)
    X = x.to(dtype) * dt.to(dtype)[..., None]
    start = rearrange(state.to(dtype), "b (g k) p n -> b g n (k p)", g=B.shape[2])
    y, borders = torch.ops.evssm.ssd(X, a, B.to(dtype), C.to(dtype), start, chunk)
    end = rearrange(borders[-1], "b g n (k p) -> b (g k) p n", p=x.shape[-1])
    return _with_skip(y, x.to(dtype), D).to(x.dtype), end


@torch.library.custom_op("evssm::ssd", mutates_args=())
def _ssd(X: Tensor, a: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The recurrence `h[t] = exp(a[t]) h[t-1] + X[t] B[t]^T`, `y[t] = h[t] C[t]`: y and the states between segments.

    Segments of a few chunks follow each other. For the backward pass only the inputs and those states are kept;
    everything else is computed again. PyTorch does not look inside: shapes can be traced, and FLOPs counted, without
    running the loop. Of the returned states only the last may be differentiated through.
    """
    sizes = _segment_sizes(X, B, chunk)
    y, borders = X.new_empty(X.shape), X.new_empty(len(sizes) + 1, *state.shape)
    borders[0] = state
    with without_autocast(X):
        for i, (y_part, *parts) in enumerate(zip(*(t.split(sizes, dim=1) for t in (y, X, a, B, C)), strict=True)):
            s = _segment(borders[i], chunk, *parts)
            _outputs(s, out=_by_head(y_part, s))
            borders[i + 1] = s.states[-1]
    return y, borders


@torch.library.custom_op("evssm::ssd_backward", mutates_args=())
def _ssd_backward(
    dy: Tensor, d_end: Tensor, X: Tensor, a: Tensor, B: Tensor, C: Tensor, borders: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of X, a, B, C and the first state from those of y and the last state."""
    sizes = _segment_sizes(X, B, chunk)
    gradients = X.new_empty(X.shape), a.new_empty(a.shape), B.new_empty(B.shape), C.new_empty(C.shape)
    inputs = [t.split(sizes, dim=1) for t in (X, a, B, C)]
    others = [t.split(sizes, dim=1) for t in (dy, *gradients)]
    d_state = d_end.clone()
    with without_autocast(X):
        for i in reversed(range(len(sizes))):
            s = _segment(borders[i], chunk, *(part[i] for part in inputs))
            d_state = _gradients(s, d_state, *(part[i] for part in others))
    return *gradients, d_state


@_ssd.register_fake
def _ssd_shapes(X: Tensor, a: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    return X.new_empty(X.shape), X.new_empty(len(_segment_sizes(X, B, chunk)) + 1, *state.shape)


@_ssd_backward.register_fake
def _ssd_backward_shapes(
    dy: Tensor, d_end: Tensor, X: Tensor, a: Tensor, B: Tensor, C: Tensor, borders: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dX, da, dB, dC, d_state = (t.new_empty(t.shape) for t in (X, a, B, C, d_end))
    return dX, da, dB, dC, d_state


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    X, a, B, C, _, ctx.chunk = inputs
    ctx.save_for_backward(X, a, B, C, output[1])


def _differentiate(ctx: Any, dy: Tensor, d_borders: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.evssm.ssd_backward(dy, d_borders[-1], *ctx.saved_tensors, ctx.chunk)
    return *gradients, None


_ssd.register_autograd(_differentiate, setup_context=_remember)


@register_flop_formula(torch.ops.evssm.ssd)
def _flops(X: Any, a: Any, B: Any, C: Any, state: Any, chunk: int, **_: Any) -> int:
    """Twice the multiply-adds of the four matrix products, those with masked entries counted like the others."""
    (b, l, heads, p), (groups, n) = X, B[2:]
    return 2 * b * l * (chunk * (groups * n + heads * p) + 2 * heads * p * n)


class _Segment(NamedTuple):
    """Some chunks of a sequence, ready for matrix products."""

    X: Float[Tensor, "c b g q k p"]
    B: Float[Tensor, "c b g q n"]
    C: Float[Tensor, "c b g q n"]
    since_start: Float[Tensor, "c b g q k 1"]
    """What the decays leave, at each step, of the state that entered its chunk."""
    until_end: Float[Tensor, "c b g q k 1"]
    """What the decays leave, at the end of its chunk, of what each step added."""
    within: Float[Tensor, "c b g k q q"]
    """What the decays leave, at step i, of what step j of the same chunk added; zero for later j."""
    through: Float[Tensor, "c b g 1 kp"]
    """What a whole chunk's decays leave of the state that entered it."""
    states: Float[Tensor, "borders b g n kp"]
    """The states at the chunks' borders, one more than there are chunks."""


def _segment_sizes(X: Tensor, B: Tensor, chunk: int) -> list[int]:
    """The steps of each segment: as many whole chunks each as `SEGMENT` allows, the rest of them, a shorter chunk."""
    b, l, heads, p = X.shape
    numbers = b * heads * (chunk * chunk + p * B.shape[-1])
    steps, tail = chunk * max(1, SEGMENT // numbers), l % chunk
    return [steps] * ((l - tail) // steps) + [part for part in ((l - tail) % steps, tail) if part]


def _segment(state: Tensor, chunk: int, X: Tensor, a: Tensor, B: Tensor, C: Tensor) -> _Segment:
    """The chunks of a part of the sequence that `state` enters; its length is a multiple of `chunk`, or below it."""
    q, g = min(chunk, X.shape[1]), B.shape[2]
    X, a = (rearrange(t, "b (c q) (g k) ... -> c b g q k ...", q=q, g=g) for t in (X, a))
    B, C = (rearrange(t, "b (c q) g n -> c b g q n", q=q) for t in (B, C))
    total = a.cumsum(dim=3)
    since_start, until_end = (t.to(X.dtype).exp()[..., None] for t in (total, total[:, :, :, -1:] - total))
    total = rearrange(total, "c b g q k -> c b g k q")
    gap = (total[..., :, None] - total[..., None, :]).to(X.dtype)
    later = torch.ones(q, q, dtype=torch.bool, device=X.device).triu(1)
    within = gap.masked_fill_(later, -math.inf).exp_()  # masked first: later steps' gaps are positive, and overflow
    through = since_start[:, :, :, -1:].expand(*X.shape[:3], 1, *X.shape[4:]).flatten(-2)
    states = X.new_empty(X.shape[0] + 1, *state.shape)
    states[0] = state
    torch.matmul(B.mT, (X * until_end).flatten(-2), out=states[1:])
    for before, after, left in zip(states[:-1], states[1:], through, strict=True):
        after.addcmul_(before, left)
    return _Segment(X, B, C, since_start, until_end, within, through, states)


def _outputs(s: _Segment, out: Tensor) -> None:
    """Fills `out`, laid out as `s.X`, with what each step reads: from its own chunk, and from the state before it."""
    mixing = (s.C @ s.B.mT)[:, :, :, None] * s.within
    own = mixing @ rearrange(s.X, "c b g q k p -> c b g k q p")
    entered = _apart(s.C @ s.states[:-1], s)
    torch.addcmul(rearrange(own, "c b g k q p -> c b g q k p"), entered, s.since_start, out=out)


def _gradients(s: _Segment, d_end: Tensor, dy: Tensor, dX: Tensor, da: Tensor, dB: Tensor, dC: Tensor) -> Tensor:
    """Fills a segment's gradients from those of its outputs and last state; returns that of its first state."""
    dy, dX, da = (_by_head(t, s) for t in (dy, dX, da))
    dB, dC = (rearrange(t, "b (c q) g n -> c b g q n", q=s.X.shape[3]) for t in (dB, dC))
    d_entered, X_left = dy * s.since_start, s.X * s.until_end
    d_states = torch.cat([s.C.mT @ d_entered.flatten(-2), d_end[None]])
    for i in reversed(range(len(s.through))):
        d_states[i].addcmul_(d_states[i + 1], s.through[i])
    d_left = _apart(s.B @ d_states[1:], s)

    products = s.C @ s.B.mT
    X_k, dy_k = (rearrange(t, "c b g q k p -> c b g k q p").contiguous() for t in (s.X, dy))
    own = rearrange((products[:, :, :, None] * s.within).mT @ dy_k, "c b g k q p -> c b g q k p")
    torch.addcmul(own, d_left, s.until_end, out=dX)
    d_mixing = (dy_k @ X_k.mT).mul_(s.within)
    d_products = d_mixing.sum(dim=3)
    torch.add(d_entered.flatten(-2) @ s.states[:-1].mT, d_products @ s.B, out=dC)
    torch.add(X_left.flatten(-2) @ d_states[1:].mT, d_products.mT @ s.C, out=dB)

    # The decay of step t scales whatever crosses it: from an earlier step of the chunk, or the state before the chunk,
    # to step t or a later one of the chunk, or the state after it. A step's effect on itself crosses nothing. Effects
    # between two later steps are in both sums over pairs and must cancel: hence the sums in float64.
    pairs = d_mixing.mul_(products.tril(-1)[:, :, :, None])
    to_step, from_step = (pairs.sum(dim=axis, dtype=torch.float64) for axis in (-1, -2))
    between = rearrange(to_step - from_step, "c b g k q -> c b g q k")
    arriving = (_apart(s.C @ s.states[:-1], s) * d_entered).sum(dim=-1)
    departing = (X_left * d_left).sum(dim=-1)
    passing = _apart(s.states[:-1] * s.through * d_states[1:], s).sum(dim=(3, 5))[:, :, :, None]
    backward = (between + arriving).flip(3).cumsum(dim=3).flip(3)
    torch.add(backward, departing.cumsum(dim=3) - departing + passing, out=da)
    return d_states[0]


def _apart(t: Tensor, s: _Segment) -> Tensor:
    """`... kp` with heads and channels as two axes."""
    return t.unflatten(-1, s.X.shape[-2:])


def _by_head(t: Tensor, s: _Segment) -> Tensor:
    """A view of a segment's `b l heads ...`, laid out as `s.X`."""
    return rearrange(t, "b (c q) (g k) ... -> c b g q k ...", q=s.X.shape[3], g=s.X.shape[2])


def _with_skip(y: Tensor, x: Tensor, D: Tensor | None) -> Tensor:
    return y if D is None else torch.addcmul(y, x, (D if D.dim() == 2 else D[:, None]).to(y.dtype))


def _check(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None = None
) -> None:
    b, l, heads, p = x.shape
    groups, n = B.shape[-2:]
    wanted = [("dt", dt, (b, l, heads)), ("A", A, (heads,)), ("B", B, (b, l, groups, n)), ("C", C, (b, l, groups, n))]
    if D is not None:
        wanted.append(("D", D, (heads, p) if D.dim() == 2 else (heads,)))
    if state is not None:
        wanted.append(("state", state, (b, heads, p, n)))
    wrong = [f"{name} is {tuple(t.shape)}, not {shape}" for name, t, shape in wanted if t.shape != shape]
    if wrong:
        raise ValueError(f"the scan's tensors do not fit x (b, l, heads, p) = {tuple(x.shape)}: {'; '.join(wrong)}")
    if heads % groups:
        raise ValueError(f"{heads} heads cannot share {groups} groups of B and C evenly: choose a divisor of {heads}")
