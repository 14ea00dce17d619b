"""Vectors for kernels that numba compiles: what a kernel says, and what the compiler makes of it.

A lane vector holds 64 bytes of neighbouring channels (16 float32 or 8 float64). The compiler is told about vectors
explicitly, as LLVM vector types, rather than left to find them in loops; LLVM splits them where the processor's
registers are narrower. First come the polynomials behind the functions, then vectors and their functions, then the
words that kernels are written in.
"""
# Everything here is marked @no_type_check: the import hook that checks shapes in the tests would wrap the functions,
# and numba cannot compile a wrapper.

from math import factorial, log
from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, models, register_model

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("numba's compiler is switched off by NUMBA_DISABLE_JIT")

VECTOR = 64  # bytes of a lane vector
LOG2E = 1 / log(2)


# --- polynomials ------------------------------------------------------------------------------------------------------


@no_type_check
def interpolated(function, low, high, degree):
    """Coefficients, lowest first, of the polynomial through `function` at the Chebyshev nodes of [low, high]."""
    mapped = np.polynomial.chebyshev.chebinterpolate(lambda w: function(low + (high - low) * (w + 1) / 2), degree)
    line = np.polynomial.Polynomial([-(high + low) / (high - low), 2 / (high - low)])
    return np.polynomial.chebyshev.Chebyshev(mapped)(line).coef


def _exp2_rest(r):
    """(2^r - 1) / r."""
    return np.expm1(r * np.log(2)) / r


def _atanh_rest(z):
    """atanh(sqrt z) / sqrt z."""
    return np.arctanh(np.sqrt(z)) / np.sqrt(z)


# By bits of a number: coefficients of (2^r - 1) / r on [-1/2, 1/2] and of atanh(sqrt z) / sqrt z on [0, 1/9]. The first
# leave 2^r exact at r = 0, where the decay of a slow state lies: an error there would add up over its long memory.
EXP2_REST = {
    32: interpolated(_exp2_rest, -0.5, 0.5, 5),
    64: np.array([log(2) ** k / factorial(k) for k in range(1, 14)]),
}
ATANH_REST = {32: interpolated(_atanh_rest, 0, 1 / 9, 5), 64: interpolated(_atanh_rest, 0, 1 / 9, 12)}
# Bits of the mantissa and largest exponent; log 2 in two parts, of which the first times any exponent is exact.
FORMAT = {32: (23, 127), 64: (52, 1023)}
LOG2_PARTS = {
    32: (355 / 512, log(2) - 355 / 512),
    64: (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")),
}


# --- vectors ----------------------------------------------------------------------------------------------------------


@no_type_check
class Lanes(types.Type):
    """numba's type of a lane vector."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@no_type_check
def vector_of(dtype):
    """LLVM's type of a lane vector."""
    return ir.VectorType(ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType(), 8 * VECTOR // dtype.bitwidth)


@register_model(Lanes)
@no_type_check
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, vector_of(lanes.dtype))


@no_type_check
def constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


@no_type_check
def bits_of(vector):
    """Bits of one number of the vector; the vector of integers as wide."""
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    return bits, ir.VectorType(ir.IntType(bits), vector.count)


@no_type_check
def call(builder, name, *arguments):
    """LLVM's own function `name` of vectors of one type."""
    vector = arguments[0].type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector] * len(arguments)),
        f"llvm.{name}.v{vector.count}f{bits_of(vector)[0]}",
    )
    return builder.call(function, arguments)


@no_type_check
def polynomial(builder, x, coefficients):
    """The polynomial with `coefficients`, lowest first, at x."""
    total = constant(x.type, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = call(builder, "fmuladd", total, x, constant(x.type, coefficient))
    return total


@no_type_check
def rounded(builder, x):
    """x + 1.5 * 2^mantissa, whose last bits hold x rounded to an integer; and that integer as a floating number."""
    shift = constant(x.type, 1.5 * 2.0 ** FORMAT[bits_of(x.type)[0]][0])
    moved = builder.fadd(x, shift)
    return moved, builder.fsub(moved, shift)


@no_type_check
def power(builder, moved, r):
    """2^(k + r) for |r| <= 1/2, where the last bits of `moved` hold k: k is added to the exponent of 2^r.

    The shift clears all bits of a quiet NaN but the integer's, so that NaN stays NaN.
    """
    bits, integers = bits_of(r.type)
    root = call(builder, "fmuladd", polynomial(builder, r, EXP2_REST[bits]), r, constant(r.type, 1.0))
    k = builder.shl(builder.bitcast(moved, integers), constant(integers, FORMAT[bits][0]))
    return builder.bitcast(builder.add(builder.bitcast(root, integers), k), r.type)


@no_type_check
def _exp2(builder, x):
    """2^x: 0 below the smallest normal number, infinity above the largest, NaN for NaN."""
    largest = FORMAT[bits_of(x.type)[0]][1]
    bottom, over = constant(x.type, 1.0 - largest), constant(x.type, 1.0 + largest)
    x = builder.select(builder.fcmp_ordered(">", x, over), over, x)
    moved, k = rounded(builder, x)
    value = power(builder, moved, builder.fsub(x, k))
    return builder.select(builder.fcmp_ordered("<", x, bottom), constant(x.type, 0.0), value)


@no_type_check
def _softplus(builder, x):
    """log(1 + e^x), x itself above 20 as PyTorch has it; and its slope 1 / (1 + e^-x), likewise.

    With e = e^-|x| it is max(x, 0) + log(1 + e), and 2 atanh(e / (2 + e)) is log(1 + e) without loss for small e.
    """
    bits, _ = bits_of(x.type)
    high, low = (constant(x.type, part) for part in LOG2_PARTS[bits])
    one, two, zero = (constant(x.type, value) for value in (1.0, 2.0, 0.0))
    lowest = constant(x.type, -(FORMAT[bits][1] - 2) * log(2))
    positive = builder.fcmp_ordered(">", x, zero)
    down = builder.select(positive, builder.fsub(zero, x), x)
    moved, k = rounded(builder, builder.fmul(down, constant(x.type, LOG2E)))
    r = call(builder, "fmuladd", builder.fsub(zero, k), high, down)
    r = call(builder, "fmuladd", builder.fsub(zero, k), low, r)
    e = power(builder, moved, builder.fmul(r, constant(x.type, LOG2E)))
    e = builder.select(builder.fcmp_ordered("<", down, lowest), zero, e)
    s = builder.fdiv(e, builder.fadd(two, e))
    z = polynomial(builder, builder.fmul(s, s), ATANH_REST[bits])
    value = call(builder, "fmuladd", builder.fadd(s, s), z, builder.select(positive, x, zero))
    slope = builder.fdiv(builder.select(positive, one, e), builder.fadd(one, e))
    linear = builder.fcmp_ordered(">", x, constant(x.type, 20.0))
    return builder.select(linear, x, value), builder.select(linear, one, slope)


@no_type_check
def _folded(builder, rows):
    """One vector whose lane i is the sum of row i, for as many rows as there are lanes.

    A vector of the list holds count / len(rows) rows already, each in a run of len(rows) lanes. Two neighbours become
    one vector when the upper half of every run is added to its lower half.
    """
    if len(rows) == 1:
        return rows[0]
    count, run = rows[0].type.count, len(rows)
    lower = [start + lane for start in range(0, 2 * count, run) for lane in range(run // 2)]
    picks = [
        ir.Constant(ir.VectorType(ir.IntType(32), count), [lane + move for lane in lower]) for move in (0, run // 2)
    ]
    pairs = [
        builder.fadd(*(builder.shuffle_vector(first, second, pick) for pick in picks))
        for first, second in zip(rows[0::2], rows[1::2], strict=True)
    ]
    return _folded(builder, pairs)


# --- words of the kernels: addresses are integers, `like` is any number of the wanted precision -----------------------


@no_type_check
def pointer_at(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


@no_type_check
def _read(builder, pointer, kind, item):
    value = builder.load(pointer, typ=kind)
    value.align = item.bitwidth // 8
    return value


@intrinsic
@no_type_check
def load(typing, address, like):
    """The lane vector at `address`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        return _read(builder, pointer_at(builder, arguments[0], vector_of(like)), vector_of(like), like)

    return Lanes(like)(types.int64, like), emit


@intrinsic
@no_type_check
def store(typing, address, lanes):
    """`lanes` written to `address`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        target = pointer_at(builder, arguments[0], arguments[1].type)
        builder.store(arguments[1], target).align = lanes.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(types.int64, lanes), emit


@intrinsic
@no_type_check
def fetch(typing, address):
    """A hint that the line of memory at `address`, which need not exist, will be wanted soon."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(hint, [builder.inttoptr(arguments[0], cgutils.voidptr_t), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
@no_type_check
def peek(typing, address, like):
    """The single number at `address`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        kind = vector_of(like).element
        return _read(builder, pointer_at(builder, arguments[0], kind), kind, like)

    return like(types.int64, like), emit


@intrinsic
@no_type_check
def poke(typing, address, number, like):
    """The single `number` written to `address`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        value = context.cast(builder, arguments[1], number, like)
        builder.store(value, pointer_at(builder, arguments[0], value.type))
        return context.get_dummy_value()

    return types.void(types.int64, number, like), emit


@intrinsic
@no_type_check
def width(typing, like):
    """Bytes of one number."""
    return types.int64(like), no_type_check(lambda *_: ir.IntType(64)(like.bitwidth // 8))


@intrinsic
@no_type_check
def fill(typing, number, like):
    """A lane vector of one number."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        vector = vector_of(like)
        single = context.cast(builder, arguments[0], number, like)
        single = builder.insert_element(ir.Constant(vector, ir.Undefined), single, ir.IntType(32)(0))
        return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))

    return Lanes(like)(number, like), emit


@intrinsic
@no_type_check
def registers(typing, states, like):
    """Room for as many lane vectors as `states` has entries, known to the compiler, which keeps them in registers."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        room = cgutils.alloca_once(builder, ir.ArrayType(vector_of(like), len(states)))
        return builder.bitcast(room, cgutils.voidptr_t)

    return types.voidptr(states, like), emit


@no_type_check
def _slot(builder, room, index):
    return builder.gep(room, [builder.mul(index, index.type(VECTOR))], source_etype=ir.IntType(8))


@intrinsic
@no_type_check
def take(typing, room, index, like):
    """Entry `index` of `registers`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        pointer = builder.bitcast(_slot(builder, *arguments[:2]), vector_of(like).as_pointer())
        return _read(builder, pointer, vector_of(like), like)

    return Lanes(like)(room, types.int64, like), emit


@intrinsic
@no_type_check
def put(typing, room, index, lanes):
    """`lanes` as entry `index` of `registers`."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        pointer = builder.bitcast(_slot(builder, *arguments[:2]), arguments[2].type.as_pointer())
        builder.store(arguments[2], pointer).align = lanes.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(room, types.int64, lanes), emit


@intrinsic
@no_type_check
def mul(typing, a, b):
    """a b"""
    return a(a, b), no_type_check(lambda context, builder, signature, arguments: builder.fmul(*arguments))


@intrinsic
@no_type_check
def add(typing, a, b):
    """a + b"""
    return a(a, b), no_type_check(lambda context, builder, signature, arguments: builder.fadd(*arguments))


@intrinsic
@no_type_check
def sub(typing, a, b):
    """a - b"""
    return a(a, b), no_type_check(lambda context, builder, signature, arguments: builder.fsub(*arguments))


@intrinsic
@no_type_check
def madd(typing, a, b, c):
    """a b + c, rounded once where the processor can."""
    return a(a, b, c), no_type_check(
        lambda context, builder, signature, arguments: call(builder, "fmuladd", *arguments)
    )


@intrinsic
@no_type_check
def exp2(typing, x):
    """2^x"""
    return x(x), no_type_check(lambda context, builder, signature, arguments: _exp2(builder, *arguments))


@intrinsic
@no_type_check
def softplus(typing, x):
    """log(1 + e^x)"""
    return x(x), no_type_check(lambda context, builder, signature, arguments: _softplus(builder, *arguments)[0])


@intrinsic
@no_type_check
def softplus_slope(typing, x):
    """The derivative of `softplus`."""
    return x(x), no_type_check(lambda context, builder, signature, arguments: _softplus(builder, *arguments)[1])


@intrinsic
@no_type_check
def fold(typing, address, like):
    """The sums of the vectors at `address`, as many as one vector has lanes, as one vector."""

    @no_type_check
    def emit(context, builder, signature, arguments):
        vector = vector_of(like)
        places = [builder.add(arguments[0], ir.IntType(64)(VECTOR * i)) for i in range(vector.count)]
        rows = [_read(builder, pointer_at(builder, place, vector), vector, like) for place in places]
        return _folded(builder, rows)

    return Lanes(like)(types.int64, like), emit
