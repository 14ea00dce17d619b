"""The selective scan as its definition: a loop that anyone can read, and that autograd differentiates by itself."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from evssm.precision import computing_dtype

Grouped = Float[Tensor, "b n l"] | Float[Tensor, "b g n l"]
"""One row of n numbers per step, shared by all d channels, or by the d / g channels of each group."""


def per_channel(x: Grouped, channels: int) -> Float[Tensor, "b d n l"]:
    """`x` with the row of each channel's group in place of the row of each group."""
    if x.ndim == 3:
        x = rearrange(x, "b n l -> b 1 n l")
    return repeat(x, "b g n l -> b (g per_group) n l", per_group=channels // x.shape[1])


def selective_scan_definition(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Grouped,
    C: Grouped,
    D: Float[Tensor, " d"] | None = None,
    *,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_softplus: bool = False,
) -> Float[Tensor, "b d l"]:
    """The selective state space run over l steps, from h = 0 (Gu & Dao 2023, Algorithm 2).

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = C[t] . h[t] + D u[t]

    with `delta + delta_bias`, and its softplus, in place of `delta` where asked. The state enters by the plain product
    delta B, not by the exact zero-order hold. Computed in at least float32 and returned in the dtype of `u`;
    differentiable as often as wanted. Memory grows with b d l n: this is what the fast versions are held against.
    """
    dtype = computing_dtype(u, delta, A, B, C, D, delta_bias)
    x, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    B, C = per_channel(B, x.shape[1]), per_channel(C, x.shape[1])
    decay = einsum(delta, A, "b d l, d n -> l b d n").exp()
    drive = einsum(delta, B, x, "b d l, b d n l, b d l -> l b d n")
    h, states = x.new_zeros(*x.shape[:2], A.shape[1]), []
    # `unbind`, not decay[t]: the gradient of each index would be a zero tensor as large as all steps together.
    for decay_t, drive_t in zip(decay.unbind(), drive.unbind(), strict=True):
        h = decay_t * h + drive_t
        states.append(h)
    if not states:
        return u.new_zeros(u.shape)
    y = einsum(torch.stack(states), C, "l b d n, b d n l -> b d l")
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    return y.to(u.dtype)
