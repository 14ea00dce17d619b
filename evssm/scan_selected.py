"""The selective scan of a map together with what selects its parameters, as one differentiable step.

Autograd would add up gradients of slices in maps of their own, and look after every part in between; here the same
operators run one after another, and their gradients go straight where they belong.
"""

from math import prod

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

from evssm.fused import (
    DEPTHWISE,
    DEPTHWISE_BACKWARD,
    LINEAR_BACKWARD,
    OPERATORS,
    define,
    depthwise,
    linear,
    served,
)
from evssm.precision import at_least_float32
from evssm.scan import selective_scan
from evssm.scan_choice import backend_module, preferred
from evssm.shapes import Image

PLAIN = 0  # nothing follows the convolution
CHOSEN = "Tensor u, Tensor projection, Tensor weight, Tensor bias"
SELECT = define(f"select({CHOSEN}, int rank) -> (Tensor, Tensor)")
SELECT_BACKWARD = define(
    f"select_backward(Tensor dt, Tensor dB, Tensor dC, Tensor(a!) du, {CHOSEN}, bool weights)"
    " -> (Tensor, Tensor, Tensor)"
)
SCANNED = "Tensor u, Tensor t, Tensor steps, Tensor A, Tensor BC, Tensor D, Tensor bias"
SCAN_STEPS = define(f"scan_steps({SCANNED}, bool keep) -> (Tensor, Tensor)")
SCAN_STEPS_BACKWARD = define(
    f"scan_steps_backward(Tensor dy, {SCANNED}, Tensor borders)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def select(
    u: Image,
    projection: Float[Tensor, "s d"],
    weight: Float[Tensor, "s 1 ..."],
    bias: Float[Tensor, " s"],
    steps: Float[Tensor, "d r"],
) -> tuple[Float[Tensor, "b d l"], Float[Tensor, "b d l"], Float[Tensor, "b n l"], Float[Tensor, "b n l"]]:
    """The sequence of u, read row by row, its raw step sizes, B and C, which all come from u (Gu & Dao 2023, Sec. 3.2).

    The s = r + 2 n parameters of a pixel are `projection` times its channels, convolved depth-wise with `weight`: over
    the map, or, where that is `s 1 k`, along the sequence, on across the ends of rows. The first r times `steps` are
    the step sizes, before bias and softplus; the other two n are B and C. All are float32 or float64.
    """
    line = rearrange(u, "b d h w -> b d 1 (h w)") if weight.dim() == 3 else u
    s = depthwise(line, _kernel(weight), bias, projection=projection)
    delta = linear(s[:, : steps.shape[1]], steps).flatten(2)
    B, C = s[:, steps.shape[1] :].flatten(2).chunk(2, dim=1)
    return tuple(map(at_least_float32, (u.flatten(2), delta, B, C)))  # type: ignore[return-value]


def scan_selected(
    u: Image,
    projection: Float[Tensor, "s d"],
    weight: Float[Tensor, "s 1 ..."],
    bias: Float[Tensor, " s"],
    steps: Float[Tensor, "d r"],
    A: Float[Tensor, "d n"],
    D: Float[Tensor, " d"],
    step_bias: Float[Tensor, " d"],
) -> Image:
    """`selective_scan` over what `select` finds in u, with `step_bias` and softplus, as a map again.

    Raises ValueError where s is not r + 2 n.
    """
    if len(projection) != steps.shape[1] + 2 * A.shape[1]:
        raise ValueError(f"{len(projection)} parameters, expected r + 2 n = {steps.shape[1]} + 2 x {A.shape[1]}")
    inputs = (u, projection, weight, bias, steps, A, D, step_bias)
    if not served(*inputs) or preferred() not in ("auto", "numba"):
        return scan_selected_definition(*inputs)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return _ScanSelected.apply(keep, *inputs)


def scan_selected_definition(
    u: Tensor,
    projection: Tensor,
    weight: Tensor,
    bias: Tensor,
    steps: Tensor,
    A: Tensor,
    D: Tensor,
    step_bias: Tensor,
) -> Tensor:
    """`scan_selected` step by step."""
    sequence, delta, B, C = select(u, projection, weight, bias, steps)
    y = selective_scan(sequence, delta, A, B, C, D, delta_bias=step_bias, delta_softplus=True)
    return rearrange(y, "b d (h w) -> b d h w", h=u.shape[2])


def _kernel(weight):
    """The depth-wise kernel, of one row where it runs along the sequence."""
    return weight[:, :, None] if weight.dim() == 3 else weight


class _ScanSelected(Function):
    @staticmethod
    def forward(ctx, keep, u, projection, weight, bias, steps, A, D, step_bias):
        u = u.permute(0, 2, 3, 1)
        b, h, w, d = u.shape
        sequence = u.reshape(b, h * w, d)
        t, BC = _selected(u, sequence, projection, weight, bias, steps.shape[1])
        y, borders = SCAN_STEPS(sequence, t, steps, A, BC, D, step_bias, keep)
        ctx.save_for_backward(u, t, BC, borders, projection, weight, bias, steps, A, D, step_bias)
        return y.view(u.shape).permute(0, 3, 1, 2).detach()  # no view: those cannot be changed in place

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        u, t, BC, borders, projection, weight, bias, steps, A, D, step_bias = ctx.saved_tensors
        b, h, w, d = u.shape
        weights = any(ctx.needs_input_grad[2:])
        sequence, asked = u.reshape(b, h * w, d), dy.permute(0, 2, 3, 1).reshape(b, h * w, d)
        du, ddelta, dA, dB, dC, dD, dstep_bias = SCAN_STEPS_BACKWARD(
            asked, sequence, t, steps, A, BC, D, step_bias, borders
        )
        dt, dsteps = LINEAR_BACKWARD(ddelta[:, None], t[:, None], steps, True, weights)
        du, *gradients = _selected_backward(dt[:, 0], dB, dC, du, u, sequence, projection, weight, bias, weights)
        gradients = (*gradients, dsteps) if weights else (None,) * 4
        return None, du.view(u.shape).permute(0, 3, 1, 2), *gradients, dA, dD, dstep_bias


def _selected(u, sequence, projection, weight, bias, rank):
    """What the step sizes are made of, `b l r`, and B and C, `b l 2n`."""
    if weight.dim() == 3:
        return SELECT(sequence, projection, weight, bias, rank)
    s = DEPTHWISE(u, projection, weight, bias, PLAIN, None).flatten(1, 2)
    return s[..., :rank], s[..., rank:]


def _selected_backward(dt, dB, dC, du, u, sequence, projection, weight, bias, weights):
    """`du`, `b l d`, plus the gradient of u, and those of the parameters."""
    if weight.dim() == 3:
        return du, *SELECT_BACKWARD(dt, dB, dC, du, sequence, projection, weight, bias, weights)
    ds = torch.cat([dt, dB, dC], dim=-1).view(*u.shape[:3], -1)
    dx, *gradients, _ = DEPTHWISE_BACKWARD(ds, u, projection, weight, bias, PLAIN, None, weights, du.view(u.shape))
    return dx, *gradients


@torch.library.register_fake("evssm::select", lib=OPERATORS)
def _select_shapes(u, projection, weight, bias, rank):
    return u.new_empty(*u.shape[:2], rank), u.new_empty(*u.shape[:2], len(projection) - rank)


@torch.library.register_fake("evssm::select_backward", lib=OPERATORS)
def _select_backward_shapes(dt, dB, dC, du, u, projection, weight, bias, weights):
    return tuple(u.new_empty(p.shape if weights else 0) for p in (projection, weight, bias))


@torch.library.register_fake("evssm::scan_steps", lib=OPERATORS)
def _scan_steps_shapes(u, t, steps, A, BC, D, bias, keep):
    B = BC[:, :, None].chunk(2, dim=-1)[0]
    return u.new_empty(u.shape), u.new_empty(backend_module("numba").borders_shape(u, A, B) if keep else 0)


@torch.library.register_fake("evssm::scan_steps_backward", lib=OPERATORS)
def _scan_steps_backward_shapes(dy, u, t, steps, A, BC, D, bias, borders):
    half = BC.shape[-1] // 2
    shapes = u.shape, u.shape, A.shape, (*u.shape[:2], half), (*u.shape[:2], half), D.shape, bias.shape
    return tuple(u.new_empty(shape) for shape in shapes)


@register_flop_formula(torch.ops.evssm.select)
def _select_flops(u, projection, weight, *_, out_shape=None, **__) -> int:
    """Those of the product and the convolution: a multiplication and an addition are two."""
    b, l, d = u
    return 2 * b * l * weight[0] * (weight[2] + d)


@register_flop_formula(torch.ops.evssm.select_backward)
def _select_backward_flops(dt, dB, dC, du, u, projection, weight, bias, weights, *_, out_shape=None, **__) -> int:
    return (2 if weights else 1) * _select_flops(u, projection, weight)


@register_flop_formula(torch.ops.evssm.scan_steps)
def _scan_steps_flops(u, t, steps, A, *_, out_shape=None, **__) -> int:
    """Those of the scan, and of the products that its step sizes are."""
    return flop_registry[torch.ops.evssm.scan](u, None, A) + 2 * prod(u) * steps[1]


@register_flop_formula(torch.ops.evssm.scan_steps_backward)
def _scan_steps_backward_flops(dy, u, t, steps, A, *_, out_shape=None, **__) -> int:
    """Those of the scan: the products' own gradients are another operator's."""
    return flop_registry[torch.ops.evssm.scan_backward](dy, u, None, A)
