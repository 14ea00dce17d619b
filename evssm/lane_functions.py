"""More words for kernels, made of those of `evssm.lanes`: the exact GELU, a root, vectors that channels fill in part.

Channels that fill the last vector only in part are read and written under a mask.
"""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from math import pi, sqrt
from typing import no_type_check

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
    bits_of,
    call,
    constant,
    fill,
    interpolated,
    load,
    pointer_at,
    polynomial,
    power,
    rounded,
    store,
    vector_of,
    width,
)

DECAY = 0.25  # of the variable in which the tail of the normal distribution is a polynomial


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


@compiled
@no_type_check
def clear(target, count, one):
    """`count` lane vectors of zeros."""
    for i in range(count):
        store(target + i * VECTOR, fill(0.0, one))
