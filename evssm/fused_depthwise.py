"""The kernel of `evssm.fused.depthwise`: a few rows are kept in a ring, so that no whole map lies between its steps.

A line is one lane vector of channels along a row, with zeros at both ends for the kernel to reach into. A ring holds as
many lines as the kernel has rows; the line of row y is entry y modulo that number.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from math import ceil
from typing import NamedTuple, no_type_check

from evssm.compiled import compiled
from evssm.fused_ends import Sums, end_of, own_sums, room_for_sums, summed
from evssm.fused_linear import multiply, multiply_apart
from evssm.kernel_tasks import address_of, like, share_out
from evssm.lane_functions import clear, gelu, gelu_slope, store_part
from evssm.lanes import VECTOR, add, fill, load, madd, mul, peek, poke, put, registers, store, take, width
from evssm.map_memory import Matrix, add_rows, bring, maps_of, readable, row_of, size_of

PLAIN, GELU, GATED = 0, 1, 2  # what follows a depth-wise convolution; GATED: gelu(first half) * second half
RUN = 8  # neighbouring pixels that are convolved at a time
PARTS = 4  # sums that a tap's gradient is added up in, pixels taking turns


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


@compiled
@no_type_check
def bring_rows(rings, y, source, picture, size, halves, kernel, one):
    """Row y of all maps to convolve into their rings; zeros where there is no such row."""
    lanes, maps, ring = VECTOR // width(one), source.maps, kernel.rows * kernel.line
    tiles, first = (size.channels + lanes - 1) // lanes, line_of(rings, y, kernel) + kernel.before * VECTOR
    for half in range(halves):
        line = first + half * ring
        if y < 0 or y >= size.h:
            for number in range(tiles):
                clear(line + number * halves * ring, size.w, one)
        elif source.inputs:
            pixels = Matrix(row_of(maps, picture, y, 0, one), maps.pixel, width(one))
            columns = half * size.channels * width(one)
            weight = Matrix(source.turned + columns, source.outputs * width(one), width(one))
            target, none = Matrix(line, VECTOR, width(one)), Matrix(0, 0, 0)
            multiply_apart(
                size.w, size.channels, source.inputs, pixels, weight, none, target, halves * ring, one
            )  # fmt: skip
        else:
            for number in range(tiles):
                channel, inside = half * size.channels + number * lanes, min(lanes, size.channels - number * lanes)
                at = row_of(maps, picture, y, channel, one)
                bring(line + number * halves * ring, at, maps.pixel, size.w, inside, one)


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
def ask_rows(lines, y, sink, picture, size, kernel, one):
    """The gradients of the activated lines, one behind the other, from row y of the output's."""
    number, maps, lanes = width(one), sink.maps, VECTOR // width(one)
    if sink.inputs:
        asked = Matrix(row_of(maps, picture, y, 0, one), maps.pixel, number)
        weight, target = Matrix(sink.weight, sink.inputs * number, number), Matrix(lines, VECTOR, number)
        none = Matrix(0, 0, 0)
        multiply_apart(size.w, size.channels, sink.outputs, asked, weight, none, target, kernel.line, one)
    else:
        for channel in range(0, size.channels, lanes):
            at, inside = row_of(maps, picture, y, channel, one), min(lanes, size.channels - channel)
            bring(lines + channel // lanes * kernel.line, at, maps.pixel, size.w, inside, one)


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
            bring_rows(rings, row + reach, source, picture, size, halves, kernel, one)
            for number in range(tiles):
                for half in range(halves):
                    tile = tile_of(number, half, halves, size, count, kernel, scratch, rings, one)
                    if row == top - 2 * reach:
                        load_taps(weight, bias, tile.channel, tile.inside, tile.taps, count, one)
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


@compiled
@no_type_check
def depthwise_back_tasks(
    columns, run, parts, pairs, one, tasks, then, weights, size, kernel, source, weight, bias, sink, dx, also,
    gradients, scratch,
):  # fmt: skip
    """The gradients of the input in the rows that some tasks stand for; by task those of the parameters, if wanted.

    The maps `also`, if there are any, are added to the former.
    """
    lanes, halves, reach = VECTOR // width(one), 2 if then == GATED else 1, kernel.rows // 2
    tiles, count = (size.channels + lanes - 1) // lanes, kernel.rows * len(columns) + 1
    table_bytes, ring_bytes = halves * tiles * count * VECTOR, halves * tiles * kernel.rows * kernel.line
    sums, rings = scratch + 2 * table_bytes, scratch + 3 * table_bytes
    grads, totals = rings + ring_bytes, rings + 2 * ring_bytes
    lines = totals + halves * kernel.line
    clear(rings, 2 * ring_bytes // VECTOR, one)
    for task in range(tasks[0], tasks[1]):
        (picture, top, bottom), own = strip_of(task, size), own_sums(gradients, task)
        clear(sums, table_bytes // VECTOR, one)
        for row in range(top - 3 * reach, bottom + reach):
            bring_rows(rings, row + reach, source, picture, size, halves, kernel, one)
            if row >= top - reach and 0 <= row < size.h:
                ask_rows(lines, row, sink, picture, size, kernel, one)
            for number in range(tiles):
                for half in range(halves):
                    tile = tile_of(number, half, halves, size, count, kernel, scratch, rings, one)
                    if row == top - 3 * reach:
                        load_taps(weight, bias, tile.channel, tile.inside, tile.taps, count, one)
                        turn(tile.taps, tile.taps + table_bytes, count, one)
                    if row >= top - reach and (then != PLAIN or sink.inputs):
                        total = totals + half * kernel.line
                        convolve(columns, run, tile.ring, row, tile.taps, size.w, total, kernel, one)
                if row < top - reach:
                    continue
                ring = grads + halves * number * kernel.rows * kernel.line
                grad = line_of(ring, row, kernel) + kernel.before * VECTOR
                other = grad + (halves - 1) * kernel.rows * kernel.line
                if 0 <= row < size.h:
                    inside, line = min(lanes, size.channels - number * lanes), lines + number * kernel.line
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
            if also.first and row >= top + reach:
                target = Matrix(row_of(dx, picture, row - reach, 0, one), dx.pixel, width(one))
                other = Matrix(row_of(also, picture, row - reach, 0, one), also.pixel, width(one))
                add_rows(target, other, size.w, source.inputs or halves * size.channels, one)
        if weights:
            store_table(tiles, halves, size, count, kernel, sums, own, one)


@no_type_check
def kernel_of(weight, w):
    """The kernel's reach, the tuple that tells its columns, and its lines' number of vectors."""
    rows, columns = weight.shape[-2:]
    vectors = ceil(w / RUN) * RUN + columns - 1
    return Kernel(rows, columns // 2, vectors * VECTOR), (0,) * columns


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
    size, one = size_of(x, len(weight) // (2 if then == GATED else 1)), like(x)
    y = x.new_empty(b, h, w, size.channels if output is None else len(output))
    (source, held), (sink, also_held) = end_of(x, projection, False, True), end_of(y, output, False, True)
    kernel, columns = kernel_of(weight, w)
    taps, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    own, start = taps.data_ptr(), address_of(bias)
    share_out(
        b * ceil(h / size.strip), _vectors(weight, size, kernel, (1, 1), 2, one), b * h * w * weight.numel(),
        lambda some, scratch: depthwise_tasks(
            columns, (0,) * RUN, one, some, then, size, kernel, source, own, start, sink, scratch
        ),
    )  # fmt: skip
    del held, also_held
    return y


@no_type_check
def depthwise_backward(dy, x, projection, weight, bias, then, output, weights, also=None):
    """The gradients of x, plus `also`, and of projection, weight, bias and output, which are empty unless `weights`."""
    b, h, w, c = x.shape
    size, one = size_of(x, len(weight) // (2 if then == GATED else 1)), like(x)
    (source, held), (sink, also_held) = end_of(x, projection, True, True), end_of(dy, output, True, False)
    (kernel, columns), tasks = kernel_of(weight, w), b * ceil(h / size.strip)
    taps, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    dx, target = x.new_empty(b, h, w, c), weight[:, 0, 0, 0] if bias is None else bias
    parameters = (projection, weight, target, output) if weights else (None,) * 4
    room, places = room_for_sums(x, tasks, *parameters)
    more = None if also is None else readable(also)
    lines = ceil(size.channels * one.itemsize / VECTOR)
    own, start, results, others = taps.data_ptr(), address_of(bias), maps_of(dx), maps_of(more)
    sums = Sums(*places, room.stride(0) * x.element_size())
    share_out(
        tasks, _vectors(weight, size, kernel, (3, 2), 2 + lines, one), b * h * w * weight.numel(),
        lambda some, scratch: depthwise_back_tasks(
            columns, (0,) * RUN, (0,) * PARTS, (0,) * PARTS * len(columns), one, some, then, weights, size, kernel,
            source, own, start, sink, results, others, sums, scratch,
        ),
    )  # fmt: skip
    del held, also_held, more
    return dx, *summed(room, *parameters)
