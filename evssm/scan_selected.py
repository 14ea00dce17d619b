"""The selective scan of a map together with what selects its parameters, as one differentiable step.

Autograd would add up gradients of slices in maps of their own, and look after every part in between; here the same
operators run one after another, and their gradients go straight where they belong.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from evssm.fused import DEPTHWISE, DEPTHWISE_BACKWARD, LINEAR, LINEAR_BACKWARD, depthwise, linear, served
from evssm.precision import at_least_float32
from evssm.scan import SCAN, SCAN_BACKWARD, selective_scan
from evssm.scan_choice import preferred
from evssm.shapes import Image

PLAIN = 0  # nothing follows the convolution


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
    return _ScanSelected.apply(keep, u.permute(0, 2, 3, 1), *inputs[1:]).permute(0, 3, 1, 2)


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
        (b, h, w, d), rank = u.shape, steps.shape[1]
        x = u.reshape(b, 1, h * w, d) if weight.dim() == 3 else u
        s = DEPTHWISE(x, projection, _kernel(weight), bias, PLAIN, None).view(b, 1, h * w, -1)
        delta = LINEAR(s[..., :rank], steps, None).view(b, h * w, d)
        y, borders = SCAN(u.reshape(b, h * w, d), delta, A, *_parts(s, rank), D, step_bias, True, keep, "numba")
        ctx.save_for_backward(u, s, delta, borders, projection, weight, bias, steps, A, D, step_bias)
        return y.view(u.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        u, s, delta, borders, projection, weight, bias, steps, A, D, step_bias = ctx.saved_tensors
        (b, h, w, d), rank = u.shape, steps.shape[1]
        weights = any(ctx.needs_input_grad[2:])
        sequence, asked = u.reshape(b, h * w, d), dy.reshape(b, h * w, d)
        du, ddelta, dA, dB, dC, dD, dstep_bias = SCAN_BACKWARD(
            asked, sequence, delta, A, *_parts(s, rank), D, step_bias, borders, True, "numba"
        )
        ddelta, dsteps = LINEAR_BACKWARD(ddelta.view(b, 1, h * w, d), s[..., :rank], steps, True, weights)
        ds = torch.cat([ddelta.view(b, h * w, rank), dB.squeeze(2), dC.squeeze(2)], dim=-1)
        x = sequence[:, None] if weight.dim() == 3 else u
        dx, dprojection, dweight, dbias, _ = DEPTHWISE_BACKWARD(
            ds.view(*x.shape[:3], -1), x, projection, _kernel(weight), bias, PLAIN, None, weights
        )
        du = du.add_(dx.view(du.shape)).view(u.shape)
        gradients = (dprojection, dweight.view(weight.shape), dbias, dsteps) if weights else (None,) * 4
        return None, du, *gradients, dA, dD, dstep_bias


def _parts(s, rank):
    """B and C of the parameters `b 1 l s`, as the scan wants them."""
    return (part[:, 0, :, None] for part in s[..., rank:].chunk(2, dim=-1))
