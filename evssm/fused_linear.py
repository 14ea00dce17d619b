"""The kernel of `evssm.fused.linear`: products of pixels with matrices, which the other kernels use too."""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from math import ceil
from typing import no_type_check

from evssm.compiled import compiled
from evssm.kernel_tasks import like, share_out
from evssm.lane_functions import load_part, store_part
from evssm.lanes import VECTOR, fill, load, madd, peek, put, registers, store, take, width
from evssm.map_memory import Matrix, as_pixels, below, matrix_of

PANEL = 256  # pixels that a product works on at a time
SHEAF = 2048  # pixels of one task of a weight's gradient


@compiled
@no_type_check
def multiply_tile(rows, vectors, sums, steps, a, b, start, c, gap, inside, one):
    """c = start + a b for a few rows of c, and as many columns as some lane vectors have, in registers.

    `start` may be no matrix, then c = a b. The last vector has only `inside` numbers. b's columns lie side by side;
    from one lane vector of a row of c, and of start, to the next it is `gap` bytes.
    """
    total = registers(sums, one)
    last = len(vectors) - 1
    for r in range(len(rows)):
        for v in range(len(vectors)):
            at = start.first + r * start.row + v * gap
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
            at = c.first + r * c.row + v * gap
            if v < last:
                store(at, take(total, r * len(vectors) + v, one))
            else:
                store_part(at, take(total, r * len(vectors) + v, one), inside)


@compiled
@no_type_check
def multiply_columns(rows, vectors, sums, height, steps, a, b, start, c, gap, inside, one):
    """c = start + a b for all rows of c, and as many columns as some lane vectors have."""
    whole = height - height % len(rows)
    for r in range(0, whole, len(rows)):
        multiply_tile(rows, vectors, sums, steps, below(a, r), b, below(start, r), below(c, r), gap, inside, one)
    for r in range(whole, height):
        multiply_tile((0,), vectors, vectors, steps, below(a, r), b, below(start, r), below(c, r), gap, inside, one)


@compiled
@no_type_check
def multiply_apart(height, columns, steps, a, b, start, c, gap, one):
    """c = start + a b, where it is `gap` bytes from one lane vector of a row of c, and of start, to the next.

    Up to 24 lane vectors of c are in registers at a time; two or three of a row share what they need of a.
    """
    lanes, size = VECTOR // width(one), width(one)
    column = 0
    while column < columns:
        left = (columns - column + lanes - 1) // lanes
        vectors = 2 if left == 4 else min(left, 3)  # four are two times two
        inside, moved = columns - column - (vectors - 1) * lanes, column // lanes * gap
        right, target = Matrix(b.first + column * size, b.row, size), Matrix(c.first + moved, c.row, size)
        before = Matrix(start.first + moved if start.first else 0, start.row, size)
        if vectors == 1:
            multiply_columns((0,) * 16, (0,), (0,) * 16, height, steps, a, right, before, target, gap, inside, one)
        elif vectors == 2:
            multiply_columns((0,) * 8, (0,) * 2, (0,) * 16, height, steps, a, right, before, target, gap, inside, one)
        else:
            multiply_columns((0,) * 8, (0,) * 3, (0,) * 24, height, steps, a, right, before, target, gap, inside, one)
        column += vectors * lanes


@compiled
@no_type_check
def multiply(height, columns, steps, a, b, start, c, one):
    """c = start + a b."""
    multiply_apart(height, columns, steps, a, b, start, c, VECTOR, one)


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
def linear_back_tasks(one, tasks, pixels, inputs, outputs, dy, weight, dx, rows, columns, left, right, sums):
    """Some tasks' gradients of the pixels, and by task the sum over pixels of the products of two maps' channels.

    The former are dy times the weight `outputs inputs`, the latter `rows columns`; neither where it has no place.
    """
    none = Matrix(0, 0, 0)
    for task in range(tasks[0], tasks[1]):
        own = Matrix(sums.first + task * rows * sums.row, sums.row, sums.column)
        for first in range(task * SHEAF, min((task + 1) * SHEAF, pixels), PANEL):
            count = min(PANEL, (task + 1) * SHEAF - first, pixels - first)
            if dx.first:
                multiply(count, inputs, outputs, below(dy, first), weight, none, below(dx, first), one)
            if sums.first:
                turned, before = Matrix(left.first + first * left.row, left.column, left.row), own
                multiply(
                    rows, columns, count, turned, below(right, first), none if first == task * SHEAF else before, own,
                    one,
                )  # fmt: skip


@no_type_check
def linear(x, weight, bias):
    """The last axis of x times `weight` transposed, plus the bias if there is one."""
    (outputs, inputs), one = weight.shape, like(x)
    y = x.new_empty(*x.shape[:-1], outputs)
    held = [as_pixels(x), weight.T.contiguous(), None if bias is None else bias.expand(1, outputs), y.view(-1, outputs)]
    maps, pixels = [matrix_of(t) for t in held], held[0].shape[2]
    maps[2] = maps[2]._replace(row=0)  # the same for every pixel
    share_out(
        ceil(pixels / PANEL), 0, pixels * inputs * outputs // 16,
        lambda some, _: linear_tasks(one, some, pixels, inputs, outputs, *maps),
    )  # fmt: skip
    return y


@no_type_check
def linear_backward(dy, x, weight, inputs, weights):
    """The gradients of x and the weight, each where wanted and otherwise empty."""
    (o, c), one = weight.shape, like(x)
    dx, held = x.new_empty(*x.shape[:-1], c) if inputs else None, [as_pixels(dy), as_pixels(x), weight.contiguous()]
    asked, source, factors = map(matrix_of, held)
    pixels, across = held[0].shape[2], c < VECTOR // x.element_size()  # the longer side along the lanes
    tasks, (rows, columns) = ceil(pixels / SHEAF), (c, o) if across else (o, c)
    parts = x.new_empty(tasks, rows, columns) if weights else None
    pair = (source, asked) if across else (asked, source)
    target, sums = matrix_of(None if dx is None else dx.view(-1, c)), matrix_of(parts)
    share_out(
        tasks, 0, pixels * o * c // 16,
        lambda some, _: linear_back_tasks(
            one, some, pixels, c, o, asked, factors, target, rows, columns, *pair, sums
        ),
    )  # fmt: skip
    none = x.new_empty(0)
    if parts is not None:
        parts = parts.sum(0) if tasks > 1 else parts[0]
    return none if dx is None else dx, none if parts is None else parts.T if across else parts
