"""The selective scan as Triton kernels, parallel over stretches of the sequence too. NOT YET RUN ON A GPU.

Triton's interpreter holds them to the definition on a CPU, value and gradient, in float32 and float64, and they compile
for NVIDIA's compute capabilities 8.0 and 9.0 (`tests/test_scan_triton.py`); how fast they are on a device, and how
exact with its own exponentials, nobody has measured.

One picture is one sequence of few channels: a program for every block of channels would leave most of a GPU idle. So
the sequence is cut into chunks of `STEPS` steps, and three kernels run one after another:

    ends        each chunk by itself, from a state of zero: the state that it hands on, and its sum of delta
    carry       over the chunks: the state before each; the decay over a chunk is exp(A times its sum of delta)
    outputs     each chunk once more, now from the right state

The backward pass does the same in reverse for what later steps ask of a state, and computes the states in between
anew; kept from the forward pass is one state for each chunk. Within a chunk the steps are combined as the pairs
(decay, state) of an associative scan (Blelloch 1990), never divided by a decay. Tiles are `STEPS` by `WIDE` (steps by
channels), sums over channels go through one partial result for each block of channels: no atomics, so that two runs
give the same bits.
"""

from math import prod
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

STEPS, WIDE, WARPS = 64, 16, 8
"""Steps of a chunk, channels and warps of a program, powers of two: of those tiles that the compiler fits into
registers (in float32, at compute capability 8.0), the one with the longest chunks. Chosen so, not measured."""

TERMS = {torch.float32: 8, torch.float64: 18}
"""Terms after the first of the series of softplus: the next one is below the rounding of the type."""

LIMIT = {torch.float32: 88.0, torch.float64: 709.0}
"""Where exp over a chunk stops growing: a state of zero stays zero where a growing mode (A > 0) overflows within one.

So a mode that grows by more than that within a chunk is wrong; networks' modes decay.
"""

LARGEST, LARGEST_DOUBLE = tl.constexpr(3e38), tl.constexpr(1.7e308)


# Kernels are marked @no_type_check: the import hook that checks shapes in the tests would wrap them, and Triton reads
# their text.

# --- what all kernels are made of -------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def _place(chunks, blocks, per_group, STEPS: tl.constexpr, WIDE: tl.constexpr):
    """This program's entry of the batch, chunk, steps, group, channels, and which of the channels there are."""
    entry, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    group, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    inside = block * WIDE + tl.arange(0, WIDE)
    steps = chunk * STEPS + tl.arange(0, STEPS)
    return entry.to(tl.int64), chunk, steps, group, group * per_group + inside, inside < per_group


@triton.jit
@no_type_check
def _tile(pointer, entry, steps, channels, there, l, d):
    """Numbers `b l d` at some steps and channels, zero where there are none."""
    mask = ((steps >= 0) & (steps < l))[:, None] & there[None, :]
    return tl.load(pointer + (entry * l + steps)[:, None] * d + channels[None, :], mask=mask, other=0.0)


@triton.jit
@no_type_check
def _row(pointer, entry, steps, group, i, l, groups, n):
    """State i's number of B or C, `b l g n`, at some steps."""
    return tl.load(pointer + ((entry * l + steps) * groups + group) * n + i, mask=(steps >= 0) & (steps < l), other=0.0)


@triton.jit
@no_type_check
def _step_sizes(delta, bias, entry, steps, channels, there, l, d, SMOOTH: tl.constexpr, TERMS: tl.constexpr):
    """delta after bias and softplus, zero beyond the sequence; and what the softplus is taken of."""
    raw = _tile(delta, entry, steps, channels, there, l, d) + tl.load(bias + channels, mask=there, other=0.0)[None, :]
    size = raw
    if SMOOTH:
        # log(1 + e) as 2 artanh(e / (2 + e)): as exact for small e as for large, which a device's log might not be.
        e = tl.exp(-tl.abs(raw))
        s = e / (2.0 + e)
        z = s * s
        series = z * 0.0 + 1.0 / (2 * TERMS + 1)
        for k in tl.static_range(TERMS):
            series = series * z + 1.0 / (2 * (TERMS - 1 - k) + 1)
        size = tl.where(raw > 20.0, raw, tl.maximum(raw, 0.0) + 2.0 * s * series)  # PyTorch's: the identity above 20
    mask = ((steps >= 0) & (steps < l))[:, None] & there[None, :]
    return tl.where(mask, size, 0.0), raw


@triton.jit
@no_type_check
def _decay(exponent, LIMIT: tl.constexpr):
    """exp, short of infinity."""
    return tl.exp(tl.minimum(exponent, LIMIT, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
@no_type_check
def _then(decay, state, next_decay, next_state):
    """Two stretches of the recurrence as one; their decay short of infinity."""
    both = decay * next_decay
    both = tl.minimum(both, LARGEST_DOUBLE if both.dtype == tl.float64 else LARGEST)
    return both, next_decay * state + next_state


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def _ends(
    x, delta, bias, A, row, ends, totals, l, d, groups, chunks, blocks, per_group, n: tl.constexpr,
    SMOOTH: tl.constexpr, REVERSE: tl.constexpr, TERMS: tl.constexpr, LIMIT: tl.constexpr, STEPS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """What each chunk alone hands on, `b k n d`, and its sums of delta, `b k d`.

    Forward that is the state after its last step, from x = u and row = B; in reverse what its steps ask of the state
    before it, from x = dy and row = C.
    """
    entry, chunk, steps, group, channels, there = _place(chunks, blocks, per_group, STEPS, WIDE)
    sizes, _ = _step_sizes(delta, bias, entry, steps, channels, there, l, d, SMOOTH, TERMS)
    drive = _tile(x, entry, steps, channels, there, l, d)
    if REVERSE:
        span = tl.cumsum(sizes, axis=0)  # from the state before the chunk up to this step
    else:
        drive = drive * sizes
        # From this step to the last: a sum of later steps by themselves, in which a large own step leaves no error.
        after = tl.where((tl.arange(0, STEPS) < STEPS - 1), steps + 1, -1)
        later, _ = _step_sizes(delta, bias, entry, after, channels, there, l, d, SMOOTH, TERMS)
        span = tl.cumsum(later, axis=0, reverse=True)
    place = entry * chunks + chunk
    tl.store(totals + place * d + channels, tl.sum(sizes, axis=0), mask=there)
    for i in range(n):
        rate = tl.load(A + channels * n + i, mask=there, other=0.0)
        part = _decay(span * rate[None, :], LIMIT) * drive * _row(row, entry, steps, group, i, l, groups, n)[:, None]
        tl.store(ends + (place * n + i) * d + channels, tl.sum(part, axis=0), mask=there)


@triton.jit
@no_type_check
def _carry(
    ends, totals, A, starts, d, chunks, n: tl.constexpr, REVERSE: tl.constexpr, LIMIT: tl.constexpr,
    STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """What comes into each chunk, `b k n d`, from what chunks hand on: from the left, or in reverse from the right."""
    entry, i = (tl.program_id(0) // n).to(tl.int64), tl.program_id(0) % n
    channels = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    there = channels < d
    rate = tl.load(A + channels * n + i, mask=there, other=0.0)
    lines = tl.arange(0, STEPS)
    first = rate * 0.0
    for start in range(0, chunks, STEPS):
        turn = start + lines
        chunk = chunks - 1 - turn if REVERSE else turn
        before = chunk + 1 if REVERSE else chunk - 1
        source = ((turn > 0) & (turn < chunks))[:, None] & there[None, :]
        place = (entry * chunks + before)[:, None]
        decay = tl.load(totals + place * d + channels[None, :], mask=source, other=0.0) * rate[None, :]
        decay = _decay(decay, LIMIT)
        state = tl.load(ends + (place * n + i) * d + channels[None, :], mask=source, other=0.0)
        state = tl.where((lines == 0)[:, None], state + decay * first[None, :], state)
        _, state = tl.associative_scan((decay, state), 0, _then)
        inside = (turn < chunks)[:, None] & there[None, :]
        tl.store(starts + ((entry * chunks + chunk)[:, None] * n + i) * d + channels[None, :], state, mask=inside)
        first = tl.sum(tl.where((lines == STEPS - 1)[:, None], state, 0.0), axis=0)


@triton.jit
@no_type_check
def _outputs(
    u, delta, bias, A, B, C, D, starts, y, l, d, groups, chunks, blocks, per_group, n: tl.constexpr,
    SMOOTH: tl.constexpr, TERMS: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y of each chunk, from the state that comes into it."""
    entry, chunk, steps, group, channels, there = _place(chunks, blocks, per_group, STEPS, WIDE)
    sizes, _ = _step_sizes(delta, bias, entry, steps, channels, there, l, d, SMOOTH, TERMS)
    x = _tile(u, entry, steps, channels, there, l, d)
    out = x * tl.load(D + channels, mask=there, other=0.0)[None, :]
    first_line = (tl.arange(0, STEPS) == 0)[:, None]
    for i in range(n):
        rate = tl.load(A + channels * n + i, mask=there, other=0.0)
        decay = tl.exp(sizes * rate[None, :])
        state = sizes * x * _row(B, entry, steps, group, i, l, groups, n)[:, None]
        first = tl.load(starts + ((entry * chunks + chunk) * n + i) * d + channels, mask=there, other=0.0)
        state = tl.where(first_line, state + decay * first[None, :], state)
        _, state = tl.associative_scan((decay, state), 0, _then)
        out += state * _row(C, entry, steps, group, i, l, groups, n)[:, None]
    mask = (steps < l)[:, None] & there[None, :]
    tl.store(y + (entry * l + steps)[:, None] * d + channels[None, :], out, mask=mask)


@triton.jit
@no_type_check
def _gradients(
    dy, u, delta, bias, A, B, C, D, starts, asked, du, ddelta, dA, dB, dC, dD, dbias,
    l, d, groups, chunks, blocks, per_group, n: tl.constexpr,
    SMOOTH: tl.constexpr, TERMS: tl.constexpr, STEPS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All gradients of each chunk; those that are sums over steps or channels as this program's part of them.

    The states before each step come from the steps shifted by one, not from later states: nothing is subtracted.
    """
    entry, chunk, steps, group, channels, there = _place(chunks, blocks, per_group, STEPS, WIDE)
    lines = tl.arange(0, STEPS)
    first_line, last_line = (lines == 0)[:, None], (lines == STEPS - 1)[:, None]
    before, after = tl.where(lines > 0, steps - 1, -1), tl.where(lines < STEPS - 1, steps + 1, -1)
    sizes, raw = _step_sizes(delta, bias, entry, steps, channels, there, l, d, SMOOTH, TERMS)
    sizes_before, _ = _step_sizes(delta, bias, entry, before, channels, there, l, d, SMOOTH, TERMS)
    sizes_after, _ = _step_sizes(delta, bias, entry, after, channels, there, l, d, SMOOTH, TERMS)
    x, x_before = _tile(u, entry, steps, channels, there, l, d), _tile(u, entry, before, channels, there, l, d)
    wanted = _tile(dy, entry, steps, channels, there, l, d)
    dx = wanted * tl.load(D + channels, mask=there, other=0.0)[None, :]
    dsize = x * 0.0
    place = entry * chunks + chunk
    part = (tl.program_id(1) % blocks).to(tl.int64) * ((tl.num_programs(0) // chunks) * l) + entry * l + steps
    for i in range(n):
        rate = tl.load(A + channels * n + i, mask=there, other=0.0)[None, :]
        B_here = _row(B, entry, steps, group, i, l, groups, n)[:, None]
        first = tl.load(starts + (place * n + i) * d + channels, mask=there, other=0.0)[None, :]
        state = sizes_before * x_before * _row(B, entry, before, group, i, l, groups, n)[:, None]
        state = tl.where(first_line, first, state)
        _, state = tl.associative_scan((tl.exp(sizes_before * rate), state), 0, _then)
        state = tl.exp(sizes * rate) * state  # what is left of the state before, in each state

        last = tl.load(asked + (place * n + i) * d + channels, mask=there, other=0.0)[None, :]
        dh = wanted * _row(C, entry, steps, group, i, l, groups, n)[:, None]
        dh = tl.where(last_line, dh + last, dh)
        _, dh = tl.associative_scan((tl.exp(sizes_after * rate), dh), 0, _then, reverse=True)

        to = (part * groups + group) * n + i
        tl.store(dC + to, tl.sum((state + sizes * x * B_here) * wanted, axis=1), mask=steps < l)
        tl.store(dB + to, tl.sum(dh * sizes * x, axis=1), mask=steps < l)
        state *= dh  # the gradient of the exponent, delta A
        tl.store(dA + (place * n + i) * d + channels, tl.sum(state * sizes, axis=0), mask=there)
        dsize += state * rate + dh * B_here * x
        dx += dh * B_here * sizes
    if SMOOTH:
        dsize = tl.where(raw > 20.0, dsize, dsize / (1.0 + tl.exp(-raw)))
    mask = (steps < l)[:, None] & there[None, :]
    to = (entry * l + steps)[:, None] * d + channels[None, :]
    tl.store(du + to, dx, mask=mask)
    tl.store(ddelta + to, dsize, mask=mask)
    tl.store(dD + place * d + channels, tl.sum(wanted * x, axis=0), mask=there)
    tl.store(dbias + place * d + channels, tl.sum(tl.where(mask, dsize, 0.0), axis=0), mask=there)


# --- the backend ------------------------------------------------------------------------------------------------------


def borders_shape(
    u: Float[Tensor, "b l d"], A: Float[Tensor, "d n"], B: Float[Tensor, "b l g n"]
) -> tuple[int, int, int, int]:
    """The shape of the states that the forward pass keeps for the backward pass: one `n d` before each chunk."""
    return len(u), triton.cdiv(u.shape[1], STEPS), A.shape[1], len(A)


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
    """y, and the states before each chunk (none unless `keep`)."""
    u, delta, A, B, C, D, bias = _whole(u, delta, A, B, C, D, bias)
    y = torch.empty_like(u)
    starts = _come_into_chunks(u, delta, A, B, bias, smooth, reverse=False)
    _launch(_outputs, _sizes(u, A, B), (u, delta, bias, A, B, C, D, starts, y), SMOOTH=smooth, TERMS=TERMS[u.dtype])
    return y, starts if keep else u.new_empty(0)


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
    u, delta, A, B, C, D, bias = _whole(u, delta, A, B, C, D, bias)
    dy = dy.contiguous()
    asked = _come_into_chunks(dy, delta, A, C, bias, smooth, reverse=True)
    sizes = _sizes(u, A, B)
    _, chunks, blocks, *_ = sizes
    du, ddelta = torch.empty_like(u), torch.empty_like(u)
    dB, dC = (B.new_empty(blocks, *B.shape) for _ in range(2))
    dA = A.new_empty(len(u), chunks, *A.mT.shape)
    dD, dbias = (A.new_empty(len(u), chunks, len(A)) for _ in range(2))
    tensors = (dy, u, delta, bias, A, B, C, D, borders, asked, du, ddelta, dA, dB, dC, dD, dbias)
    _launch(_gradients, sizes, tensors, SMOOTH=smooth, TERMS=TERMS[u.dtype])
    return du, ddelta, dA.sum((0, 1)).mT.contiguous(), dB.sum(0), dC.sum(0), dD.sum((0, 1)), dbias.sum((0, 1))


def _whole(u, delta, A, B, C, D, bias):
    """The inputs as kernels read them: without gaps, and zeros for what was not given."""
    D, bias = (A.new_zeros(len(A)) if x is None else x for x in (D, bias))
    return [x.contiguous() for x in (u, delta, A, B, C, D, bias)]


def _sizes(u, A, B):
    """Entries, chunks, blocks of channels in a group, groups, channels of a group, steps, channels, states."""
    (b, l, d), groups = u.shape, B.shape[2]
    per_group = d // groups
    return b, triton.cdiv(l, STEPS), triton.cdiv(per_group, WIDE), groups, per_group, l, d, A.shape[1]


def _launch(kernel, sizes, tensors, **constants):
    """Runs a kernel with a program for each chunk and each block of channels."""
    b, chunks, blocks, groups, per_group, l, d, n = sizes
    grid = (b * chunks, groups * blocks)
    if prod(grid):
        numbers = (l, d, groups, chunks, blocks, per_group, n)
        with torch.cuda.device_of(tensors[0]):
            kernel[grid](*tensors, *numbers, **constants, STEPS=STEPS, WIDE=WIDE, num_warps=WARPS)


def _come_into_chunks(x, delta, A, row, bias, smooth, *, reverse):
    """The states before each chunk, or in reverse what later chunks ask of the state after each; `b k n d`."""
    sizes = _sizes(x, A, row)
    b, chunks, *_, d, n = sizes
    ends, starts = (x.new_empty(b, chunks, n, d) for _ in range(2))
    totals, limit = x.new_empty(b, chunks, d), LIMIT[x.dtype]
    how = {"SMOOTH": smooth, "REVERSE": reverse, "TERMS": TERMS[x.dtype], "LIMIT": limit}
    _launch(_ends, sizes, (x, delta, bias, A, row, ends, totals), **how)
    if starts.numel():
        with torch.cuda.device_of(x):
            _carry[(b * n, triton.cdiv(d, WIDE))](
                ends, totals, A, starts, d, chunks, n, REVERSE=reverse, LIMIT=limit, STEPS=STEPS, WIDE=WIDE
            )
    return starts
