"""The kernel of `evssm.fused.filter_patches`: one patch at a time, its spectrum by Hartley's transform."""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from typing import no_type_check

from evssm.compiled import compiled
from evssm.kernel_tasks import like, share_out
from evssm.lane_functions import clear, load_part, store_part
from evssm.lanes import VECTOR, add, fill, load, madd, mul, store, sub, width
from evssm.map_memory import bring, maps_of, readable, row_of, size_of


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
def give_patch(patch, maps, corner, inside, one):
    for k in range(64):
        i, j = divmod(k, 8)
        store_part(corner + i * maps.row + j * maps.pixel, load(patch + k * VECTOR, one), inside)


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
                give_patch(scratch, y, row_of(y, picture, 8 * row, channel, one) + column * y.pixel, inside, one)


@compiled
@no_type_check
def filter_back_tasks(one, tasks, size, x, dy, gain, dx, dgain, scratch):
    """The gradient of x in some tasks, rows of patches, and what they add to that of the gain: products of spectra."""
    lanes = VECTOR // width(one)
    other, sums = scratch + 64 * VECTOR, scratch + 128 * VECTOR
    for task in range(tasks[0], tasks[1]):
        picture, row = divmod(task, size.h // 8)
        for channel in range(0, size.channels, lanes):
            inside = size.channels - channel
            clear(sums, 64, one)
            for column in range(0, size.w, 8):
                bring_patch(scratch, x, row_of(x, picture, 8 * row, channel, one) + column * x.pixel, inside, one)
                bring_patch(other, dy, row_of(dy, picture, 8 * row, channel, one) + column * dy.pixel, inside, one)
                spectrum(scratch, one)
                spectrum(other, one)
                for k in range(64):
                    at, asked = k * VECTOR, load(other + k * VECTOR, one)
                    store(sums + at, madd(load(scratch + at, one), asked, load(sums + at, one)))
                    factor = load_part(gain + (k * size.channels + channel) * width(one), inside, one)
                    store(other + at, mul(asked, factor))
                spectrum(other, one)
                give_patch(other, dx, row_of(dx, picture, 8 * row, channel, one) + column * dx.pixel, inside, one)
            for k in range(64):
                place = dgain + ((task * 64 + k) * size.channels + channel) * width(one)
                store_part(place, load(sums + k * VECTOR, one), inside)


@no_type_check
def filter_patches(x, gain):
    """`b h w c` maps, the spectra of their 8 x 8 patches multiplied by the gain `64 c`."""
    x, gain = readable(x), gain / 64
    b, h, w, c = x.shape
    y = x.new_empty(b, h, w, c)
    size, one, source, factors, target = size_of(x, c), like(x), maps_of(x), gain.data_ptr(), maps_of(y)
    share_out(
        b * h // 8, 64, 16 * x.numel(),
        lambda some, scratch: filter_tasks(one, some, size, source, factors, target, scratch),
    )  # fmt: skip
    return y


@no_type_check
def filter_patches_backward(dy, x, gain):
    """The gradients of x and of the gain."""
    x, dy, gain = readable(x), readable(dy), gain / 64
    b, h, _, c = x.shape
    dx, dgain = x.new_empty(x.shape), x.new_empty(b * h // 8, 64, c)
    size, one, factors, target = size_of(x, c), like(x), gain.data_ptr(), dgain.data_ptr()
    source, asked, results = maps_of(x), maps_of(dy), maps_of(dx)
    share_out(
        b * h // 8, 192, 32 * x.numel(),
        lambda some, scratch: filter_back_tasks(one, some, size, source, asked, factors, results, target, scratch),
    )  # fmt: skip
    return dx, dgain.sum(0) / 64
