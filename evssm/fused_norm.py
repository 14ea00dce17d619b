"""The kernel of `evssm.fused.normalise`: some pixels at a time, with their gate and the products around them.

As many pixels as a lane vector has lanes are worked on together: their sums over channels are folded into one vector.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from math import ceil
from typing import NamedTuple, no_type_check

from evssm.compiled import compiled
from evssm.fused_ends import NO_END, Sums, end_of, own_sums, room_for_sums, summed
from evssm.fused_linear import multiply
from evssm.kernel_tasks import like, share_out
from evssm.lane_functions import clear, gelu, gelu_slope, inverse_root, kept, load_lanes, store_lanes
from evssm.lanes import VECTOR, add, fill, fold, load, madd, mul, peek, store, sub, width
from evssm.map_memory import Matrix, as_pixels, below, maps_of, pixels_of

SPAN = 512  # pixels of one task of the norms
HERD = 64  # pixels that lie between a norm and the products around it


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
def through_norm(norm, x, pixel, count, wanted, weight, dx, step, also, table, means, scales, sums, others, one):
    """The gradients of a few pixels from `wanted`, those of the norm's output, plus `also` if that is a matrix.

    Added to `table`: those of weight and bias.
    """
    size, lanes, share = width(one), VECTOR // width(one), fill(-1 / norm.channels, one)
    vectors = (norm.channels + lanes - 1) // lanes
    for v in range(vectors):
        at, inside = v * VECTOR, norm.channels - v * lanes
        of_weight, of_bias = load(table + at, one), load(table + vectors * VECTOR + at, one)
        factor = load_lanes(weight + at, inside, one)
        for i in range(count):
            mean, scale = fill(peek(means + i * size, one), one), fill(peek(scales + i * size, one), one)
            grad = load_lanes(wanted.first + i * wanted.row + at, inside, one)
            value = mul(sub(load_lanes(x + i * pixel + at, inside, one), mean), scale)
            of_weight, of_bias = madd(grad, value, of_weight), add(grad, of_bias)
            grad, total, other = mul(grad, factor), fill(0.0, one), fill(0.0, one)
            if v:
                total, other = load(sums + i * VECTOR, one), load(others + i * VECTOR, one)
            store(sums + i * VECTOR, madd(grad, value, total))
            store(others + i * VECTOR, add(grad, other))
        store(table + at, of_weight)
        store(table + vectors * VECTOR + at, of_bias)
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
            grad = mul(grad, scale)
            if also.first:
                grad = add(load_lanes(also.first + i * also.row + at, inside, one), grad)
            store_lanes(dx + i * step + at, grad, inside, one)


@compiled
@no_type_check
def norm_back_tasks(
    one, tasks, norm, pixels, weights, x, gate, weight, bias, sink, dx, also, dgate, gradients, scratch
):  # fmt: skip
    """The gradients of some tasks: of x, plus `also`, and the gate's maps; by task those of all parameters."""
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
                    norm, here.first, here.row, count, grads, weight, target, dx.pixel,
                    pixels_of(also, start + first, one), table, means, scales, sums, others, one,
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


@no_type_check
def norm(x, gate, projection, weight, bias, eps, centred, output):
    """The last axis of x normalised, scaled and shifted, times the GELU of the gate, times a matrix, where given."""
    y = x.new_empty(*x.shape[:-1], x.shape[-1] if output is None else len(output))
    held, weight, bias = as_pixels(x), weight.contiguous(), bias.contiguous()
    (source, gates), (sink, results) = (
        (NO_END, None) if gate is None else end_of(as_pixels(gate), projection, False, True),
        end_of(as_pixels(y), output, False, True),
    )
    pixels, one, how, maps = held.shape[2], like(x), Norm(x.shape[-1], centred, eps), maps_of(held)
    scale, shift, lanes = weight.data_ptr(), bias.data_ptr(), VECTOR // x.element_size()
    share_out(
        ceil(pixels / SPAN), 2 + lanes + 2 * HERD * ceil(x.shape[-1] / lanes), 8 * x.numel(),
        lambda some, scratch: norm_tasks(one, some, how, pixels, maps, source, scale, shift, sink, scratch),
    )  # fmt: skip
    del gates, results
    return y


@no_type_check
def norm_backward(dy, x, gate, projection, weight, bias, eps, centred, output, weights, also=None):
    """The gradients of x, plus `also`, the gate, projection, weight, bias and output.

    Those of matrices are empty unless `weights`.
    """
    dx, dgate = x.new_empty(x.shape), x.new_empty(0 if gate is None else gate.shape)
    held, weight, bias = as_pixels(x), weight.contiguous(), bias.contiguous()
    (source, gates), (sink, asked) = (
        (NO_END, None) if gate is None else end_of(as_pixels(gate), projection, True, True),
        end_of(as_pixels(dy), output, True, False),
    )
    pixels, one, how, maps = held.shape[2], like(x), Norm(x.shape[-1], centred, eps), maps_of(held)
    tasks, lanes = ceil(pixels / SPAN), VECTOR // x.element_size()
    vectors = ceil(x.shape[-1] / lanes)
    matrices = (projection, output) if weights else (None, None)
    room, places = room_for_sums(x, tasks, matrices[0], weight, bias, matrices[1])
    sums, scale, shift = Sums(*places, room.stride(0) * x.element_size()), weight.data_ptr(), bias.data_ptr()
    target, dgates = maps_of(as_pixels(dx)), NO_END.maps if gate is None else maps_of(as_pixels(dgate))
    more = None if also is None else as_pixels(also)
    others = maps_of(more)
    share_out(
        tasks, 2 + 2 * lanes + (2 + 4 * HERD) * vectors, 16 * x.numel(),
        lambda some, scratch: norm_back_tasks(
            one, some, how, pixels, weights, maps, source, scale, shift, sink, target, others, dgates, sums, scratch
        ),
    )  # fmt: skip
    del gates, asked, more
    dprojection, dweight, dbias, doutput = summed(room, matrices[0], weight, bias, matrices[1])
    return dx, dgate, dprojection, dweight, dbias, doutput
