"""Steps that networks take on channels-last maps again and again, each with as few ways to memory as possible.

Every step stands here twice: `*_definition` says in PyTorch what it computes, and a pair of operators `evssm::*`
computes the same, and its gradients, with kernels compiled for the CPU (`evssm.fused_*`). The operators serve float32
and float64 on a CPU where numba is installed; the definition serves the rest. Like `evssm::scan` they are single steps
to tracers and counters.

No kernel makes a copy of a whole map: a depth-wise convolution keeps a few rows, a norm some pixels, a patch filter one
patch, so that what lies between reading and writing stays in the first cache levels. Values that cost less to compute
than to fetch are computed again in the backward passes. No sum depends on the number of threads.
"""

from functools import cache
from importlib import import_module
from math import pi, prod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from evssm.precision import computing_dtype, without_autocast
from evssm.shapes import Image, Map

Activation = Literal["none", "gelu", "gated gelu"]
PATCH = 8

OPERATORS = torch.library.Library("evssm", "FRAGMENT")
CONVOLVED = "Tensor x, Tensor? projection, Tensor weight, Tensor? bias, int then, Tensor? output"
NORMALISED = (
    "Tensor x, Tensor? gate, Tensor? projection, Tensor weight, Tensor bias, float eps, bool centred, Tensor? output"
)
SCHEMAS = (
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    "linear_backward(Tensor dy, Tensor x, Tensor weight, bool inputs, bool weights) -> (Tensor, Tensor)",
    f"depthwise({CONVOLVED}) -> Tensor",
    f"depthwise_backward(Tensor dy, {CONVOLVED}, bool weights, Tensor? also=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"norm({NORMALISED}) -> Tensor",
    f"norm_backward(Tensor dy, {NORMALISED}, bool weights, Tensor? also=None)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "filter_patches(Tensor x, Tensor gain) -> Tensor",
    "filter_patches_backward(Tensor dy, Tensor x, Tensor gain) -> (Tensor, Tensor)",
)


@cache
def _kernel(name: str) -> Any:
    """A kernel by its operator's name, imported when first wanted: numba takes a quarter of a second."""
    files = {
        "linear": "linear", "depthwise": "depthwise", "norm": "norm", "filter": "patches", "select": "selection",
        "scan": "selection",
    }  # fmt: skip
    return getattr(import_module(f"evssm.fused_{files[name.partition('_')[0]]}"), name)


def define(schema: str) -> Any:
    """The operator of this schema, computed by the kernel of its name."""
    name = schema.split("(")[0]
    OPERATORS.define(schema)
    OPERATORS.impl(name, lambda *inputs: _kernel(name)(*inputs), "CPU")
    return getattr(torch.ops.evssm, name).default


LINEAR, LINEAR_BACKWARD, DEPTHWISE, DEPTHWISE_BACKWARD, NORM, NORM_BACKWARD, FILTER, FILTER_BACKWARD = map(
    define, SCHEMAS
)


@cache
def _kernels_exist() -> bool:
    try:
        _kernel("linear")
    except ImportError:
        return False
    return True


def served(*tensors: Tensor | None) -> bool:
    """Whether kernels take these tensors, or counters that see only shapes."""
    kinds = {(x.device.type, x.dtype) for x in tensors if x is not None}
    if all(device == "meta" for device, _ in kinds):
        return True  # single steps there too: what a network costs shall depend on no device
    return kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)}) and _kernels_exist()


def _last(x: Image) -> Float[Tensor, "b h w c"]:
    return x.permute(0, 2, 3, 1)


def _first(x: Float[Tensor, "b h w c"]) -> Map:
    return x.permute(0, 3, 1, 2)


def _own(x: Float[Tensor, "b h w c"]) -> Map:
    """`_first` for what a step gives, which nobody may take for a view: views cannot be changed in place."""
    return _first(x).detach()


# --- products with matrices -------------------------------------------------------------------------------------------


def linear(x: Image, weight: Float[Tensor, "o c"], bias: Float[Tensor, " o"] | None = None) -> Map:
    """Each pixel's channels times `weight` transposed, plus the bias: a 1 x 1 convolution.

    The matrices are tall and thin, which libraries made for square ones do not use the processor well for.
    """
    if not served(x, weight, bias):
        return linear_definition(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def linear_definition(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` in PyTorch."""
    return _first(F.linear(_last(x), weight, bias))


class _Linear(Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        x = _last(x)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _own(LINEAR(x, weight, bias))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x, weight), dy = ctx.saved_tensors, _last(dy)
        inputs, weights, biases = ctx.needs_input_grad
        dx, dweight = LINEAR_BACKWARD(dy, dy if x is None else x, weight, inputs, weights)
        return _first(dx) if inputs else None, dweight if weights else None, dy.sum((0, 1, 2)) if biases else None


@torch.library.register_fake("evssm::linear", lib=OPERATORS)
def _linear_shape(x, weight, bias):
    return x.new_empty(*x.shape[:-1], len(weight))


@torch.library.register_fake("evssm::linear_backward", lib=OPERATORS)
def _linear_backward_shapes(dy, x, weight, inputs, weights):
    dx = dy.new_empty(*dy.shape[:-1], weight.shape[1]) if inputs else dy.new_empty(0)
    return dx, weight.new_empty(weight.shape if weights else 0)


@register_flop_formula(torch.ops.evssm.linear)
def _linear_flops(x, weight, *_, out_shape=None, **__) -> int:
    """A multiplication and an addition are two."""
    b, h, w, c = x
    return 2 * b * h * w * c * weight[0]


@register_flop_formula(torch.ops.evssm.linear_backward)
def _linear_backward_flops(dy, x, weight, inputs, weights, *_, out_shape=None, **__) -> int:
    b, h, w, o = dy
    return (inputs + weights) * 2 * b * h * w * o * weight[1]


# --- depth-wise convolution -------------------------------------------------------------------------------------------


def depthwise(
    x: Image,
    weight: Float[Tensor, "d 1 i j"],
    bias: Float[Tensor, " d"] | None = None,
    then: Activation = "none",
    *,
    projection: Float[Tensor, "d c"] | None = None,
    output: Float[Tensor, "o _"] | None = None,
) -> Map:
    """Each channel of x convolved with its own kernel, zeros around the map, and then the exact GELU if asked for.

    With "gated gelu" the GELU of the first half of the channels is multiplied with the second half. With `projection`
    the channels are those of `linear(x, projection)`, and with `output` the result is `linear(result, output)`; what
    lies between is then never in memory as a whole. Kernels have odd sides. Only x and the parameters are kept for the
    backward pass.
    """
    if not served(x, projection, weight, bias, output):
        return depthwise_definition(x, weight, bias, then, projection=projection, output=output)
    return _Depthwise.apply(x, projection, weight, bias, get_args(Activation).index(then), output)[0]


def depthwise_beside(
    x: Image,
    weight: Float[Tensor, "d 1 i j"],
    bias: Float[Tensor, " d"] | None = None,
    then: Activation = "none",
    *,
    projection: Float[Tensor, "d c"],
) -> tuple[Map, Image]:
    """`depthwise`, and x again for all others that want it: their gradients are added where its own is made."""
    if not served(x, projection, weight, bias):
        return depthwise_definition(x, weight, bias, then, projection=projection), x
    return _Depthwise.apply(x, projection, weight, bias, get_args(Activation).index(then), None)


def depthwise_definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    then: Activation,
    *,
    projection: Tensor | None = None,
    output: Tensor | None = None,
) -> Tensor:
    """`depthwise` in PyTorch."""
    if projection is not None:
        x = linear_definition(x, projection)
    y = F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=len(weight))
    if then == "gelu":
        y = F.gelu(y)
    elif then == "gated gelu":
        gate, value = y.chunk(2, dim=1)
        y = F.gelu(gate) * value
    return y if output is None else linear_definition(y, output)


class _Depthwise(Function):
    @staticmethod
    def forward(ctx, x, projection, weight, bias, then, output):
        last = _last(x)
        ctx.save_for_backward(last, projection, weight, bias, output)
        ctx.then = then
        ctx.set_materialize_grads(False)
        return _own(DEPTHWISE(last, projection, weight, bias, then, output)), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, also):
        if dy is None:
            return also, *(None,) * 5
        x, projection, weight, bias, output = ctx.saved_tensors
        weights, more = any(ctx.needs_input_grad[1:]), None if also is None else _last(also)
        dx, *gradients = DEPTHWISE_BACKWARD(_last(dy), x, projection, weight, bias, ctx.then, output, weights, more)
        parameters = zip(gradients, (projection, weight, bias, output), strict=True)
        dprojection, dweight, dbias, doutput = (g if weights and p is not None else None for g, p in parameters)
        return _first(dx), dprojection, dweight, dbias, None, doutput


@torch.library.register_fake("evssm::depthwise", lib=OPERATORS)
def _depthwise_shape(x, projection, weight, bias, then, output):
    halves = 2 if get_args(Activation)[then] == "gated gelu" else 1
    return x.new_empty(*x.shape[:3], len(weight) // halves if output is None else len(output))


@torch.library.register_fake("evssm::depthwise_backward", lib=OPERATORS)
def _depthwise_backward_shapes(dy, x, projection, weight, bias, then, output, weights, also=None):
    parameters = (projection, weight, weight[:, 0, 0, 0] if bias is None else bias, output)
    return x.new_empty(x.shape), *(x.new_empty(p.shape if weights and p is not None else 0) for p in parameters)


@register_flop_formula(torch.ops.evssm.depthwise)
def _depthwise_flops(x, projection, weight, bias, then, output=None, *_, out_shape=None, **__) -> int:
    """Those of the convolution and the products around it: a multiplication and an addition are two."""
    b, h, w, c = x
    after = output[0] * output[1] if output else 0
    return 2 * b * h * w * (weight[0] * (weight[2] * weight[3] + (c if projection else 0)) + after)


@register_flop_formula(torch.ops.evssm.depthwise_backward)
def _depthwise_backward_flops(dy, x, projection, weight, bias, then, output, weights, *_, out_shape=None, **__) -> int:
    """Those of their backward passes; that the kernel computes some of it a second time is its own affair."""
    return (2 if weights else 1) * _depthwise_flops(x, projection, weight, bias, then, output)


# --- norms over channels ----------------------------------------------------------------------------------------------


def normalise(
    x: Image,
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    eps: float,
    *,
    centred: bool,
    gate: Float[Tensor, "b _ h w"] | None = None,
    projection: Float[Tensor, "c _"] | None = None,
    output: Float[Tensor, "o c"] | None = None,
) -> Map:
    """Each pixel's channels over their root mean square, scaled and shifted, times the exact GELU of `gate` if given.

    `centred` subtracts their mean first, as LayerNorm does. With `projection` the gate is `linear(gate, projection)`,
    and with `output` the result is `linear(result, output)`; what lies between is then never in memory as a whole. Only
    the inputs are kept for the backward pass. Raises ValueError for a projection of no gate.
    """
    if projection is not None and gate is None:
        raise ValueError("a projection of the gate was given, but no gate; give both or neither")
    if not served(x, weight, bias, gate, projection, output):
        return normalise_definition(
            x, weight, bias, eps, centred=centred, gate=gate, projection=projection, output=output
        )
    return _Normalise.apply(x, gate, projection, weight, bias, eps, centred, output)[0]


def normalise_beside(
    x: Image, weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], eps: float, *, centred: bool
) -> tuple[Map, Image]:
    """`normalise`, and x again for all others that want it: their gradients are added where its own is made."""
    if not served(x, weight, bias):
        return normalise_definition(x, weight, bias, eps, centred=centred), x
    return _Normalise.apply(x, None, None, weight, bias, eps, centred, None)


def normalise_definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    centred: bool,
    gate: Tensor | None = None,
    projection: Tensor | None = None,
    output: Tensor | None = None,
) -> Tensor:
    """`normalise` in PyTorch; sums over channels are taken in at least float32."""
    dtype = computing_dtype(x)
    last, weight, bias = _last(x).to(dtype), weight.to(dtype), bias.to(dtype)
    if centred:
        y = F.layer_norm(last, x.shape[1:2], weight, bias, eps)
    else:
        y = torch.addcmul(bias, last * torch.rsqrt(last.square().mean(dim=-1, keepdim=True) + eps), weight)
    y = y.to(x.dtype)
    if gate is not None:
        y = F.gelu(_last(gate if projection is None else linear_definition(gate, projection))) * y
    return _first(y) if output is None else linear_definition(_first(y), output)


class _Normalise(Function):
    @staticmethod
    def forward(ctx, x, gate, projection, weight, bias, eps, centred, output):
        last, gate = _last(x), None if gate is None else _last(gate)
        ctx.save_for_backward(last, gate, projection, weight, bias, output)
        ctx.how = eps, centred
        ctx.set_materialize_grads(False)
        return _own(NORM(last, gate, projection, weight, bias, eps, centred, output)), x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, also):
        if dy is None:
            return also, *(None,) * 7
        x, gate, projection, weight, bias, output = ctx.saved_tensors
        more = None if also is None else _last(also)
        weights = any(ctx.needs_input_grad[i] for i in (2, 7))
        dx, dgate, dprojection, dweight, dbias, doutput = NORM_BACKWARD(
            _last(dy), x, gate, projection, weight, bias, *ctx.how, output, weights, more
        )
        dprojection, doutput = (
            g if weights and p is not None else None for g, p in ((dprojection, projection), (doutput, output))
        )
        dgate = None if gate is None else _first(dgate)
        return _first(dx), dgate, dprojection, dweight, dbias, None, None, doutput


@torch.library.register_fake("evssm::norm", lib=OPERATORS)
def _norm_shape(x, gate, projection, weight, bias, eps, centred, output):
    return x.new_empty(*x.shape[:-1], x.shape[-1] if output is None else len(output))


@torch.library.register_fake("evssm::norm_backward", lib=OPERATORS)
def _norm_backward_shapes(dy, x, gate, projection, weight, bias, eps, centred, output, weights, also=None):
    dprojection, doutput = (x.new_empty(m.shape if weights and m is not None else 0) for m in (projection, output))
    dgate = x.new_empty(0 if gate is None else gate.shape)
    return x.new_empty(x.shape), dgate, dprojection, torch.empty_like(weight), torch.empty_like(bias), doutput


@register_flop_formula(torch.ops.evssm.norm)
def _norm_flops(x, gate, projection, weight, bias, eps, centred, output=None, *_, out_shape=None, **__) -> int:
    """Those of the products around the norm: a multiplication and an addition are two."""
    return sum(2 * prod(x[:-1]) * prod(matrix) for matrix in (projection, output) if matrix)


@register_flop_formula(torch.ops.evssm.norm_backward)
def _norm_backward_flops(
    dy, x, gate, projection, weight, bias, eps, centred, output, weights, *_, out_shape=None, **__
) -> int:
    return (2 if weights else 1) * _norm_flops(x, gate, projection, weight, bias, eps, centred, output)


# --- gains for the frequencies of patches -----------------------------------------------------------------------------


def filter_patches(x: Image, gain: Float[Tensor, "64 c"]) -> Map:
    """Each 8 x 8 patch of x, its two-dimensional Hartley transform multiplied by `gain`, frequencies row by row.

    The transform's waves are cos + sin of 2 pi (k n + j m) / 8. It is the discrete Fourier transform's real part less
    its imaginary part, so for gains that agree at (k, j) and (-k, -j) this is `irfft2(rfft2(patch) * gain)`.
    """
    if not served(x, gain):
        return filter_patches_definition(x, gain)
    return _FilterPatches.apply(x, gain)


def filter_patches_definition(x: Tensor, gain: Tensor) -> Tensor:
    """`filter_patches` in PyTorch. The matrix of the transform is symmetric and its own inverse."""
    waves = _hartley(x.dtype, x.device)
    patches = rearrange(x, "b c (i p) (j q) -> b i j (p q) c", p=PATCH, q=PATCH)
    with without_autocast(x):
        patches = waves @ ((waves @ patches) * gain)
    return rearrange(patches, "b i j (p q) c -> b c (i p) (j q)", p=PATCH)


@cache
def _hartley(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal waves of an 8 x 8 patch, one per row."""
    n = torch.arange(PATCH, dtype=torch.float64)
    k, j, row, column = torch.meshgrid(n, n, n, n, indexing="ij")
    phase = 2 * pi * (k * row + j * column) / PATCH
    return ((phase.cos() + phase.sin()) / PATCH).reshape(PATCH**2, PATCH**2).to(device, dtype)


class _FilterPatches(Function):
    @staticmethod
    def forward(ctx, x, gain):
        x = _last(x)
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, gain)
        return _own(FILTER(x, gain))

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x, gain), dy = ctx.saved_tensors, _last(dy)
        dx, dgain = (FILTER(dy, gain), None) if x is None else FILTER_BACKWARD(dy, x, gain)
        return _first(dx), dgain


@torch.library.register_fake("evssm::filter_patches", lib=OPERATORS)
def _filter_shape(x, gain):
    return x.new_empty(x.shape)


@torch.library.register_fake("evssm::filter_patches_backward", lib=OPERATORS)
def _filter_backward_shapes(dy, x, gain):
    return x.new_empty(x.shape), x.new_empty(PATCH**2, x.shape[-1])


@register_flop_formula(torch.ops.evssm.filter_patches)
def _filter_flops(x, *_, out_shape=None, **__) -> int:
    """Two real transforms of 64 numbers, 5/2 n log2 n each, as Fourier transforms are counted."""
    b, h, w, c = x
    return 30 * b * h * w * c


@register_flop_formula(torch.ops.evssm.filter_patches_backward)
def _filter_backward_flops(dy, x, gain, *_, out_shape=None, **__) -> int:
    return 2 * _filter_flops(x)
