"""The kernels of `evssm.enlarge`, compiled by numba for a CPU.

A product with a matrix, a convolution's tap for one, commutes with a resize. So the nine taps are taken of the small
map, with a quarter of the multiplications, and what they give is enlarged, moved and added up in lanes of channels.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from typing import no_type_check

from evssm.compiled import compiled
from evssm.fused_linear import linear, linear_backward
from evssm.kernel_tasks import like, share_out
from evssm.lane_functions import clear, load_lanes, store_lanes
from evssm.lanes import VECTOR, fill, load, madd, store, width
from evssm.map_memory import maps_of, readable, row_of, size_of


@compiled
@no_type_check
def neighbours(y, h):
    """The two rows of a map of h rows that row y of the map twice as high is made from: 3/4 and 1/4 of them."""
    far = y // 2 - 1 if y % 2 == 0 else y // 2 + 1
    return y // 2, min(max(far, 0), h - 1)


@compiled
@no_type_check
def share(y, i, h):
    """How much of row i is in row y of the map twice as high; nothing in a row that it does not have."""
    near, far = neighbours(y, h)
    return (0.75 * (near == i) + 0.25 * (far == i)) * (0 <= y < 2 * h)


@compiled
@no_type_check
def enlarge_tasks(one, tasks, size, parts, y, scratch):
    """Some tasks' rows of the large map: tap k of `parts`, `b h w 9c`, enlarged, and moved as the kernel says."""
    lanes = VECTOR // width(one)
    for task in range(tasks[0], tasks[1]):
        picture, row = divmod(task, 2 * size.h)
        for channel in range(0, size.channels, lanes):
            inside = size.channels - channel
            clear(scratch, 3 * size.w, one)
            for k in range(9):
                wanted = row + k // 3 - 1
                if wanted < 0 or wanted >= 2 * size.h:
                    continue
                line = scratch + k % 3 * size.w * VECTOR
                near, far = neighbours(wanted, size.h)
                first = row_of(parts, picture, near, k * size.channels + channel, one)
                other = row_of(parts, picture, far, k * size.channels + channel, one)
                for j in range(size.w):
                    total = madd(
                        fill(0.75, one), load_lanes(first + j * parts.pixel, inside, one), load(line + j * VECTOR, one)
                    )
                    total = madd(fill(0.25, one), load_lanes(other + j * parts.pixel, inside, one), total)
                    store(line + j * VECTOR, total)
            target = row_of(y, picture, row, channel, one)
            for column in range(2 * size.w):
                total = fill(0.0, one)
                for k in range(3):
                    wanted = column + k - 1
                    if 0 <= wanted < 2 * size.w:
                        near, far = neighbours(wanted, size.w)
                        line = scratch + k * size.w * VECTOR
                        total = madd(fill(0.75, one), load(line + near * VECTOR, one), total)
                        total = madd(fill(0.25, one), load(line + far * VECTOR, one), total)
                store_lanes(target + column * y.pixel, total, inside, one)


@compiled
@no_type_check
def enlarge_back_tasks(one, tasks, size, dy, dparts, scratch):
    """The transpose of `enlarge_tasks`: some tasks' rows of the gradient of its parts."""
    lanes = VECTOR // width(one)
    for task in range(tasks[0], tasks[1]):
        picture, row = divmod(task, size.h)
        for channel in range(0, size.channels, lanes):
            inside = size.channels - channel
            for k in range(3):
                clear(scratch, 2 * size.w, one)
                for wanted in range(2 * row - 1, 2 * row + 3):
                    moved = wanted - k + 1
                    if moved < 0 or moved >= 2 * size.h:
                        continue
                    part = fill(share(wanted, row, size.h), one)
                    source = row_of(dy, picture, moved, channel, one)
                    for x in range(2 * size.w):
                        total = load(scratch + x * VECTOR, one)
                        store(scratch + x * VECTOR, madd(part, load_lanes(source + x * dy.pixel, inside, one), total))
                for tap in range(3):
                    target = row_of(dparts, picture, row, (3 * k + tap) * size.channels + channel, one)
                    for column in range(size.w):
                        total = fill(0.0, one)
                        for wanted in range(2 * column - 1, 2 * column + 3):
                            moved = wanted - tap + 1
                            if 0 <= moved < 2 * size.w:
                                part = fill(share(wanted, column, size.w), one)
                                total = madd(part, load(scratch + moved * VECTOR, one), total)
                        store_lanes(target + column * dparts.pixel, total, inside, one)


@no_type_check
def _taps(weight):
    """The kernel as a matrix, one row per tap and output."""
    return weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1])


@no_type_check
def enlarge(x, weight):
    """`b h w c` maps, twice as large, convolved with `o c 3 3` and zeros around them."""
    (b, h, w, _), outputs = x.shape, len(weight)
    parts = linear(x, _taps(weight), None)
    y = x.new_empty(b, 2 * h, 2 * w, outputs)
    size, one, source, target = size_of(parts, outputs), like(x), maps_of(parts), maps_of(y)
    share_out(
        b * 2 * h, 3 * w, 16 * y.numel(),
        lambda some, scratch: enlarge_tasks(one, some, size, source, target, scratch),
    )  # fmt: skip
    return y


@no_type_check
def enlarge_backward(dy, x, weight, weights):
    """The gradients of x, and of the weight, which is empty unless `weights`."""
    dy, (b, h, w, _), outputs = readable(dy), x.shape, len(weight)
    dparts = x.new_empty(b, h, w, 9 * outputs)
    size, one, source, target = size_of(dparts, outputs), like(x), maps_of(dy), maps_of(dparts)
    share_out(
        b * h, 2 * w, 16 * dy.numel(),
        lambda some, scratch: enlarge_back_tasks(one, some, size, source, target, scratch),
    )  # fmt: skip
    dx, dweight = linear_backward(dparts, x, _taps(weight), True, weights)
    return dx, dweight.view(3, 3, *weight.shape[:2]).permute(2, 3, 0, 1).contiguous() if weights else dweight
