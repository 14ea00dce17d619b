"""The kernels of `evssm.fused`: compiled by numba for a CPU when they are first asked for.

Maps are channels-last here. A lane vector holds 64 bytes of neighbouring channels of one pixel; channels that fill the
last one only in part are read and written under a mask. No kernel makes a copy of a whole map: a depth-wise convolution
keeps a few rows, a norm some pixels, a patch filter one patch, so that what lies between reading and writing stays
in the first cache levels. Values that cost less to compute than to fetch are computed again in the backward passes. No
sum depends on the number of threads.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from itertools import accumulate
from math import ceil, pi, sqrt
from typing import NamedTuple, no_type_check

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from evssm.compiled import compiled
from evssm.lanes import (
    FORMAT,
    LOG2E,
    VECTOR,
    Lanes,
    add,
    bits_of,
    call,
    constant,
    fill,
    fold,
    interpolated,
    load,
    madd,
    mul,
    peek,
    pointer_at,
    poke,
    polynomial,
    power,
    put,
    registers,
    rounded,
    store,
    sub,
    take,
    vector_of,
    width,
)
from evssm.scan_numba import _address, _like, _share_out, clear

PLAIN, GELU, GATED = 0, 1, 2  # what follows a depth-wise convolution; GATED: gelu(first half) * second half
SPAN = 512  # pixels of one task of the norms
HERD = 64  # pixels that lie between a norm and the products around it
PANEL = 256  # pixels that a product works on at a time
SHEAF = 2048  # pixels of one task of a weight's gradient
STRIP = 64  # rows of one task of a depth-wise convolution; half as many where a single picture is all there is
RUN = 8  # neighbouring pixels that are convolved at a time
PARTS = 4  # sums that a tap's gradient is added up in, pixels taking turns
DECAY = 0.25  # of the variable in which the tail of the normal distribution is a polynomial


# --- the normal distribution ------------------------------------------------------------------------------------------


@no_type_check
def _tail_rest(w):
    """Phi(-x) e^(x^2 / 2) (1 + DECAY x) for x >= 0, as a function of w = 2 / (1 + DECAY x) - 1."""
    x = torch.from_numpy((1 - w) / (1 + w) / DECAY)
    return (torch.special.erfcx(x / sqrt(2)) / (1 + torch.from_numpy(w))).numpy()


# By bits of a number. 40 standard deviations are beyond what float64 can tell from zero.
TAIL_REST = {bits: interpolated(_tail_rest, 2 / (1 + 40 * DECAY) - 1, 1.0, n) for bits, n in ((32, 9), (64, 20))}


@no_type_check
def _normal(builder, x):
    """The density of the standard normal distribution at x, and its integral up to x.

    The lower tail is the density times a smooth function, so that its relative error is small however far out x lies.
    """
    one, zero = constant(x.type, 1.0), constant(x.type, 0.0)
    exponent = builder.fmul(builder.fmul(x, x), constant(x.type, -LOG2E / 2))
    moved, k = rounded(builder, exponent)
    bell = power(builder, moved, builder.fsub(exponent, k))
    lowest = constant(x.type, 1.0 - FORMAT[bits_of(x.type)[0]][1])
    bell = builder.select(builder.fcmp_ordered("<", exponent, lowest), zero, bell)
    far = call(builder, "fmuladd", call(builder, "fabs", x), constant(x.type, DECAY), one)
    near = builder.fdiv(one, far)
    w = call(builder, "fmuladd", near, constant(x.type, 2.0), constant(x.type, -1.0))
    tail = builder.fmul(builder.fmul(bell, near), polynomial(builder, w, TAIL_REST[bits_of(x.type)[0]]))
    integral = builder.select(builder.fcmp_ordered("<", x, zero), tail, builder.fsub(one, tail))
    return builder.fmul(bell, constant(x.type, 1 / sqrt(2 * pi))), integral


@intrinsic
@no_type_check
def gelu(typing, x):
    """x Phi(x)"""

    @no_type_check
    def emit(context, builder, signature, arguments):
        (x,) = arguments
        return builder.fmul(x, _normal(builder, x)[1])

    return x(x), emit


@intrinsic
@no_type_check
def gelu_slope(typing, x):
    """Phi(x) + x phi(x)"""

    @no_type_check
    def emit(context, builder, signature, arguments):
        (x,) = arguments
        return call(builder, "fmuladd", x, *_normal(builder, x))

    return x(x), emit


# --- more of the vocabulary -------------------------------------------------------------------------------------------


@intrinsic
@no_type_check
def inverse_root(typing, x):
    """1 / sqrt(x)"""

    @no_type_check
    def emit(context, builder, signature, arguments):
        (x,) = arguments
        return builder.fdiv(constant(x.type, 1.0), call(builder, "sqrt", x))

    return x(x), emit


@no_type_check
def _mask(builder, count, vector):
    """True in the first `count` lanes."""
    numbers = ir.VectorType(ir.IntType(32), vector.count)
    single = builder.insert_element(
        ir.Constant(numbers, ir.Undefined), builder.trunc(count, numbers.element), ir.IntType(32)(0)
    )
    all_count = builder.shuffle_vector(single, single, ir.Constant(numbers, None))
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(vector.count))), all_count)


@no_type_check
def _masked(builder, name, kind, arguments):
    """LLVM's masked load or store of vectors of this kind."""
    vector = arguments[0].type if name == "store" else kind
    suffix = f"v{vector.count}f{bits_of(vector)[0]}.p0"
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.{name}.{suffix}"), arguments
    )


@intrinsic
@no_type_check
def load_part(typing, address, count, like):
    """The first `count` lanes of the vector at `address`, and zeros."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        vector = vector_of(like)
        pointer, align = pointer_at(builder, arguments[0], vector), ir.IntType(32)(like.bitwidth // 8)
        mask = _mask(builder, arguments[1], vector)
        return _masked(builder, "load", vector, [pointer, align, mask, constant(vector, 0.0)])

    return Lanes(like)(types.int64, types.int64, like), emit


@intrinsic
@no_type_check
def kept(typing, lanes, count, like):
    """The first `count` of `lanes`, and zeros."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        vector = arguments[0].type
        return builder.select(_mask(builder, arguments[1], vector), arguments[0], constant(vector, 0.0))

    return lanes(lanes, types.int64, like), emit


@intrinsic
@no_type_check
def store_part(typing, address, lanes, count):
    """The first `count` of `lanes` written to `address`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        value = arguments[1]
        pointer, align = pointer_at(builder, arguments[0], value.type), ir.IntType(32)(lanes.dtype.bitwidth // 8)
        _masked(builder, "store", ir.VoidType(), [value, pointer, align, _mask(builder, arguments[2], value.type)])
        return context.get_dummy_value()

    return types.void(types.int64, lanes, types.int64), emit


@compiled
@no_type_check
def load_lanes(address, count, one):
    """`load_part`, without a mask where `count` fills a vector: what was just stored whole then needs no way back."""
    if count * width(one) >= VECTOR:
        return load(address, one)
    return load_part(address, count, one)


@compiled
@no_type_check
def store_lanes(address, lanes, count, one):
    """`store_part`, without a mask where `count` fills a vector."""
    if count * width(one) >= VECTOR:
        store(address, lanes)
    else:
        store_part(address, lanes, count)


# --- maps in memory ---------------------------------------------------------------------------------------------------


@no_type_check
class Maps(NamedTuple):
    """Channels-last maps: where the first number lies, and the bytes from one picture, row and pixel to the next."""

    first: int
    picture: int
    row: int
    pixel: int


@no_type_check
class Size(NamedTuple):
    """Extent of maps; `channels` of a half of them where halves are multiplied with each other. A task is a `strip`."""

    pictures: int
    h: int
    w: int
    channels: int
    strip: int  # rows


@compiled
@no_type_check
def row_of(maps, picture, y, channel, one):
    """The address of the first pixel of a row, from `channel` on."""
    return maps.first + picture * maps.picture + y * maps.row + channel * width(one)


# --- products with matrices -------------------------------------------------------------------------------------------


@no_type_check
class Matrix(NamedTuple):
    """The address of a matrix's first number, and the bytes from one row and one column to the next."""

    first: int
    row: int
    column: int


@compiled
@no_type_check
def multiply_tile(rows, vectors, sums, steps, a, b, start, c, inside, one):
    """c = start + a b for a few rows of c, and as many columns as some lane vectors have, in registers.

    `start` may be no matrix, then c = a b. The last vector has only `inside` numbers; b's columns lie side by side.
    """
    total = registers(sums, one)
    last = len(vectors) - 1
    for r in range(len(rows)):
        for v in range(len(vectors)):
            at = start.first + r * start.row + v * VECTOR
            before = fill(0.0, one)
            if start.first:
                before = load(at, one) if v < last else load_part(at, inside, one)
            put(total, r * len(vectors) + v, before)
    for k in range(steps):
        source = b.first + k * b.row
        right = registers(vectors, one)
        for v in range(len(vectors)):
            put(right, v, load(source + v * VECTOR, one) if v < last else load_part(source + v * VECTOR, inside, one))
        for r in range(len(rows)):
            left = fill(peek(a.first + r * a.row + k * a.column, one), one)
            for v in range(len(vectors)):
                i = r * len(vectors) + v
                put(total, i, madd(left, take(right, v, one), take(total, i, one)))
    for r in range(len(rows)):
        for v in range(len(vectors)):
            at = c.first + r * c.row + v * VECTOR
            if v < last:
                store(at, take(total, r * len(vectors) + v, one))
            else:
                store_part(at, take(total, r * len(vectors) + v, one), inside)


@compiled
@no_type_check
def below(matrix, rows):
    """`matrix` from a later row on; no matrix stays none."""
    return Matrix(matrix.first + rows * matrix.row if matrix.first else 0, matrix.row, matrix.column)


@compiled
@no_type_check
def multiply_columns(rows, vectors, sums, height, steps, a, b, start, c, inside, one):
    """c = start + a b for all rows of c, and as many columns as some lane vectors have."""
    whole = height - height % len(rows)
    for r in range(0, whole, len(rows)):
        multiply_tile(rows, vectors, sums, steps, below(a, r), b, below(start, r), below(c, r), inside, one)
    for r in range(whole, height):
        multiply_tile((0,), vectors, vectors, steps, below(a, r), b, below(start, r), below(c, r), inside, one)


@compiled
@no_type_check
def multiply(height, columns, steps, a, b, start, c, one):
    """c = start + a b. Up to 24 lane vectors of c are in registers at a time."""
    lanes, size = VECTOR // width(one), width(one)
    column = 0
    while column < columns:
        left = (columns - column + lanes - 1) // lanes
        vectors = 2 if left == 4 else min(left, 3)  # four are two times two
        inside = columns - column - (vectors - 1) * lanes
        right, target = Matrix(b.first + column * size, b.row, size), Matrix(c.first + column * size, c.row, size)
        before = Matrix(start.first + column * size if start.first else 0, start.row, size)
        if vectors == 1:
            multiply_columns((0,) * 16, (0,), (0,) * 16, height, steps, a, right, before, target, inside, one)
        elif vectors == 2:
            multiply_columns((0,) * 8, (0,) * 2, (0,) * 16, height, steps, a, right, before, target, inside, one)
        else:
            multiply_columns((0,) * 8, (0,) * 3, (0,) * 24, height, steps, a, right, before, target, inside, one)
        column += vectors * lanes


@compiled
@no_type_check
def linear_tasks(one, tasks, pixels, inputs, outputs, x, weight, start, y):
    """Some tasks' pixels times the weight `inputs outputs`."""
    for task in range(tasks[0], tasks[1]):
        first = task * PANEL
        count = min(PANEL, pixels - first)
        multiply(count, outputs, inputs, below(x, first), weight, below(start, first), below(y, first), one)


@compiled
@no_type_check
def correlation_tasks(one, tasks, pixels, inputs, outputs, x, dy, dweight):
    """By task, the gradient of the weight `outputs inputs`: its pixels' products of dy and x."""
    size = width(one)
    none = Matrix(0, 0, 0)
    for task in range(tasks[0], tasks[1]):
        own = Matrix(dweight.first + task * outputs * dweight.row, dweight.row, size)
        for first in range(task * SHEAF, min((task + 1) * SHEAF, pixels), PANEL):
            count = min(PANEL, (task + 1) * SHEAF - first, pixels - first)
            turned = Matrix(dy.first + first * dy.row, dy.column, dy.row)
            multiply(outputs, inputs, count, turned, below(x, first), none if first == task * SHEAF else own, own, one)


# --- depth-wise convolution -------------------------------------------------------------------------------------------
#
# A line is one lane vector of channels along a row, with zeros at both ends for the kernel to reach into. A ring holds
# as many lines as the kernel has rows; the line of row y is entry y modulo that number.


@no_type_check
class Kernel(NamedTuple):
    """How far a kernel reaches, and where its lines lie."""

    rows: int
    before: int  # zeros before a line
    line: int  # bytes of a line


@compiled
@no_type_check
def line_of(ring, y, kernel):
    """The line of row y, from the zeros on that the leftmost column of the kernel sees first."""
    return ring + (y + kernel.rows) % kernel.rows * kernel.line


@compiled
@no_type_check
def bring(line, source, pixel, w, inside, one):
    """One row of a map into a line."""
    if inside * width(one) >= VECTOR:
        for x in range(w):
            store(line + x * VECTOR, load(source + x * pixel, one))
    else:
        for x in range(w):
            store(line + x * VECTOR, load_part(source + x * pixel, inside, one))


@compiled
@no_type_check
def add_correlations(columns, parts, pairs, line, grad, w, total, one):
    """One row of the kernel's gradient: to tap k, the sum over pixels of `grad` times the line's pixel k further on."""
    sums = registers(pairs, one)
    for k in range(len(pairs)):
        put(sums, k, fill(0.0, one))
    for x in range(0, w, len(parts)):
        for i in range(len(parts)):
            asked = load(grad + (x + i) * VECTOR, one)
            for k in range(len(columns)):
                at = k * len(parts) + i
                put(sums, at, madd(asked, load(line + (x + i + k) * VECTOR, one), take(sums, at, one)))
    for k in range(len(columns)):
        for i in range(len(parts)):
            store(total + k * VECTOR, add(take(sums, k * len(parts) + i, one), load(total + k * VECTOR, one)))


@compiled
@no_type_check
def convolve(columns, run, ring, y, taps, w, total, kernel, one):
    """The line of results for row y from the ring of rows around it: the bias, and one product after the other."""
    first, end = line_of(ring, y - kernel.rows // 2, kernel), ring + kernel.rows * kernel.line
    start = load(taps + kernel.rows * len(columns) * VECTOR, one)
    sums = registers(run, one)
    for x in range(0, w, len(run)):
        for i in range(len(run)):
            put(sums, i, start)
        line, tap = first + x * VECTOR, taps
        for _ in range(kernel.rows):
            for k in range(len(columns)):
                factor = load(tap + k * VECTOR, one)
                for i in range(len(run)):
                    put(sums, i, madd(factor, load(line + (i + k) * VECTOR, one), take(sums, i, one)))
            tap += len(columns) * VECTOR
            line += kernel.line
            if line >= end:
                line -= kernel.rows * kernel.line
        for i in range(len(run)):
            store(total + (x + i) * VECTOR, take(sums, i, one))


@compiled
@no_type_check
def activate(then, first, second, w, one):
    """What follows the convolution, in place of its first line."""
    for x in range(w):
        value = load(first + x * VECTOR, one)
        if then != PLAIN:
            value = gelu(value)
        if then == GATED:
            value = mul(value, load(second + x * VECTOR, one))
        store(first + x * VECTOR, value)


@compiled
@no_type_check
def activate_back(then, first, second, asked, w, grad_first, grad_second, one):
    """The gradients of the convolution's lines from that of the activated line, which takes the place of the first."""
    for x in range(w):
        wanted, value, factor = load(asked + x * VECTOR, one), load(first + x * VECTOR, one), fill(1.0, one)
        slope, activated = factor, value
        if then != PLAIN:
            slope, activated = gelu_slope(value), gelu(value)
        if then == GATED:
            factor = load(second + x * VECTOR, one)
            store(grad_second + x * VECTOR, mul(wanted, activated))
        store(grad_first + x * VECTOR, mul(mul(wanted, slope), factor))
        store(first + x * VECTOR, mul(activated, factor))


@compiled
@no_type_check
def load_taps(weight, bias, channel, inside, taps, count, one):
    """The taps of one lane vector of channels, one per vector, and their bias, or zeros, as the last."""
    size = width(one)
    clear(taps, count, one)
    for c in range(inside):
        for k in range(count - 1):
            poke(taps + k * VECTOR + c * size, peek(weight + ((channel + c) * (count - 1) + k) * size, one), one)
        if bias:
            poke(taps + (count - 1) * VECTOR + c * size, peek(bias + (channel + c) * size, one), one)


@compiled
@no_type_check
def turn(taps, turned, count, one):
    """The kernel turned by half a turn, without its bias."""
    for k in range(count - 1):
        store(turned + k * VECTOR, load(taps + (count - 2 - k) * VECTOR, one))
    store(turned + (count - 1) * VECTOR, fill(0.0, one))


@compiled
@no_type_check
def add_table(columns, parts, pairs, ring, y, grad, w, sums, kernel, one):
    """What row y adds to the gradient of the table: all taps, and the bias last."""
    for i in range(kernel.rows):
        line = line_of(ring, y + i - kernel.rows // 2, kernel)
        add_correlations(columns, parts, pairs, line, grad, w, sums + i * len(columns) * VECTOR, one)
    bias = sums + kernel.rows * len(columns) * VECTOR
    total = load(bias, one)
    for x in range(w):
        total = add(total, load(grad + x * VECTOR, one))
    store(bias, total)


@no_type_check
class End(NamedTuple):
    """Maps before or after the convolution, and the matrix between them and it, if it has inputs.

    `weight` is `outputs inputs` and `turned` its transpose, so that either has what is needed side by side.
    """

    maps: Maps
    inputs: int
    outputs: int
    weight: int
    turned: int


@compiled
@no_type_check
def bring_row(ring, y, source, picture, channel, size, inside, kernel, one):
    """Row y of the maps to convolve into the ring; zeros where there is no such row."""
    line, maps = line_of(ring, y, kernel) + kernel.before * VECTOR, source.maps
    if y < 0 or y >= size.h:
        clear(line, size.w, one)
    elif source.inputs:
        pixels = Matrix(row_of(maps, picture, y, 0, one), maps.pixel, width(one))
        weight = Matrix(source.turned + channel * width(one), source.outputs * width(one), width(one))
        target = Matrix(line, VECTOR, width(one))
        multiply(size.w, inside, source.inputs, pixels, weight, Matrix(0, 0, 0), target, one)
    else:
        bring(line, row_of(maps, picture, y, channel, one), maps.pixel, size.w, inside, one)


@compiled
@no_type_check
def give_row(line, y, source, dx, first, dweight, weights, picture, channel, size, inside, one):
    """What a line of gradients means for row y of dx, whose `first` part replaces what was there, and for dweight."""
    number = width(one)
    if source.inputs:
        target = Matrix(row_of(dx, picture, y, 0, one), dx.pixel, number)
        weight = Matrix(source.weight + channel * source.inputs * number, source.inputs * number, number)
        before = Matrix(0 if first else target.first, target.row, number)
        multiply(size.w, source.inputs, inside, Matrix(line, VECTOR, number), weight, before, target, one)
        if weights:
            pixels = Matrix(row_of(source.maps, picture, y, 0, one), source.maps.pixel, number)
            sums = Matrix(dweight + channel * source.inputs * number, source.inputs * number, number)
            multiply(inside, source.inputs, size.w, Matrix(line, number, VECTOR), pixels, sums, sums, one)
    else:
        target = row_of(dx, picture, y, channel, one)
        for x in range(size.w):
            store_part(target + x * dx.pixel, load(line + x * VECTOR, one), inside)


@compiled
@no_type_check
def finish_row(line, y, sink, picture, channel, size, inside, one):
    """An activated line to row y of the output, or its product with the matrix added to it."""
    number, maps = width(one), sink.maps
    if sink.inputs:
        target = Matrix(row_of(maps, picture, y, 0, one), maps.pixel, number)
        weight = Matrix(sink.turned + channel * sink.outputs * number, sink.outputs * number, number)
        before = Matrix(target.first if channel else 0, target.row, number)
        multiply(size.w, sink.outputs, inside, Matrix(line, VECTOR, number), weight, before, target, one)
    else:
        target = row_of(maps, picture, y, channel, one)
        for x in range(size.w):
            store_part(target + x * maps.pixel, load(line + x * VECTOR, one), inside)


@compiled
@no_type_check
def ask_row(line, y, sink, picture, channel, size, inside, one):
    """The gradient of an activated line from row y of the output's."""
    number, maps = width(one), sink.maps
    if sink.inputs:
        asked = Matrix(row_of(maps, picture, y, 0, one), maps.pixel, number)
        weight = Matrix(sink.weight + channel * number, sink.inputs * number, number)
        target = Matrix(line, VECTOR, number)
        multiply(size.w, inside, sink.outputs, asked, weight, Matrix(0, 0, 0), target, one)
    else:
        bring(line, row_of(maps, picture, y, channel, one), maps.pixel, size.w, inside, one)


@compiled
@no_type_check
def add_to_output(line, y, sink, doutput, picture, channel, size, inside, one):
    """What an activated line adds to the gradient of the matrix after it."""
    number = width(one)
    asked = Matrix(row_of(sink.maps, picture, y, 0, one), number, sink.maps.pixel)
    sums = Matrix(doutput + channel * number, sink.inputs * number, number)
    multiply(sink.outputs, inside, size.w, asked, Matrix(line, VECTOR, number), sums, sums, one)


@no_type_check
class Strip(NamedTuple):
    """What a task works on: some rows of one picture."""

    picture: int
    top: int
    bottom: int


@compiled
@no_type_check
def strip_of(task, size):
    """The strip that a task stands for."""
    picture, number = divmod(task, (size.h + size.strip - 1) // size.strip)
    return Strip(picture, number * size.strip, min((number + 1) * size.strip, size.h))


@no_type_check
class Tile(NamedTuple):
    """One lane vector of channels of one half: the first channel, how many they are, where its taps and ring lie."""

    channel: int
    inside: int
    taps: int
    ring: int


@compiled
@no_type_check
def tile_of(number, half, halves, size, count, kernel, taps, rings, one):
    """Tile `number` of a half; both halves' tiles of a number lie side by side."""
    lanes, at = VECTOR // width(one), halves * number + half
    inside = min(lanes, size.channels - number * lanes)
    ring = rings + at * kernel.rows * kernel.line
    return Tile(half * size.channels + number * lanes, inside, taps + at * count * VECTOR, ring)


@compiled
@no_type_check
def depthwise_tasks(columns, run, one, tasks, then, size, kernel, source, weight, bias, sink, scratch):
    """The rows of the output that some tasks stand for, all channels of a row after each other."""
    lanes, halves, reach = VECTOR // width(one), 2 if then == GATED else 1, kernel.rows // 2
    tiles, count = (size.channels + lanes - 1) // lanes, kernel.rows * len(columns) + 1
    rings = scratch + halves * tiles * count * VECTOR
    totals = rings + halves * tiles * kernel.rows * kernel.line
    clear(rings, (totals - rings) // VECTOR, one)
    for task in range(tasks[0], tasks[1]):
        picture, top, bottom = strip_of(task, size)
        for row in range(top - 2 * reach, bottom):
            for number in range(tiles):
                for half in range(halves):
                    tile = tile_of(number, half, halves, size, count, kernel, scratch, rings, one)
                    if row == top - 2 * reach:
                        load_taps(weight, bias, tile.channel, tile.inside, tile.taps, count, one)
                    bring_row(tile.ring, row + reach, source, picture, tile.channel, size, tile.inside, kernel, one)
                    if row >= top:
                        total = totals + half * kernel.line
                        convolve(columns, run, tile.ring, row, tile.taps, size.w, total, kernel, one)
                if row >= top:
                    inside = min(lanes, size.channels - number * lanes)
                    activate(then, totals, totals + kernel.line, size.w, one)
                    finish_row(totals, row, sink, picture, number * lanes, size, inside, one)


@compiled
@no_type_check
def store_table(tiles, halves, size, count, kernel, sums, own, one):
    """One task's gradients of the taps, one of all channels after the other, and of the bias behind them."""
    for number in range(tiles):
        for half in range(halves):
            tile = tile_of(number, half, halves, size, count, kernel, sums, 0, one)
            for k in range(count):
                place = own.weight + (k * halves * size.channels + tile.channel) * width(one)
                store_part(place, load(tile.taps + k * VECTOR, one), tile.inside)


@no_type_check
class Sums(NamedTuple):
    """Where a task adds up the gradients of parameters, and the bytes to where the next task does."""

    projection: int
    weight: int
    bias: int
    output: int
    step: int


@compiled
@no_type_check
def own_sums(sums, task):
    """Those of a task."""
    moved = task * sums.step
    return Sums(sums.projection + moved, sums.weight + moved, sums.bias + moved, sums.output + moved, sums.step)


@compiled
@no_type_check
def depthwise_back_tasks(
    columns, run, parts, pairs, one, tasks, then, weights, size, kernel, source, weight, bias, sink, dx, gradients,
    scratch,
):  # fmt: skip
    """The gradients of the input in the rows that some tasks stand for; by task those of the parameters, if wanted."""
    lanes, halves, reach = VECTOR // width(one), 2 if then == GATED else 1, kernel.rows // 2
    tiles, count = (size.channels + lanes - 1) // lanes, kernel.rows * len(columns) + 1
    table_bytes, ring_bytes = halves * tiles * count * VECTOR, halves * tiles * kernel.rows * kernel.line
    sums, rings = scratch + 2 * table_bytes, scratch + 3 * table_bytes
    grads, totals = rings + ring_bytes, rings + 2 * ring_bytes
    line = totals + halves * kernel.line
    clear(rings, 2 * ring_bytes // VECTOR, one)
    for task in range(tasks[0], tasks[1]):
        (picture, top, bottom), own = strip_of(task, size), own_sums(gradients, task)
        clear(sums, table_bytes // VECTOR, one)
        for row in range(top - 3 * reach, bottom + reach):
            for number in range(tiles):
                for half in range(halves):
                    tile = tile_of(number, half, halves, size, count, kernel, scratch, rings, one)
                    if row == top - 3 * reach:
                        load_taps(weight, bias, tile.channel, tile.inside, tile.taps, count, one)
                        turn(tile.taps, tile.taps + table_bytes, count, one)
                    bring_row(tile.ring, row + reach, source, picture, tile.channel, size, tile.inside, kernel, one)
                    if row >= top - reach and (then != PLAIN or sink.inputs):
                        total = totals + half * kernel.line
                        convolve(columns, run, tile.ring, row, tile.taps, size.w, total, kernel, one)
                if row < top - reach:
                    continue
                grad = (
                    line_of(grads + halves * number * kernel.rows * kernel.line, row, kernel) + kernel.before * VECTOR
                )
                other = grad + (halves - 1) * kernel.rows * kernel.line
                if 0 <= row < size.h:
                    inside = min(lanes, size.channels - number * lanes)
                    ask_row(line, row, sink, picture, number * lanes, size, inside, one)
                    activate_back(then, totals, totals + kernel.line, line, size.w, grad, other, one)
                    if weights and sink.inputs and top <= row < bottom:
                        add_to_output(totals, row, sink, own.output, picture, number * lanes, size, inside, one)
                else:
                    clear(grad, size.w, one)
                    clear(other, size.w, one)
                for half in range(halves):
                    tile = tile_of(number, half, halves, size, count, kernel, scratch, rings, one)
                    if weights and top <= row < bottom:
                        grad = line_of(tile.ring + ring_bytes, row, kernel) + kernel.before * VECTOR
                        total = tile.taps + 2 * table_bytes
                        add_table(columns, parts, pairs, tile.ring, row, grad, size.w, total, kernel, one)
                    if row >= top + reach:
                        back, ring = tile.taps + table_bytes, tile.ring + ring_bytes
                        convolve(columns, run, ring, row - reach, back, size.w, totals, kernel, one)
                        give_row(
                            totals, row - reach, source, dx, tile.channel == 0, own.projection, weights, picture,
                            tile.channel, size, tile.inside, one,
                        )  # fmt: skip
        if weights:
            store_table(tiles, halves, size, count, kernel, sums, own, one)


# --- norms ------------------------------------------------------------------------------------------------------------
#
# As many pixels as a lane vector has lanes are worked on together: their sums over channels are folded into one vector.


@no_type_check
class Norm(NamedTuple):
    """A norm over channels: how many they are, whether their mean is subtracted, what is added to their variance."""

    channels: int
    centred: bool
    eps: float


@compiled
@no_type_check
def load_statistics(norm, x, pixel, count, means, scales, sums, one):
    """The mean of each pixel's channels (zero unless it is subtracted), and one over their standard deviation."""
    lanes = VECTOR // width(one)
    share = fill(1 / norm.channels, one)
    store(means, fill(0.0, one))
    if norm.centred:
        for i in range(count):
            total = fill(0.0, one)
            for c in range(0, norm.channels, lanes):
                total = add(total, load_lanes(x + i * pixel + c * width(one), norm.channels - c, one))
            store(sums + i * VECTOR, total)
        store(means, mul(fold(sums, one), share))
    for i in range(count):
        total, mean = fill(0.0, one), fill(peek(means + i * width(one), one), one)
        for c in range(0, norm.channels, lanes):
            inside = norm.channels - c
            apart = kept(sub(load_lanes(x + i * pixel + c * width(one), inside, one), mean), inside, one)
            total = madd(apart, apart, total)
        store(sums + i * VECTOR, total)
    store(scales, inverse_root(madd(fold(sums, one), share, fill(norm.eps, one))))


@compiled
@no_type_check
def pixels_of(maps, first, one):
    """The pixels of maps from `first` on, one per row; no maps stay none."""
    return Matrix(maps.first + first * maps.pixel if maps.first else 0, maps.pixel, width(one))


@compiled
@no_type_check
def bring_gates(gate, first, count, room, one):
    """Some pixels' gates: as the maps hold them, or their products with the matrix, in `room`."""
    found = pixels_of(gate.maps, first, one)
    if gate.inputs:
        weight = Matrix(gate.turned, gate.outputs * width(one), width(one))
        multiply(count, gate.outputs, gate.inputs, found, weight, Matrix(0, 0, 0), room, one)
        return room
    return found


@compiled
@no_type_check
def norm_tasks(one, tasks, norm, pixels, x, gate, weight, bias, sink, scratch):
    """The normalised pixels of some tasks, times the GELU of the gate where there is one, times a matrix if given."""
    size, lanes, none = width(one), VECTOR // width(one), Matrix(0, 0, 0)
    vectors = (norm.channels + lanes - 1) // lanes
    means, scales, sums = scratch, scratch + VECTOR, scratch + 2 * VECTOR
    gate_room = Matrix(sums + lanes * VECTOR, vectors * VECTOR, size)
    room = Matrix(gate_room.first + HERD * gate_room.row, vectors * VECTOR, size)
    clear(sums, lanes, one)
    for start in range(tasks[0] * SPAN, min(tasks[1] * SPAN, pixels), HERD):
        herd = min(HERD, pixels - start)
        gates, target = bring_gates(gate, start, herd, gate_room, one), pixels_of(sink.maps, start, one)
        values = room if sink.inputs else target
        for first in range(0, herd, lanes):
            count = min(lanes, herd - first)
            source = x.first + (start + first) * x.pixel
            load_statistics(norm, source, x.pixel, count, means, scales, sums, one)
            for i in range(count):
                mean, scale = fill(peek(means + i * size, one), one), fill(peek(scales + i * size, one), one)
                for v in range(vectors):
                    at, inside = v * VECTOR, norm.channels - v * lanes
                    value = mul(sub(load_lanes(source + i * x.pixel + at, inside, one), mean), scale)
                    value = madd(value, load_lanes(weight + at, inside, one), load_lanes(bias + at, inside, one))
                    if gates.first:
                        value = mul(value, gelu(load_lanes(gates.first + (first + i) * gates.row + at, inside, one)))
                    store_lanes(values.first + (first + i) * values.row + at, value, inside, one)
        if sink.inputs:
            right = Matrix(sink.turned, sink.outputs * size, size)
            multiply(herd, sink.outputs, sink.inputs, values, right, none, target, one)


@compiled
@no_type_check
def through_gate(norm, x, gate, asked, dgate, wanted, activated, mean, scale, weight, bias, one):
    """One pixel's gradients of the gate and, into `wanted`, of the norm's output, from `asked`, that of the product.

    The product itself goes to `activated`, unless that is no address.
    """
    lanes = VECTOR // width(one)
    for c in range(0, norm.channels, lanes):
        at, inside = c * width(one), norm.channels - c
        value = mul(sub(load_lanes(x + at, inside, one), mean), scale)
        value = madd(value, load_lanes(weight + at, inside, one), load_lanes(bias + at, inside, one))
        grad, opened = load_lanes(asked + at, inside, one), fill(1.0, one)
        if gate:
            z = load_lanes(gate + at, inside, one)
            opened = gelu(z)
            store_lanes(dgate + at, mul(mul(grad, value), gelu_slope(z)), inside, one)
        store_lanes(wanted + at, mul(grad, opened), inside, one)
        if activated:
            store_lanes(activated + at, mul(value, opened), inside, one)


@compiled
@no_type_check
def through_norm(norm, x, pixel, count, wanted, weight, dx, step, table, means, scales, sums, others, one):
    """The gradients of a few pixels from `wanted`, those of the norm's output; added to `table`: of weight and bias."""
    size, lanes, share = width(one), VECTOR // width(one), fill(-1 / norm.channels, one)
    vectors = (norm.channels + lanes - 1) // lanes
    for i in range(count):
        mean, scale = fill(peek(means + i * size, one), one), fill(peek(scales + i * size, one), one)
        total, other = fill(0.0, one), fill(0.0, one)
        for v in range(vectors):
            at, inside = v * VECTOR, norm.channels - v * lanes
            grad = load_lanes(wanted.first + i * wanted.row + at, inside, one)
            value = mul(sub(load_lanes(x + i * pixel + at, inside, one), mean), scale)
            store(table + at, madd(grad, value, load(table + at, one)))
            store(table + vectors * VECTOR + at, add(grad, load(table + vectors * VECTOR + at, one)))
            grad = mul(grad, load_lanes(weight + at, inside, one))
            total, other = madd(grad, value, total), add(grad, other)
        store(sums + i * VECTOR, total)
        store(others + i * VECTOR, other)
    along, common = mul(fold(sums, one), share), mul(fold(others, one), share)
    store(sums, along)
    store(others, common if norm.centred else fill(0.0, one))
    for i in range(count):
        mean, scale = fill(peek(means + i * size, one), one), fill(peek(scales + i * size, one), one)
        along, common = fill(peek(sums + i * size, one), one), fill(peek(others + i * size, one), one)
        for v in range(vectors):
            at, inside = v * VECTOR, norm.channels - v * lanes
            value = mul(sub(load_lanes(x + i * pixel + at, inside, one), mean), scale)
            grad = load_lanes(wanted.first + i * wanted.row + at, inside, one)
            grad = madd(grad, load_lanes(weight + at, inside, one), madd(value, along, common))
            store_lanes(dx + i * step + at, mul(grad, scale), inside, one)


@compiled
@no_type_check
def norm_back_tasks(
    one, tasks, norm, pixels, weights, x, gate, weight, bias, sink, dx, dgate, gradients, scratch
):  # fmt: skip
    """The gradients of some tasks: of x and the gate's maps; by task those of weight, bias and the matrices."""
    size, lanes, none = width(one), VECTOR // width(one), Matrix(0, 0, 0)
    vectors = (norm.channels + lanes - 1) // lanes
    means, scales, sums, others = scratch, scratch + VECTOR, scratch + 2 * VECTOR, scratch + (2 + lanes) * VECTOR
    table, row = others + lanes * VECTOR, vectors * VECTOR
    wanted = Matrix(table + 2 * row, row, size)
    gate_room, dgate_room = (
        Matrix(below(wanted, HERD).first, row, size),
        Matrix(below(wanted, 2 * HERD).first, row, size),
    )
    values = Matrix(below(wanted, 3 * HERD).first, row, size)
    clear(sums, 2 * lanes, one)
    for task in range(tasks[0], tasks[1]):
        clear(table, 2 * vectors, one)
        own = own_sums(gradients, task)
        for start in range(task * SPAN, min((task + 1) * SPAN, pixels), HERD):
            herd = min(HERD, pixels - start)
            gates, asked = bring_gates(gate, start, herd, gate_room, one), pixels_of(sink.maps, start, one)
            dgates, turned = pixels_of(dgate, start, one), Matrix(asked.first, size, asked.row)
            if gate.inputs:
                dgates = dgate_room
            if sink.inputs:
                right = Matrix(sink.weight, sink.inputs * size, size)
                multiply(herd, sink.inputs, sink.outputs, asked, right, none, wanted, one)
                asked = wanted
            source = pixels_of(x, start, one)
            for first in range(0, herd, lanes):
                count, here = min(lanes, herd - first), below(source, first)
                load_statistics(norm, here.first, here.row, count, means, scales, sums, one)
                grads = below(asked, first)
                if gates.first or (weights and sink.inputs):
                    grads = below(wanted, first)
                    for i in range(count):
                        mean, scale = fill(peek(means + i * size, one), one), fill(peek(scales + i * size, one), one)
                        through_gate(
                            norm, below(here, i).first, below(gates, first + i).first, below(asked, first + i).first,
                            below(dgates, first + i).first, below(grads, i).first,
                            below(values, first + i).first if weights and sink.inputs else 0,
                            mean, scale, weight, bias, one,
                        )  # fmt: skip
                target = dx.first + (start + first) * dx.pixel
                through_norm(
                    norm, here.first, here.row, count, grads, weight, target, dx.pixel, table, means, scales, sums,
                    others, one,
                )  # fmt: skip
            if sink.inputs and weights:
                total = Matrix(own.output, sink.inputs * size, size)
                multiply(sink.outputs, sink.inputs, herd, turned, values, total, total, one)
            if gate.inputs:
                right = Matrix(gate.weight, gate.inputs * size, size)
                multiply(herd, gate.inputs, gate.outputs, dgates, right, none, pixels_of(dgate, start, one), one)
            if gate.inputs and weights:
                total, turned = Matrix(own.projection, gate.inputs * size, size), Matrix(dgates.first, size, dgates.row)
                multiply(gate.outputs, gate.inputs, herd, turned, pixels_of(gate.maps, start, one), total, total, one)
        for v in range(vectors):
            at, inside = v * VECTOR, norm.channels - v * lanes
            store_lanes(own.weight + at, load(table + at, one), inside, one)
            store_lanes(own.bias + at, load(table + row + at, one), inside, one)


# --- gains for the frequencies of patches -----------------------------------------------------------------------------


@compiled
@no_type_check
def hartley(at, stride, one):
    """Eight lane vectors by their discrete Hartley transform, sum_n x[n] (cos + sin)(2 pi k n / 8)."""
    half = fill(0.5**0.5, one)
    x0, x4 = load(at, one), load(at + 4 * stride, one)
    x2, x6 = load(at + 2 * stride, one), load(at + 6 * stride, one)
    x1, x5 = load(at + stride, one), load(at + 5 * stride, one)
    x3, x7 = load(at + 3 * stride, one), load(at + 7 * stride, one)
    even0, even1 = add(add(x0, x4), add(x2, x6)), add(sub(x0, x4), sub(x2, x6))
    even2, even3 = sub(add(x0, x4), add(x2, x6)), sub(sub(x0, x4), sub(x2, x6))
    odd0, odd1 = add(add(x1, x5), add(x3, x7)), add(sub(x1, x5), sub(x3, x7))
    odd2, odd3 = sub(add(x1, x5), add(x3, x7)), sub(sub(x1, x5), sub(x3, x7))
    odd1, odd3 = mul(add(odd1, odd3), half), mul(sub(odd1, odd3), half)
    store(at, add(even0, odd0))
    store(at + stride, add(even1, odd1))
    store(at + 2 * stride, add(even2, odd2))
    store(at + 3 * stride, add(even3, odd3))
    store(at + 4 * stride, sub(even0, odd0))
    store(at + 5 * stride, sub(even1, odd1))
    store(at + 6 * stride, sub(even2, odd2))
    store(at + 7 * stride, sub(even3, odd3))


@compiled
@no_type_check
def spectrum(patch, one):
    """An 8 x 8 patch of lane vectors by its two-dimensional Hartley transform; done twice it gives 64 times the patch.

    Rows and columns transformed in turn give products of waves; four of them make one wave that runs in any direction:
    2 cas(a + b) = cas a cas b + cas a cas -b + cas -a cas b - cas -a cas -b.
    """
    for i in range(8):
        hartley(patch + i * 8 * VECTOR, VECTOR, one)
    for i in range(8):
        hartley(patch + i * VECTOR, 8 * VECTOR, one)
    for k in range(1, 4):
        for j in range(1, 4):
            down, up = patch + 8 * k * VECTOR, patch + 8 * (8 - k) * VECTOR
            a, b = load(down + j * VECTOR, one), load(down + (8 - j) * VECTOR, one)
            c, d = load(up + j * VECTOR, one), load(up + (8 - j) * VECTOR, one)
            half = mul(add(add(a, b), add(c, d)), fill(0.5, one))
            store(down + j * VECTOR, sub(half, d))
            store(down + (8 - j) * VECTOR, sub(half, c))
            store(up + j * VECTOR, sub(half, b))
            store(up + (8 - j) * VECTOR, sub(half, a))


@compiled
@no_type_check
def bring_patch(patch, maps, corner, inside, one):
    for i in range(8):
        bring(patch + 8 * i * VECTOR, corner + i * maps.row, maps.pixel, 8, inside, one)


@compiled
@no_type_check
def filter_tasks(one, tasks, size, x, gain, y, scratch):
    """Some tasks' rows of patches, their spectra multiplied by the gain `64 c`, which includes the factor 1 / 64."""
    lanes = VECTOR // width(one)
    for task in range(tasks[0], tasks[1]):
        picture, row = divmod(task, size.h // 8)
        for column in range(0, size.w, 8):
            for channel in range(0, size.channels, lanes):
                inside = size.channels - channel
                bring_patch(scratch, x, row_of(x, picture, 8 * row, channel, one) + column * x.pixel, inside, one)
                spectrum(scratch, one)
                for k in range(64):
                    factor = load_part(gain + (k * size.channels + channel) * width(one), inside, one)
                    store(scratch + k * VECTOR, mul(load(scratch + k * VECTOR, one), factor))
                spectrum(scratch, one)
                target = row_of(y, picture, 8 * row, channel, one) + column * y.pixel
                for k in range(64):
                    i, j = divmod(k, 8)
                    store_part(target + i * y.row + j * y.pixel, load(scratch + k * VECTOR, one), inside)


@compiled
@no_type_check
def gain_tasks(one, tasks, size, x, dy, dgain, scratch):
    """What some tasks, rows of patches, add to the gradient of the gain: products of the spectra of x and dy."""
    lanes = VECTOR // width(one)
    for task in range(tasks[0], tasks[1]):
        picture, row = divmod(task, size.h // 8)
        for channel in range(0, size.channels, lanes):
            inside, sums = size.channels - channel, scratch + 128 * VECTOR
            clear(sums, 64, one)
            for column in range(0, size.w, 8):
                other = scratch + 64 * VECTOR
                bring_patch(scratch, x, row_of(x, picture, 8 * row, channel, one) + column * x.pixel, inside, one)
                bring_patch(other, dy, row_of(dy, picture, 8 * row, channel, one) + column * dy.pixel, inside, one)
                spectrum(scratch, one)
                spectrum(other, one)
                for k in range(64):
                    at = k * VECTOR
                    store(sums + at, madd(load(scratch + at, one), load(other + at, one), load(sums + at, one)))
            for k in range(64):
                place = dgain + ((task * 64 + k) * size.channels + channel) * width(one)
                store_part(place, load(sums + k * VECTOR, one), inside)


# --- from and to tensors ----------------------------------------------------------------------------------------------


@no_type_check
def _maps(x):
    """Where `x`, `b h w c` with the channels of a pixel side by side, lies in memory."""
    size = x.element_size()
    return Maps(x.data_ptr(), *(stride * size for stride in x.stride()[:3]))


@no_type_check
def _size(x, channels):
    """The extent of `x`, as many channels assumed."""
    b, h, w, _ = x.shape
    return Size(b, h, w, channels, STRIP if b > 1 else STRIP // 2)


@no_type_check
def _readable(x):
    return x if x.stride(-1) == 1 else x.contiguous()


@no_type_check
def _kernel(weight, w):
    """The kernel's reach, the tuple that tells its columns, and its lines' number of vectors."""
    rows, columns = weight.shape[-2:]
    vectors = ceil(w / RUN) * RUN + columns - 1
    return Kernel(rows, columns // 2, vectors * VECTOR), (0,) * columns


@no_type_check
def _end(x, matrix, weight, turned):
    """Maps at one end of a kernel, the matrix there as it is wanted, turned or not, and the tensors that hold them."""
    x = _readable(x)
    if matrix is None:
        return End(_maps(x), 0, 0, 0, 0), x
    as_it_is, across = matrix.contiguous() if weight else None, matrix.T.contiguous() if turned else None
    outputs, inputs = matrix.shape
    return End(_maps(x), inputs, outputs, _address(as_it_is), _address(across)), (x, as_it_is, across)


@no_type_check
def _vectors(weight, size, kernel, copies, lines, one):
    """How many lane vectors all channels' taps and rings take, so many times, and some lines."""
    tiles = (1 + (size.channels != len(weight))) * ceil(size.channels * one.itemsize / VECTOR)
    line = kernel.line // VECTOR
    return tiles * (copies[0] * (weight[0].numel() + 1) + copies[1] * kernel.rows * line) + lines * line


@no_type_check
def depthwise(x, projection, weight, bias, then, output):
    """`b h w c` maps, times a matrix or as they are, convolved with zeros around them, activated, times a matrix."""
    b, h, w, _ = x.shape
    size, one = _size(x, len(weight) // (2 if then == GATED else 1)), _like(x)
    y = x.new_empty(b, h, w, size.channels if output is None else len(output))
    (source, held), (sink, also_held) = _end(x, projection, False, True), _end(y, output, False, True)
    kernel, columns = _kernel(weight, w)
    taps, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    own, start = taps.data_ptr(), _address(bias)
    _share_out(
        b * ceil(h / size.strip), _vectors(weight, size, kernel, (1, 1), 2, one), b * h * w * weight.numel(),
        lambda some, scratch: depthwise_tasks(
            columns, (0,) * RUN, one, some, then, size, kernel, source, own, start, sink, scratch
        ),
    )  # fmt: skip
    del held, also_held
    return y


@no_type_check
def _room_for_sums(x, tasks, *parameters):
    """Zeros for the gradients of some parameters, by task, and the address of each one's first; None has none."""
    counts = [0 if p is None else p.numel() for p in parameters]
    room = x.new_zeros(tasks, sum(counts))
    ends = list(accumulate(counts, initial=0))
    return room, [room.data_ptr() + start * x.element_size() for start in ends[:-1]]


@no_type_check
def _summed(room, projection, weight, bias, output):
    """The gradients of the parameters from those by task; empty for None.

    Those of weight and bias stand as one table, a tap of all channels after the other and the bias last. It is summed
    apart from the matrices: torch adds the last columns of a tensor in another order than the rest, so that what
    stands beside a column would change its last digit.
    """
    before, taps, channels, after = (0 if p is None else p.numel() for p in (projection, weight, bias, output))
    dprojection, table, doutput = (part.sum(0) for part in room.split([before, taps + channels, after], dim=1))
    dweight, dbias = table.split([taps, channels])
    return [
        dprojection if projection is None else dprojection.view(projection.shape),
        dweight if weight is None else dweight.view(-1, channels).T.reshape(weight.shape),
        dbias,
        doutput if output is None else doutput.view(output.shape),
    ]


@no_type_check
def depthwise_backward(dy, x, projection, weight, bias, then, output, weights):
    """The gradients of x, and of projection, weight, bias and output, which are empty unless `weights`."""
    b, h, w, c = x.shape
    size, one = _size(x, len(weight) // (2 if then == GATED else 1)), _like(x)
    (source, held), (sink, also_held) = _end(x, projection, True, True), _end(dy, output, True, False)
    (kernel, columns), tasks = _kernel(weight, w), b * ceil(h / size.strip)
    taps, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    dx, target = x.new_empty(b, h, w, c), weight[:, 0, 0, 0] if bias is None else bias
    parameters = (projection, weight, target, output) if weights else (None,) * 4
    room, places = _room_for_sums(x, tasks, *parameters)
    own, start, results = taps.data_ptr(), _address(bias), _maps(dx)
    sums = Sums(*places, room.stride(0) * x.element_size())
    _share_out(
        tasks, _vectors(weight, size, kernel, (3, 2), 3, one), b * h * w * weight.numel(),
        lambda some, scratch: depthwise_back_tasks(
            columns, (0,) * RUN, (0,) * PARTS, (0,) * PARTS * len(columns), one, some, then, weights, size, kernel,
            source, own, start, sink, results, sums, scratch,
        ),
    )  # fmt: skip
    del held, also_held
    return dx, *_summed(room, *parameters)


@no_type_check
def _pixels(x):
    """`x` as one row of pixels at equal distances, copied if it is none."""
    return _readable(x.reshape(1, 1, -1, x.shape[-1]))


NO_END = End(Maps(0, 0, 0, 0), 0, 0, 0, 0)


@no_type_check
def norm(x, gate, projection, weight, bias, eps, centred, output):
    """The last axis of x normalised, scaled and shifted, times the GELU of the gate, times a matrix, where given."""
    y = x.new_empty(*x.shape[:-1], x.shape[-1] if output is None else len(output))
    held, weight, bias = _pixels(x), weight.contiguous(), bias.contiguous()
    (source, gates), (sink, results) = (
        (NO_END, None) if gate is None else _end(_pixels(gate), projection, False, True),
        _end(_pixels(y), output, False, True),
    )
    pixels, one, how, maps = held.shape[2], _like(x), Norm(x.shape[-1], centred, eps), _maps(held)
    scale, shift, lanes = weight.data_ptr(), bias.data_ptr(), VECTOR // x.element_size()
    _share_out(
        ceil(pixels / SPAN), 2 + lanes + 2 * HERD * ceil(x.shape[-1] / lanes), 8 * x.numel(),
        lambda some, scratch: norm_tasks(one, some, how, pixels, maps, source, scale, shift, sink, scratch),
    )  # fmt: skip
    del gates, results
    return y


@no_type_check
def norm_backward(dy, x, gate, projection, weight, bias, eps, centred, output, weights):
    """The gradients of x, the gate, projection, weight, bias and output; those of matrices nothing unless `weights`."""
    dx, dgate = x.new_empty(x.shape), x.new_empty(0 if gate is None else gate.shape)
    held, weight, bias = _pixels(x), weight.contiguous(), bias.contiguous()
    (source, gates), (sink, asked) = (
        (NO_END, None) if gate is None else _end(_pixels(gate), projection, True, True),
        _end(_pixels(dy), output, True, False),
    )
    pixels, one, how, maps = held.shape[2], _like(x), Norm(x.shape[-1], centred, eps), _maps(held)
    tasks, lanes = ceil(pixels / SPAN), VECTOR // x.element_size()
    vectors = ceil(x.shape[-1] / lanes)
    matrices = (projection, output) if weights else (None, None)
    room, places = _room_for_sums(x, tasks, matrices[0], weight, bias, matrices[1])
    sums, scale, shift = Sums(*places, room.stride(0) * x.element_size()), weight.data_ptr(), bias.data_ptr()
    target, dgates = _maps(_pixels(dx)), NO_END.maps if gate is None else _maps(_pixels(dgate))
    _share_out(
        tasks, 2 + 2 * lanes + (2 + 4 * HERD) * vectors, 16 * x.numel(),
        lambda some, scratch: norm_back_tasks(
            one, some, how, pixels, weights, maps, source, scale, shift, sink, target, dgates, sums, scratch
        ),
    )  # fmt: skip
    del gates, asked
    dprojection, dweight, dbias, doutput = _summed(room, matrices[0], weight, bias, matrices[1])
    return dx, dgate, dprojection, dweight, dbias, doutput


@no_type_check
def filter_patches(x, gain):
    """`b h w c` maps, the spectra of their 8 x 8 patches multiplied by the gain `64 c`."""
    x, gain = _readable(x), gain / 64
    b, h, w, c = x.shape
    y = x.new_empty(b, h, w, c)
    size, one, source, factors, target = _size(x, c), _like(x), _maps(x), gain.data_ptr(), _maps(y)
    _share_out(
        b * h // 8, 64, 16 * x.numel(),
        lambda some, scratch: filter_tasks(one, some, size, source, factors, target, scratch),
    )  # fmt: skip
    return y


@no_type_check
def filter_patches_gain(dy, x):
    """The gradient of the gain."""
    x, dy = _readable(x), _readable(dy)
    b, h, _, c = x.shape
    dgain = x.new_empty(b * h // 8, 64, c)
    size, one, source, asked, target = _size(x, c), _like(x), _maps(x), _maps(dy), dgain.data_ptr()
    _share_out(
        b * h // 8, 192, 16 * x.numel(),
        lambda some, scratch: gain_tasks(one, some, size, source, asked, target, scratch),
    )  # fmt: skip
    return dgain.sum(0) / 64


@no_type_check
def _matrix(x):
    """Where the pixels of `x` lie in memory; no matrix for None."""
    return Matrix(0, 0, 0) if x is None else Matrix(x.data_ptr(), x.stride(-2) * x.element_size(), x.element_size())


@no_type_check
def _product(x, weight, bias):
    """Pixels times the weight `inputs outputs`, plus the bias if there is one."""
    (inputs, outputs), one = weight.shape, _like(x)
    y = x.new_empty(*x.shape[:-1], outputs)
    held = [_pixels(x), weight.contiguous(), None if bias is None else bias.expand(1, outputs), y.view(-1, outputs)]
    maps, pixels = [_matrix(t) for t in held], held[0].shape[2]
    maps[2] = maps[2]._replace(row=0)  # the same for every pixel
    _share_out(
        ceil(pixels / PANEL), 0, pixels * inputs * outputs // 16,
        lambda some, _: linear_tasks(one, some, pixels, inputs, outputs, *maps),
    )  # fmt: skip
    return y


@no_type_check
def linear(x, weight, bias):
    """The last axis of x times `weight` transposed, plus the bias if there is one."""
    return _product(x, weight.T, bias)


@no_type_check
def _correlation(x, y):
    """The sum over pixels of the products of y's channels, rows, with x's channels, columns."""
    held, one = [_pixels(x), _pixels(y)], _like(x)
    pixels, rows, columns = held[0].shape[2], y.shape[-1], x.shape[-1]
    tasks = ceil(pixels / SHEAF)
    parts = x.new_empty(tasks, rows, columns)
    maps = [_matrix(t) for t in (*held, parts)]
    _share_out(
        tasks, 0, pixels * rows * columns // 16,
        lambda some, _: correlation_tasks(one, some, pixels, columns, rows, *maps),
    )  # fmt: skip
    return parts.sum(0) if tasks > 1 else parts[0]


@no_type_check
def linear_backward(dy, x, weight, inputs, weights):
    """The gradients of x and the weight, each where wanted and otherwise empty."""
    dx, dweight = _product(dy, weight, None) if inputs else x.new_empty(0), x.new_empty(0)
    if weights and len(weight.T) < VECTOR // x.element_size():
        dweight = _correlation(dy, x).T  # the longer side along the lanes
    elif weights:
        dweight = _correlation(x, dy)
    return dx, dweight
