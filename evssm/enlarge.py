"""A map made twice as large and convolved, in one step: the way up in U-shaped networks.

As in `evssm.fused` there is a definition in PyTorch, and a pair of operators that compute the same on a CPU.
"""

from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from evssm.fused import OPERATORS, served
from evssm.shapes import Image


@cache
def _kernels() -> Any:
    """The module of kernels, imported when first wanted."""
    return import_module("evssm.enlarge_numba")


OPERATORS.define("enlarge(Tensor x, Tensor weight) -> Tensor")
OPERATORS.define("enlarge_backward(Tensor dy, Tensor x, Tensor weight, bool weights) -> (Tensor, Tensor)")
OPERATORS.impl("enlarge", lambda *inputs: _kernels().enlarge(*inputs), "CPU")
OPERATORS.impl("enlarge_backward", lambda *inputs: _kernels().enlarge_backward(*inputs), "CPU")
ENLARGE, ENLARGE_BACKWARD = torch.ops.evssm.enlarge.default, torch.ops.evssm.enlarge_backward.default


def enlarge(x: Image, weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "b o _ _"]:
    """x resized bilinearly to twice its sides (pixels are squares: corners not aligned), then convolved with `weight`.

    There are zeros around the large map, so that `b c h w` become `b o 2h 2w`.
    """
    if not served(x, weight):
        return enlarge_definition(x, weight)
    return _Enlarge.apply(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)


def enlarge_definition(x: Tensor, weight: Tensor) -> Tensor:
    """`enlarge` in PyTorch."""
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), weight, padding=1)


class _Enlarge(Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return ENLARGE(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        weights = ctx.needs_input_grad[1]
        dx, dweight = ENLARGE_BACKWARD(dy, *ctx.saved_tensors, weights)
        return dx, dweight if weights else None


@torch.library.register_fake("evssm::enlarge", lib=OPERATORS)
def _enlarge_shape(x, weight):
    b, h, w, _ = x.shape
    return x.new_empty(b, 2 * h, 2 * w, len(weight))


@torch.library.register_fake("evssm::enlarge_backward", lib=OPERATORS)
def _enlarge_backward_shapes(dy, x, weight, weights):
    return x.new_empty(x.shape), weight.new_empty(weight.shape if weights else 0)


@register_flop_formula(torch.ops.evssm.enlarge)
def _enlarge_flops(x, weight, *_, out_shape=None, **__) -> int:
    """Those of the convolution of the large map; that the kernel takes the taps of the small one is its own affair."""
    b, h, w, c = x
    return 2 * b * 4 * h * w * c * weight[0] * 9


@register_flop_formula(torch.ops.evssm.enlarge_backward)
def _enlarge_backward_flops(dy, x, weight, weights, *_, out_shape=None, **__) -> int:
    return (1 + weights) * _enlarge_flops(x, weight)
