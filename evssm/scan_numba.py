"""The selective scan on a CPU, forward and backward, compiled by numba when it is first asked for.

Tensors are sequence-major here: u and delta `(b, l, d)`, B and C `(b, l, g, n)`, so that the channels of one step lie
side by side. A lane vector holds 64 bytes of them (16 float32 or 8 float64). One *tile* of that many channels runs
through a *chunk* of 16 steps with all its states in registers; up to six tiles of one group make a *block*, and one
block of one batch entry is a task for one thread. Only the states at chunk borders are kept for the backward pass,
which runs the chunks again, last one first. No sum depends on the number of threads.

The words that kernels are written in are those of `evssm.lanes`. What follows is one chunk of one tile, and whole
passes; then the way from tensors to addresses.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from functools import lru_cache
from math import ceil
from typing import NamedTuple, no_type_check

import torch

from evssm.compiled import compiled
from evssm.kernel_tasks import address_of, like, share_out
from evssm.lane_functions import clear, load_lanes
from evssm.lanes import (
    LOG2E,
    VECTOR,
    add,
    exp2,
    fetch,
    fill,
    fold,
    load,
    madd,
    mul,
    peek,
    poke,
    put,
    registers,
    softplus,
    softplus_slope,
    store,
    sub,
    take,
    width,
)

CHUNK = 16  # steps between kept states; a chunk's decays, states and sums have to stay in the first cache
PAIR = 2  # chunks whose gradients of A, D and the bias are added up before they are added to the total, exactly
BLOCK = 6  # tiles per task at most: more make fewer sums over channels, fewer leave more tasks for threads
STATES = 8  # states of a channel that are held in registers at a time
SKEW = 18 * VECTOR  # bytes between working arrays, so that rows in use at once fall into different sets of a cache


# --- one chunk of one tile --------------------------------------------------------------------------------------------


@no_type_check
class Rows(NamedTuple):
    """Lane vectors, or rows of numbers, at equal distances: the address of the first, and the bytes to the next."""

    first: int
    stride: int


@compiled
@no_type_check
def row(rows, t):
    """The address of row t."""
    return rows.first + t * rows.stride


@compiled
@no_type_check
def gather(target, source, count, channels, one):
    """`count` rows of some `channels` numbers, packed into lane vectors whose other lanes are zero."""
    for t in range(count):
        store(row(target, t), fill(0.0, one))
        for c in range(channels):
            poke(row(target, t) + c * width(one), peek(row(source, t) + c * width(one), one), one)


@compiled
@no_type_check
def scatter(target, source, count, channels, one):
    """The inverse of `gather`."""
    for t in range(count):
        for c in range(channels):
            poke(row(target, t) + c * width(one), peek(row(source, t) + c * width(one), one), one)


@compiled
@no_type_check
def prepare(steps, delta, u, bias, skip, smooth, step_sizes, drive, through, one):
    """The step sizes after bias and softplus, their products with u, and D u."""
    shift, weight = load(bias, one), load(skip, one)
    for t in range(steps):
        fetch(row(delta, t + CHUNK))
        fetch(row(u, t + CHUNK))
        step = add(load(row(delta, t), one), shift)
        if smooth:
            step = softplus(step)
        store(row(step_sizes, t), step)
        store(row(drive, t), mul(step, load(row(u, t), one)))
        store(row(through, t), mul(weight, load(row(u, t), one)))


@compiled
@no_type_check
def run(states, steps, step_sizes, drive, A2, B, C, state, before, y, one):
    """The recurrence: y is `before` plus C . h, and `state` moves on."""
    h, rate = registers(states, one), registers(states, one)
    for i in range(len(states)):
        put(h, i, load(row(state, i), one))
        put(rate, i, load(row(A2, i), one))
    for t in range(steps):
        step, push = load(row(step_sizes, t), one), load(row(drive, t), one)
        fetch(row(y, t + CHUNK))
        total = load(row(before, t), one)
        for i in range(len(states)):
            decayed = mul(exp2(mul(step, take(rate, i, one))), take(h, i, one))
            now = madd(push, fill(peek(row(B, t) + i * width(one), one), one), decayed)
            put(h, i, now)
            total = madd(now, fill(peek(row(C, t) + i * width(one), one), one), total)
        store(row(y, t), total)
    for i in range(len(states)):
        store(row(state, i), take(h, i, one))


@compiled
@no_type_check
def run_again(states, steps, step_sizes, drive, A2, B, state, decays, history, one):
    """The recurrence once more: all decays, and all states from the one before the first step on."""
    h, rate = registers(states, one), registers(states, one)
    for i in range(len(states)):
        put(h, i, load(row(state, i), one))
        put(rate, i, load(row(A2, i), one))
        store(history.first + i * VECTOR, take(h, i, one))
    for t in range(steps):
        step, push = load(row(step_sizes, t), one), load(row(drive, t), one)
        for i in range(len(states)):
            decay = exp2(mul(step, take(rate, i, one)))
            now = madd(push, fill(peek(row(B, t) + i * width(one), one), one), mul(decay, take(h, i, one)))
            put(h, i, now)
            store(row(decays, t) + i * VECTOR, decay)
            store(row(history, t + 1) + i * VECTOR, now)


@compiled
@no_type_check
def run_back(
    states, steps, step_sizes, drive, dy, A2, B, C, decays, history, carry, gain, via_B, via_A, sums_B, sums_C, one
):  # fmt: skip
    """The recurrence backward. `carry`, what later steps ask of the state, moves on to the step before the chunk.

    Added up over the states: dh B into `via_B`, and dh A2 times the decayed state into `via_A`. Added to `sums_B`
    and `sums_C`, still per channel: dB and dC; and to `gain`, dA.
    """
    asked, rate, slope = registers(states, one), registers(states, one), registers(states, one)
    for i in range(len(states)):
        put(asked, i, load(row(carry, i), one))
        put(rate, i, load(row(A2, i), one))
        put(slope, i, load(row(gain, i), one))
    for back in range(steps):
        t = steps - 1 - back
        step, push, wanted = load(row(step_sizes, t), one), load(row(drive, t), one), load(row(dy, t), one)
        total_B, total_A = load(row(via_B, t), one), load(row(via_A, t), one)
        for i in range(len(states)):
            sum_B, sum_C = row(sums_B, t) + i * VECTOR, row(sums_C, t) + i * VECTOR
            dh = madd(fill(peek(row(C, t) + i * width(one), one), one), wanted, take(asked, i, one))
            store(sum_C, madd(wanted, load(row(history, t + 1) + i * VECTOR, one), load(sum_C, one)))
            store(sum_B, madd(dh, push, load(sum_B, one)))
            total_B = madd(dh, fill(peek(row(B, t) + i * width(one), one), one), total_B)
            earlier = mul(dh, load(row(decays, t) + i * VECTOR, one))
            put(asked, i, earlier)
            decayed = mul(earlier, load(row(history, t) + i * VECTOR, one))
            total_A = madd(decayed, take(rate, i, one), total_A)
            put(slope, i, madd(decayed, step, take(slope, i, one)))
        store(row(via_B, t), total_B)
        store(row(via_A, t), total_A)
    for i in range(len(states)):
        store(row(carry, i), take(asked, i, one))
        store(row(gain, i), take(slope, i, one))


@compiled
@no_type_check
def add_exactly(total, lost, gain, count, one):
    """`gain` added to `total`, with what rounding took away carried along in `lost` (Kahan 1965)."""
    for i in range(count):
        before = load(total + i * VECTOR, one)
        more = sub(load(gain + i * VECTOR, one), load(lost + i * VECTOR, one))
        after = add(before, more)
        store(lost + i * VECTOR, sub(sub(after, before), more))
        store(total + i * VECTOR, after)


# --- whole passes over some tasks -------------------------------------------------------------------------------------


@no_type_check
class Layout(NamedTuple):
    """How a scan is cut up."""

    groups: int
    channels: int  # of one group
    steps: int
    chunks: int
    states: int  # of one channel
    rounds: int  # runs over a chunk, each with as many states as registers hold
    tiles: int  # of one group
    width: int  # tiles of a block
    blocks: int  # of one group
    rank: int  # numbers of a step that its step sizes are made of, where they are


@no_type_check
class Operand(NamedTuple):
    """A tensor in memory: its address, and the bytes from one batch entry, step, group and block to the next."""

    address: int
    entry: int
    step: int
    group: int = 0
    block: int = 0


@no_type_check
class Inputs(NamedTuple):
    """What both passes read; `smooth` says whether the step sizes pass through softplus.

    Where `weight`, `d r`, is an address, a step's sizes are its products with the r numbers in `delta`.
    """

    u: Operand
    delta: Operand
    B: Operand
    C: Operand
    weight: int
    A: int
    D: int
    bias: int
    smooth: bool


@no_type_check
class Block(NamedTuple):
    """What a task works on."""

    entry: int
    group: int
    tile: int  # the first one within the group
    tiles: int
    channel: int  # the first one
    channels: int


@compiled
@no_type_check
def block_of(task, layout, one):
    """The block that a task stands for."""
    lanes = VECTOR // width(one)
    entry, rest = divmod(task, layout.groups * layout.blocks)
    group, block = divmod(rest, layout.blocks)
    tile = block * layout.width
    tiles = min(layout.width, layout.tiles - tile)
    channels = min(tiles * lanes, layout.channels - tile * lanes)
    return Block(entry, group, tile, tiles, group * layout.channels + tile * lanes, channels)


@compiled
@no_type_check
def rows_of(operand, block, start, channel, one):
    """The rows of `operand` from step `start` on, each from `channel` on."""
    first = operand.address + block.entry * operand.entry + start * operand.step + block.group * operand.group
    return Rows(first + channel * width(one), operand.step)


@compiled
@no_type_check
def taken(rows, steps, inside, pad, one):
    """`rows` where a tile is full; otherwise `pad`, a copy with zeros in the lanes that have no channel."""
    if inside * width(one) >= VECTOR:
        return rows
    gather(pad, rows, steps, inside, one)
    return pad


@compiled
@no_type_check
def place(rows, inside, pad, one):
    """Where a tile's results go: straight to `rows`, or to `pad` first where the tile is not full."""
    return rows if inside * width(one) >= VECTOR else pad


@compiled
@no_type_check
def finish(rows, steps, inside, pad, one):
    """Results that went to `pad` brought to `rows`."""
    if inside * width(one) < VECTOR:
        scatter(rows, pad, steps, inside, one)


@compiled
@no_type_check
def copy(target, source, count, one):
    """`count` lane vectors moved."""
    for i in range(count):
        store(target + i * VECTOR, load(source + i * VECTOR, one))


@compiled
@no_type_check
def raw_steps(layout, inputs, block, start, steps, tile, weights, pad, one):
    """The step sizes of a tile before bias and softplus: the rows of `delta`, or their products in `pad`."""
    lanes = VECTOR // width(one)
    if not inputs.weight:
        channel, inside = block.channel + tile * lanes, block.channels - tile * lanes
        return taken(rows_of(inputs.delta, block, start, channel, one), steps, inside, pad, one)
    source, own = rows_of(inputs.delta, block, start, 0, one), weights + tile * layout.rank * VECTOR
    for t in range(steps):
        total = fill(0.0, one)
        for k in range(layout.rank):
            total = madd(fill(peek(row(source, t) + k * width(one), one), one), load(own + k * VECTOR, one), total)
        store(row(pad, t), total)
    return pad


@compiled
@no_type_check
def load_constants(layout, block, n, inputs, A2, skip, shift, weights, one):
    """A times log2 e, D, the bias and the weight of the step sizes of one block's channels, as lane vectors."""
    size, lanes = width(one), VECTOR // width(one)
    clear(A2, block.tiles * n, one)
    clear(skip, block.tiles, one)
    clear(shift, block.tiles, one)
    clear(weights, block.tiles * layout.rank, one)
    for c in range(block.channels):
        tile, lane = divmod(c, lanes)
        for i in range(layout.states):
            rate = peek(inputs.A + ((block.channel + c) * layout.states + i) * size, one)
            poke(A2 + (tile * n + i) * VECTOR + lane * size, rate * LOG2E, one)
        if inputs.D:
            poke(skip + tile * VECTOR + lane * size, peek(inputs.D + (block.channel + c) * size, one), one)
        if inputs.bias:
            poke(shift + tile * VECTOR + lane * size, peek(inputs.bias + (block.channel + c) * size, one), one)
        for k in range(layout.rank):
            factor = peek(inputs.weight + ((block.channel + c) * layout.rank + k) * size, one)
            poke(weights + (tile * layout.rank + k) * VECTOR + lane * size, factor, one)


@compiled
@no_type_check
def forward_tasks(states, one, tasks, layout, inputs, y, borders, scratch):
    """y of some tasks; the states before each chunk too where `borders` is an address."""
    lanes, n = VECTOR // width(one), layout.rounds * len(states)
    A2, state = scratch, scratch + layout.width * n * VECTOR
    skip = state + layout.width * n * VECTOR
    shift = skip + layout.width * VECTOR
    weights = shift + layout.width * VECTOR
    chunk_room, chunk_bytes = weights + layout.width * layout.rank * VECTOR, CHUNK * VECTOR
    step_sizes, drive = Rows(chunk_room, VECTOR), Rows(chunk_room + chunk_bytes, VECTOR)
    pad_u, pad_delta = Rows(chunk_room + 2 * chunk_bytes, VECTOR), Rows(chunk_room + 3 * chunk_bytes, VECTOR)
    pad_y, through = Rows(chunk_room + 4 * chunk_bytes, VECTOR), Rows(chunk_room + 5 * chunk_bytes, VECTOR)
    for task in range(tasks[0], tasks[1]):
        block = block_of(task, layout, one)
        load_constants(layout, block, n, inputs, A2, skip, shift, weights, one)
        clear(state, block.tiles * n, one)
        for chunk in range(layout.chunks):
            start = chunk * CHUNK
            steps = min(CHUNK, layout.steps - start)
            if borders:
                border = (block.entry * layout.chunks + chunk) * layout.groups + block.group
                border = (border * layout.tiles + block.tile) * n * VECTOR
                copy(borders + border, state, block.tiles * n, one)
            for tile in range(block.tiles):
                channel, inside = block.channel + tile * lanes, block.channels - tile * lanes
                u = taken(rows_of(inputs.u, block, start, channel, one), steps, inside, pad_u, one)
                delta = raw_steps(layout, inputs, block, start, steps, tile, weights, pad_delta, one)
                y_rows = rows_of(y, block, start, channel, one)
                y_place = place(y_rows, inside, pad_y, one)
                prepare(
                    steps, delta, u, shift + tile * VECTOR, skip + tile * VECTOR, inputs.smooth,
                    step_sizes, drive, through, one,
                )  # fmt: skip
                for r in range(layout.rounds):
                    i = r * len(states)
                    B, C = rows_of(inputs.B, block, start, i, one), rows_of(inputs.C, block, start, i, one)
                    at = (tile * n + i) * VECTOR
                    run(
                        states, steps, step_sizes, drive, Rows(A2 + at, VECTOR), B, C,
                        Rows(state + at, VECTOR), y_place if r else through, y_place, one,
                    )  # fmt: skip
                finish(y_rows, steps, inside, y_place, one)


@compiled
@no_type_check
def prepare_back(steps, delta, u, dy, bias, smooth, step_sizes, drive, slope, via_B, via_A, one):
    """The step sizes and their products with u again, the slope of the softplus, and zeros in two sums over states."""
    shift = load(bias, one)
    for t in range(steps):
        fetch(row(delta, t - CHUNK))
        fetch(row(u, t - CHUNK))
        fetch(row(dy, t - CHUNK))
        step, rise = add(load(row(delta, t), one), shift), fill(1.0, one)
        if smooth:
            step, rise = softplus(step), softplus_slope(step)
        store(row(step_sizes, t), step)
        store(row(drive, t), mul(step, load(row(u, t), one)))
        store(row(slope, t), rise)
        store(row(via_B, t), fill(0.0, one))
        store(row(via_A, t), fill(0.0, one))


@compiled
@no_type_check
def collect(steps, step_sizes, slope, u, dy, skip, via_B, via_A, du, ddelta, one):
    """du and ddelta from the two sums over states."""
    weight, log2 = load(skip, one), fill(1 / LOG2E, one)
    for t in range(steps):
        fetch(row(du, t - CHUNK))
        fetch(row(ddelta, t - CHUNK))
        wanted, x, through_B = load(row(dy, t), one), load(row(u, t), one), load(row(via_B, t), one)
        store(row(du, t), madd(through_B, load(row(step_sizes, t), one), mul(weight, wanted)))
        through = madd(through_B, x, mul(load(row(via_A, t), one), log2))
        store(row(ddelta, t), mul(through, load(row(slope, t), one)))


@compiled
@no_type_check
def add_steps(steps, inside, u, dy, ddelta, gain_D, gain_bias, one):
    """What some steps ask of D and of the bias, added up from the first to the last."""
    sum_D, sum_bias = fill(0.0, one), fill(0.0, one)
    for t in range(steps):
        sum_D = madd(load_lanes(row(dy, t), inside, one), load_lanes(row(u, t), inside, one), sum_D)
        sum_bias = add(sum_bias, load_lanes(row(ddelta, t), inside, one))
    store(gain_D, sum_D)
    store(gain_bias, sum_bias)


@compiled
@no_type_check
def store_constants(layout, block, n, total, dA, dD, dbias, one):
    """The gradients of A, D and the bias, of one block in one batch entry, from lane vectors to where they belong."""
    size, lanes = width(one), VECTOR // width(one)
    channels = layout.groups * layout.channels
    for c in range(block.channels):
        tile, lane = divmod(c, lanes)
        source, target = total + tile * (n + 2) * VECTOR + lane * size, block.entry * channels + block.channel + c
        for i in range(layout.states):
            poke(dA + (target * layout.states + i) * size, peek(source + i * VECTOR, one), one)
        poke(dD + target * size, peek(source + n * VECTOR, one), one)
        poke(dbias + target * size, peek(source + (n + 1) * VECTOR, one), one)


@compiled
@no_type_check
def fold_rows(target, layout, block, start, steps, sums, n, one):
    """The rows of dB or dC that this block contributes to a chunk: its sums over channels, in the order of `sums`."""
    lanes, size = VECTOR // width(one), width(one)
    rows = rows_of(target, block, start, 0, one)
    first = rows.first + (block.tile // layout.width) * target.block
    straight = steps == CHUNK and layout.states == n and rows.stride == n * size  # whole rows, one behind the other
    place = first if straight else sums  # where vector k goes, all before it have been read
    for k in range(n * CHUNK // lanes):
        store(place + k * VECTOR, fold(sums + k * lanes * VECTOR, one))
    if not straight:
        for t in range(steps):
            for i in range(layout.states):
                poke(first + t * rows.stride + i * size, peek(sums + (t * n + i) * size, one), one)


@compiled
@no_type_check
def backward_tasks(states, one, tasks, layout, inputs, borders, dy, du, ddelta, dB, dC, dA, dD, dbias, scratch):
    """All gradients of some tasks; those of A, D and the bias by batch entry, those of B and C by block of channels."""
    lanes, n = VECTOR // width(one), layout.rounds * len(states)
    row_bytes, chunk_bytes = len(states) * VECTOR, CHUNK * VECTOR
    A2, carry = scratch, scratch + layout.width * n * VECTOR
    skip = carry + layout.width * n * VECTOR
    shift = skip + layout.width * VECTOR
    weights = shift + layout.width * VECTOR
    gain = weights + layout.width * layout.rank * VECTOR
    total = gain + layout.width * (n + 2) * VECTOR
    lost = total + layout.width * (n + 2) * VECTOR
    sums_B = lost + layout.width * (n + 2) * VECTOR
    sums_C = sums_B + n * chunk_bytes + SKEW
    decays = Rows(sums_C + n * chunk_bytes + SKEW, row_bytes)
    history = Rows(decays.first + CHUNK * row_bytes + SKEW, row_bytes)
    chunk_room = history.first + (CHUNK + 1) * row_bytes
    step_sizes, drive = Rows(chunk_room, VECTOR), Rows(chunk_room + chunk_bytes, VECTOR)
    via_B, via_A = Rows(chunk_room + 2 * chunk_bytes, VECTOR), Rows(chunk_room + 3 * chunk_bytes, VECTOR)
    slope, pad_u = Rows(chunk_room + 4 * chunk_bytes, VECTOR), Rows(chunk_room + 5 * chunk_bytes, VECTOR)
    pad_delta, pad_dy = Rows(chunk_room + 6 * chunk_bytes, VECTOR), Rows(chunk_room + 7 * chunk_bytes, VECTOR)
    pad_du, pad_ddelta = Rows(chunk_room + 8 * chunk_bytes, VECTOR), Rows(chunk_room + 9 * chunk_bytes, VECTOR)
    for task in range(tasks[0], tasks[1]):
        block = block_of(task, layout, one)
        load_constants(layout, block, n, inputs, A2, skip, shift, weights, one)
        clear(carry, block.tiles * n, one)
        clear(total, block.tiles * (n + 2), one)
        clear(lost, block.tiles * (n + 2), one)
        for chunk in range(layout.chunks - 1, -1, -1):
            start = chunk * CHUNK
            steps = min(CHUNK, layout.steps - start)
            border = (block.entry * layout.chunks + chunk) * layout.groups + block.group
            border = borders + (border * layout.tiles + block.tile) * n * VECTOR
            clear(sums_B, n * CHUNK, one)
            clear(sums_C, n * CHUNK, one)
            if chunk % PAIR == PAIR - 1 or chunk == layout.chunks - 1:
                clear(gain, block.tiles * (n + 2), one)
            for tile in range(block.tiles):
                channel, inside = block.channel + tile * lanes, block.channels - tile * lanes
                own = tile * (n + 2) * VECTOR
                u = taken(rows_of(inputs.u, block, start, channel, one), steps, inside, pad_u, one)
                delta = raw_steps(layout, inputs, block, start, steps, tile, weights, pad_delta, one)
                wanted = taken(rows_of(dy, block, start, channel, one), steps, inside, pad_dy, one)
                prepare_back(
                    steps, delta, u, wanted, shift + tile * VECTOR, inputs.smooth,
                    step_sizes, drive, slope, via_B, via_A, one,
                )  # fmt: skip
                for r in range(layout.rounds):
                    i = r * len(states)
                    B, C = rows_of(inputs.B, block, start, i, one), rows_of(inputs.C, block, start, i, one)
                    at = (tile * n + i) * VECTOR
                    state, rates = Rows(border + at, VECTOR), Rows(A2 + at, VECTOR)
                    run_again(states, steps, step_sizes, drive, rates, B, state, decays, history, one)
                    run_back(
                        states, steps, step_sizes, drive, wanted, rates, B, C, decays, history,
                        Rows(carry + at, VECTOR), Rows(gain + own + i * VECTOR, VECTOR), via_B, via_A,
                        Rows(sums_B + i * VECTOR, n * VECTOR), Rows(sums_C + i * VECTOR, n * VECTOR), one,
                    )  # fmt: skip
                du_rows = rows_of(du, block, start, channel, one)
                ddelta_rows = rows_of(ddelta, block, start, channel, one)
                du_place = place(du_rows, inside, pad_du, one)
                ddelta_place = place(ddelta_rows, inside, pad_ddelta, one)
                collect(
                    steps, step_sizes, slope, u, wanted, skip + tile * VECTOR, via_B, via_A, du_place, ddelta_place, one
                )  # fmt: skip
                finish(du_rows, steps, inside, du_place, one)
                finish(ddelta_rows, steps, inside, ddelta_place, one)
                if chunk % PAIR == 0:
                    add_steps(
                        min(PAIR * CHUNK, layout.steps - start), inside, rows_of(inputs.u, block, start, channel, one),
                        rows_of(dy, block, start, channel, one), ddelta_rows,
                        gain + own + n * VECTOR, gain + own + (n + 1) * VECTOR, one,
                    )  # fmt: skip
                    add_exactly(total + own, lost + own, gain + own, n + 2, one)
            fold_rows(dB, layout, block, start, steps, sums_B, n, one)
            fold_rows(dC, layout, block, start, steps, sums_C, n, one)
        store_constants(layout, block, n, total, dA, dD, dbias, one)


# --- from and to tensors ----------------------------------------------------------------------------------------------


@no_type_check
def _layout(u, A, B, weight=None):
    """How a scan of these tensors is cut up, and a tuple whose length tells the compiler how many states to hold."""
    rank = 0 if weight is None else weight.shape[1]
    return _cut(u.shape[1], u.shape[2], A.shape[1], B.shape[2], rank, u.element_size())


@lru_cache
@no_type_check
def _cut(steps, channels, n, groups, rank, size):
    rounds = max(1, ceil(n / STATES))
    at_once = max(1, ceil(n / rounds))
    tiles = ceil(channels // groups * size / VECTOR)
    blocks = max(ceil(tiles / BLOCK), min(2, tiles // 2))  # two even for one picture of few channels
    chunks = ceil(steps / CHUNK)
    layout = Layout(
        groups=groups,
        channels=channels // groups,
        steps=steps,
        chunks=chunks,
        states=n,
        rounds=rounds,
        tiles=tiles,
        width=ceil(tiles / max(1, blocks)),
        blocks=blocks,
        rank=rank,
    )
    return layout, (0,) * at_once


@no_type_check
def _readable(x, last=None):
    """`x` with the numbers of its last axis side by side, `last` of them, zeros where it has fewer."""
    if last is not None and x.shape[-1] != last:
        x = torch.nn.functional.pad(x, (0, last - x.shape[-1]))
    return x if x.stride(-1) == 1 else x.contiguous()


@no_type_check
def _operand(x):
    """Where `x` lies in memory; its axes are b l d, b l g n or blocks b l g n."""
    size, stride = x.element_size(), x.stride()
    if x.ndim == 3:
        return Operand(x.data_ptr(), stride[0] * size, stride[1] * size)
    entry, step, group = (part * size for part in stride[-4:-1])
    return Operand(x.data_ptr(), entry, step, group, stride[0] * size)


@no_type_check
def _total(parts):
    """The sum over the first axis."""
    return parts[0] if len(parts) == 1 else parts.sum(0)


@no_type_check
def _inputs(u, delta, A, B, C, D, bias, smooth, weight, n):
    """What the kernels read, and the tensors that hold it, which have to live as long as the kernels run."""
    held = [_readable(u), _readable(delta), _readable(B, n), _readable(C, n)]
    held += [x if x is None else x.contiguous() for x in (weight, A, D, bias)]
    return Inputs(*map(_operand, held[:4]), *map(address_of, held[4:]), smooth), held


@no_type_check
def borders_shape(u, A, B):
    """The shape of the states that the forward pass keeps for the backward pass."""
    return _borders(u, *_layout(u, A, B))


@no_type_check
def _borders(u, layout, states):
    held = layout.rounds * len(states)
    return (len(u), layout.chunks, layout.groups * layout.tiles, held, VECTOR // u.element_size())


@no_type_check
def forward(u, delta, A, B, C, D, bias, smooth, keep, weight=None):
    """y, and the states at the borders of chunks (none unless `keep`), of float32 or float64 tensors on the CPU.

    u, delta and y are `b l d`, B and C `b l g n`. With `weight`, `d r`, delta is `b l r`, and its products with the
    weight are the step sizes.
    """
    layout, states = _layout(u, A, B, weight)
    n = layout.rounds * len(states)
    inputs, held = _inputs(u, delta, A, B, C, D, bias, smooth, weight, n)
    y = torch.empty(u.shape, dtype=u.dtype)
    borders = torch.empty(_borders(u, layout, states) if keep else 0, dtype=u.dtype)
    tasks = len(u) * layout.groups * layout.blocks
    vectors = layout.width * (2 * n + 2 + layout.rank) + 6 * CHUNK
    one, out, kept = like(u), _operand(y), borders.data_ptr() if keep else 0

    def work(some, room):
        forward_tasks(states, one, some, layout, inputs, out, kept, room)

    share_out(tasks, vectors, u.numel() * n, work)
    del held  # the kernels knew it by addresses only
    return y, borders


@no_type_check
def backward(dy, u, delta, A, B, C, D, bias, borders, smooth, weight=None):
    """The gradients of u, the step sizes, A, B, C, D and bias (the last two whether or not they were given)."""
    layout, states = _layout(u, A, B, weight)
    n = layout.rounds * len(states)
    inputs, held = _inputs(u, delta, A, B, C, D, bias, smooth, weight, n)
    dy = _readable(dy)
    du, ddelta = (torch.empty(u.shape, dtype=u.dtype) for _ in range(2))
    dB, dC = (torch.empty(layout.blocks, *B.shape, dtype=u.dtype) for _ in range(2))
    dA = torch.empty(len(u), *A.shape, dtype=u.dtype)
    dD, dbias = (torch.empty(len(u), len(A), dtype=u.dtype) for _ in range(2))
    tasks = len(u) * layout.groups * layout.blocks
    constants = layout.width * (5 * n + 8 + layout.rank)
    vectors = constants + CHUNK * (2 * n + 10) + (2 * CHUNK + 1) * len(states) + 3 * SKEW // VECTOR
    outs = (*map(_operand, (du, ddelta, dB, dC)), *map(address_of, (dA, dD, dbias)))
    one, kept, wanted = like(u), borders.data_ptr(), _operand(dy)

    def work(some, room):
        backward_tasks(states, one, some, layout, inputs, kept, wanted, *outs, room)

    share_out(tasks, vectors, u.numel() * n, work)
    del held  # the kernels knew it by addresses only
    return du, ddelta, *map(_total, (dA, dB, dC, dD, dbias))
