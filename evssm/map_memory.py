"""Where channels-last maps and matrices lie in memory, as kernels are told it: addresses, and bytes between items."""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from typing import NamedTuple, no_type_check

from evssm.compiled import compiled
from evssm.lane_functions import load_lanes, load_part, store_lanes
from evssm.lanes import VECTOR, add, load, store, width

STRIP = 64  # rows of one task of a depth-wise convolution; half as many where a single picture is all there is


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


@no_type_check
class Matrix(NamedTuple):
    """The address of a matrix's first number, and the bytes from one row and one column to the next."""

    first: int
    row: int
    column: int


@compiled
@no_type_check
def below(matrix, rows):
    """`matrix` from a later row on; no matrix stays none."""
    return Matrix(matrix.first + rows * matrix.row if matrix.first else 0, matrix.row, matrix.column)


@compiled
@no_type_check
def pixels_of(maps, first, one):
    """The pixels of maps from `first` on, one per row; no maps stay none."""
    return Matrix(maps.first + first * maps.pixel if maps.first else 0, maps.pixel, width(one))


@no_type_check
def maps_of(x):
    """Where `x`, `b h w c` with the channels of a pixel side by side, lies in memory; nowhere for None."""
    if x is None:
        return Maps(0, 0, 0, 0)
    size = x.element_size()
    return Maps(x.data_ptr(), *(stride * size for stride in x.stride()[:3]))


@no_type_check
def size_of(x, channels):
    """The extent of `x`, as many channels assumed."""
    b, h, w, _ = x.shape
    return Size(b, h, w, channels, STRIP if b > 1 else STRIP // 2)


@no_type_check
def readable(x):
    """`x` with the channels of a pixel side by side, copied where they are not."""
    return x if x.stride(-1) == 1 else x.contiguous()


@no_type_check
def as_pixels(x):
    """`x` as one row of pixels at equal distances, copied if it is none."""
    return readable(x.reshape(1, 1, -1, x.shape[-1]))


@no_type_check
def matrix_of(x):
    """Where the pixels of `x` lie in memory; no matrix for None."""
    return Matrix(0, 0, 0) if x is None else Matrix(x.data_ptr(), x.stride(-2) * x.element_size(), x.element_size())


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
def add_rows(target, other, count, channels, one):
    """`other` added to some rows of numbers."""
    lanes = VECTOR // width(one)
    for i in range(count):
        for c in range(0, channels, lanes):
            at, more = target.first + i * target.row + c * width(one), other.first + i * other.row + c * width(one)
            inside = channels - c
            store_lanes(at, add(load_lanes(more, inside, one), load_lanes(at, inside, one)), inside, one)
