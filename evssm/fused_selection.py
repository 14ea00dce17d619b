"""The kernels of `evssm.scan_selected`: what selects a scan's parameters, one piece of the sequence at a time.

A piece stays in the first cache from the product with the matrix to the end of the convolution. A *line* holds one lane
vector of its channels, step after step, with as many steps on either side as the convolution reaches; the last ones of
a piece are the first ones of the next. The channels come in two parts, each of which fills vectors of its own: those
that the step sizes are made of, and those of B and C.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from math import ceil
from typing import NamedTuple, no_type_check

from evssm import scan_numba
from evssm.compiled import compiled
from evssm.fused_depthwise import PARTS, RUN, convolve, kernel_of, load_taps, turn
from evssm.fused_ends import Sums, own_sums, room_for_sums, summed
from evssm.fused_linear import multiply
from evssm.kernel_tasks import like, share_out
from evssm.lane_functions import clear, load_part, store_lanes, store_part
from evssm.lanes import VECTOR, add, fill, load, madd, put, registers, store, take, width
from evssm.map_memory import Maps, Matrix, add_rows, bring, readable, row_of

PIECE = 64  # steps; a multiple of RUN and of PARTS
STRETCH = 4096  # steps of one task, where no sums have to be taken over a sequence; a multiple of PIECE


@no_type_check
class Cut(NamedTuple):
    """How a selection is cut up."""

    steps: int
    inputs: int  # channels of u
    rank: int  # channels of the first part
    outputs: int  # channels of both
    stretch: int  # steps of a task


@no_type_check
class Piece(NamedTuple):
    """Some steps of a sequence; `fresh` where nothing of the one before is in the lines."""

    picture: int
    start: int
    steps: int
    fresh: bool


@no_type_check
class Tile(NamedTuple):
    """One lane vector of channels: the first one, the first one within its part, and how many they are."""

    channel: int
    within: int
    inside: int


@compiled
@no_type_check
def tiles_of(cut, one):
    """Lane vectors of the first part, and of both."""
    lanes = VECTOR // width(one)
    first = (cut.rank + lanes - 1) // lanes
    return first, first + (cut.outputs - cut.rank + lanes - 1) // lanes


@compiled
@no_type_check
def tile_of(number, cut, one):
    """The channels of a lane vector."""
    lanes, (first, _) = VECTOR // width(one), tiles_of(cut, one)
    if number < first:
        return Tile(number * lanes, number * lanes, min(lanes, cut.rank - number * lanes))
    within = (number - first) * lanes
    return Tile(cut.rank + within, within, min(lanes, cut.outputs - cut.rank - within))


@compiled
@no_type_check
def stretch_of(task, cut):
    """What a task works on: the picture, the first step, and the one after the last."""
    picture, number = divmod(task, (cut.steps + cut.stretch - 1) // cut.stretch)
    return picture, number * cut.stretch, min((number + 1) * cut.stretch, cut.steps)


@compiled
@no_type_check
def steps_of(maps, picture, start, channel, one):
    """The steps of one sequence from `start` on, one per row."""
    return Matrix(row_of(maps, picture, 0, channel, one) + start * maps.pixel, maps.pixel, width(one))


@compiled
@no_type_check
def move_on(line, piece, cut, reach, one):
    """Makes room in a line for a piece; says which steps are to be brought, and where the first of them goes.

    The end of the piece before moves to the front, and steps outside the sequence become zeros.
    """
    first, end = piece.start - reach, piece.start + piece.steps + reach
    begin = first
    if not piece.fresh:
        begin = piece.start + reach
        for i in range(2 * reach):
            store(line + i * VECTOR, load(line + (PIECE + i) * VECTOR, one))
    inner, outer = max(begin, 0), min(end, cut.steps)
    clear(line + (begin - first) * VECTOR, inner - begin, one)
    if end >= cut.steps:  # and what is read beyond, where whole runs of steps are taken
        after = max(inner, outer)
        clear(line + (after - first) * VECTOR, end + RUN - after, one)
    return inner, max(outer - inner, 0), line + (inner - first) * VECTOR


@compiled
@no_type_check
def bring_products(line, piece, tile, cut, reach, u, turned, one):
    """A piece of the products of u with the matrix into a line."""
    first, count, place = move_on(line, piece, cut, reach, one)
    weight = Matrix(turned + tile.channel * width(one), cut.outputs * width(one), width(one))
    target = Matrix(place, VECTOR, width(one))
    multiply(
        count, tile.inside, cut.inputs, steps_of(u, piece.picture, first, 0, one), weight, Matrix(0, 0, 0), target, one
    )


@compiled
@no_type_check
def bring_asked(line, piece, tile, cut, reach, dt, dB, dC, one):
    """A piece of what is asked of the results into a line."""
    first, count, place = move_on(line, piece, cut, reach, one)
    if tile.channel < cut.rank:
        source = steps_of(dt, piece.picture, first, tile.within, one)
        bring(place, source.first, source.row, count, tile.inside, one)
        return
    states = (cut.outputs - cut.rank) // 2
    of_B = min(max(states - tile.within, 0), tile.inside)
    of_C, half = tile.inside - of_B, of_B * width(one)
    b = steps_of(dB, piece.picture, first, tile.within, one)
    c = steps_of(dC, piece.picture, first, tile.within + of_B - states, one)
    for i in range(count):
        at = place + i * VECTOR
        store(at, fill(0.0, one))
        store_part(at, load_part(b.first + i * b.row, of_B, one), of_B)
        store_part(at + half, load_part(c.first + i * c.row, of_C, one), of_C)


@compiled
@no_type_check
def select_tasks(columns, run, one, tasks, cut, kernel, u, turned, weight, bias, t, BC, scratch):
    """The parameters of the steps that some tasks stand for."""
    reach, taps_of = len(columns) // 2, (len(columns) + 1) * VECTOR
    first_part, tiles = tiles_of(cut, one)
    lines = scratch + tiles * taps_of
    total = lines + tiles * kernel.line
    clear(lines, tiles * kernel.line // VECTOR, one)
    for number in range(tiles):
        tile = tile_of(number, cut, one)
        load_taps(weight, bias, tile.channel, tile.inside, scratch + number * taps_of, len(columns) + 1, one)
    for task in range(tasks[0], tasks[1]):
        picture, begin, end = stretch_of(task, cut)
        for start in range(begin, end, PIECE):
            piece = Piece(picture, start, min(PIECE, end - start), start == begin)
            for number in range(tiles):
                tile, line = tile_of(number, cut, one), lines + number * kernel.line
                bring_products(line, piece, tile, cut, reach, u, turned, one)
                convolve(columns, run, line, 0, scratch + number * taps_of, piece.steps, total, kernel, one)
                target = steps_of(t if number < first_part else BC, picture, start, tile.within, one)
                for i in range(piece.steps):
                    store_lanes(target.first + i * target.row, load(total + i * VECTOR, one), tile.inside, one)


@compiled
@no_type_check
def add_taps(columns, parts, pairs, line, grad, count, sums, one):
    """A piece's part of the gradients of the taps, pixels taking turns in `sums`, and of the bias behind them."""
    found = registers(pairs, one)
    for k in range(len(pairs)):
        put(found, k, load(sums + k * VECTOR, one))
    total = load(sums + len(pairs) * VECTOR, one)
    for x in range(0, count, len(parts)):
        for i in range(len(parts)):
            asked = load(grad + (x + i) * VECTOR, one)
            total = add(total, asked)
            for k in range(len(columns)):
                at = k * len(parts) + i
                put(found, at, madd(asked, load(line + (x + i + k) * VECTOR, one), take(found, at, one)))
    for k in range(len(pairs)):
        store(sums + k * VECTOR, take(found, k, one))
    store(sums + len(pairs) * VECTOR, total)


@compiled
@no_type_check
def store_taps(columns, parts, sums, tile, cut, own, one):
    """One task's gradients of the taps, one of all channels after the other, and of the bias behind them."""
    for k in range(len(columns) + 1):
        total = fill(0.0, one)
        for i in range(len(parts) if k < len(columns) else 1):
            total = add(load(sums + (k * len(parts) + i) * VECTOR, one), total)
        store_part(own.weight + (k * cut.outputs + tile.channel) * width(one), total, tile.inside)


@compiled
@no_type_check
def select_back_tasks(
    columns, run, parts, pairs, one, tasks, weights, cut, kernel, u, matrix, turned, weight, dt, dB, dC, du, gradients,
    scratch,
):  # fmt: skip
    """The gradients of u in some tasks' steps, added to du; by task those of the parameters, if wanted."""
    size, none, reach = width(one), Matrix(0, 0, 0), len(columns) // 2
    taps_of, sums_of = (len(columns) + 1) * VECTOR, (len(pairs) + 1) * VECTOR
    _, tiles = tiles_of(cut, one)
    back, sums = scratch + tiles * taps_of, scratch + 2 * tiles * taps_of
    lines = sums + tiles * sums_of
    grads, total = lines + tiles * kernel.line, lines + 2 * tiles * kernel.line
    sum_row = (cut.inputs * size + VECTOR - 1) // VECTOR * VECTOR
    found = Matrix(total + kernel.line, sum_row, size)
    clear(lines, 2 * tiles * kernel.line // VECTOR, one)
    for number in range(tiles):
        tile, taps = tile_of(number, cut, one), scratch + number * taps_of
        load_taps(weight, 0, tile.channel, tile.inside, taps, len(columns) + 1, one)
        turn(taps, back + number * taps_of, len(columns) + 1, one)
    for task in range(tasks[0], tasks[1]):
        (picture, begin, end), own = stretch_of(task, cut), own_sums(gradients, task)
        clear(sums, tiles * sums_of // VECTOR, one)
        for start in range(begin, end, PIECE):
            piece = Piece(picture, start, min(PIECE, end - start), start == begin)
            pixels = steps_of(u, picture, start, 0, one)
            for number in range(tiles):
                tile, line, grad = tile_of(number, cut, one), lines + number * kernel.line, grads + number * kernel.line
                bring_asked(grad, piece, tile, cut, reach, dt, dB, dC, one)
                convolve(columns, run, grad, 0, back + number * taps_of, piece.steps, total, kernel, one)
                rows = Matrix(matrix + tile.channel * cut.inputs * size, cut.inputs * size, size)
                multiply(
                    piece.steps, cut.inputs, tile.inside, Matrix(total, VECTOR, size), rows,
                    found if number else none, found, one,
                )  # fmt: skip
                if weights:
                    bring_products(line, piece, tile, cut, reach, u, turned, one)
                    asked = grad + reach * VECTOR
                    add_taps(columns, parts, pairs, line, asked, piece.steps, sums + number * sums_of, one)
                    rows = Matrix(own.projection + tile.channel * cut.inputs * size, rows.row, size)
                    across = Matrix(total, size, VECTOR)
                    multiply(tile.inside, cut.inputs, piece.steps, across, pixels, rows, rows, one)
            add_rows(steps_of(du, picture, start, 0, one), found, piece.steps, cut.inputs, one)
        if weights:
            for number in range(tiles):
                store_taps(columns, parts, sums + number * sums_of, tile_of(number, cut, one), cut, own, one)


@no_type_check
def _sequences(x):
    """Where `b l c` sequences lie in memory."""
    size = x.element_size()
    return Maps(x.data_ptr(), x.stride(0) * size, 0, x.stride(1) * size)


@no_type_check
def _room(cut, kernel, one, per_tile, lines):
    """Lane vectors that a task works with: so many, and lines, of each tile; one line; and a piece of u's channels."""
    lanes, line = VECTOR // one.itemsize, kernel.line // VECTOR
    tiles = ceil(cut.rank / lanes) + ceil((cut.outputs - cut.rank) / lanes)
    return tiles * (per_tile + lines * line) + line + PIECE * ceil(cut.inputs / lanes)


@no_type_check
def select(u, projection, weight, bias, rank):
    """Of `b l d` sequences the products with the matrix, convolved: the first `rank` channels, and the others."""
    u, turned = readable(u), projection.T.contiguous()
    (b, l, d), outputs, one = u.shape, len(projection), like(u)
    t, BC = u.new_empty(b, l, rank), u.new_empty(b, l, outputs - rank)
    cut, (kernel, columns) = Cut(l, d, rank, outputs, STRETCH), kernel_of(weight[:, :, None], PIECE + RUN)
    taps, shift = weight.contiguous(), bias.contiguous()
    source, targets = _sequences(u), (_sequences(t), _sequences(BC))
    addresses = turned.data_ptr(), taps.data_ptr(), shift.data_ptr()
    share_out(
        b * ceil(l / cut.stretch), _room(cut, kernel, one, len(columns) + 1, 1), u.numel() * outputs // 16,
        lambda some, scratch: select_tasks(
            columns, (0,) * RUN, one, some, cut, kernel, source, *addresses, *targets, scratch
        ),
    )  # fmt: skip
    return t, BC


@no_type_check
def select_backward(dt, dB, dC, du, u, projection, weight, bias, weights):
    """Adds the gradient of u to `du`; those of projection, weight and bias, which are empty unless `weights`."""
    held = [*(readable(x) for x in (u, dt, dB, dC)), du]
    matrix, turned, taps = projection.contiguous(), projection.T.contiguous(), weight.contiguous()
    (b, l, d), outputs, one = u.shape, len(projection), like(u)
    cut = Cut(l, d, dt.shape[-1], outputs, l if weights else STRETCH)
    (kernel, columns), tasks = kernel_of(weight[:, :, None], PIECE + RUN), b * ceil(l / cut.stretch)
    parameters = (projection, weight, bias, None) if weights else (None,) * 4
    room, places = room_for_sums(u, tasks, *parameters)
    sums, pairs = Sums(*places, room.stride(0) * u.element_size()), (0,) * PARTS * len(columns)
    source, *asked = map(_sequences, held)
    addresses = matrix.data_ptr(), turned.data_ptr(), taps.data_ptr()
    vectors = _room(cut, kernel, one, 2 * (len(columns) + 1) + len(pairs) + 1, 2)
    share_out(
        tasks, vectors, u.numel() * outputs // 16,
        lambda some, scratch: select_back_tasks(
            columns, (0,) * RUN, (0,) * PARTS, pairs, one, some, weights, cut, kernel, source, *addresses, *asked,
            sums, scratch,
        ),
    )  # fmt: skip
    return tuple(summed(room, *parameters)[:3])


@no_type_check
def scan_steps(u, t, steps, A, BC, D, bias, keep):
    """The scan whose step sizes are the softplus of `t` times `steps` plus the bias, and the states it keeps."""
    return scan_numba.forward(u, t, A, *_halves(BC), D, bias, True, keep, steps)


@no_type_check
def scan_steps_backward(dy, u, t, steps, A, BC, D, bias, borders):
    """The gradients of u, the step sizes before bias and softplus, A, B, C, D and the bias."""
    du, ddelta, dA, dB, dC, dD, dbias = scan_numba.backward(dy, u, t, A, *_halves(BC), D, bias, borders, True, steps)
    return du, ddelta, dA, dB[:, :, 0], dC[:, :, 0], dD, dbias


@no_type_check
def _halves(BC):
    """B and C, of one group."""
    return BC[:, :, None].chunk(2, dim=-1)
