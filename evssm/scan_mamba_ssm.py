"""The selective scan by the CUDA kernel of the package mamba-ssm (Gu & Dao 2023), where that is installed.

Not yet run on a GPU from here: tests hold what is handed to the kernel against its documented meaning.
"""

import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor

MOST_STATES = 256  # of the kernel


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """y `b d l` in the dtype of u, differentiable once in every tensor; computed in float32.

    Raises ValueError for float64 and for more than 256 states, which the kernel does not have.
    """
    tensors = (u, delta, A, B, C, D, delta_bias)
    if any(x is not None and x.dtype == torch.float64 for x in tensors):
        raise ValueError("scan backend 'mamba_ssm' computes in float32, and a tensor is float64; try 'torch'")
    if A.shape[1] > MOST_STATES:
        raise ValueError(f"scan backend 'mamba_ssm' has at most {MOST_STATES} states, not {A.shape[1]}; try 'torch'")
    given = (x if x is None else x.float().contiguous() for x in tensors)
    u32, delta32, A32, B32, C32, D32, bias32 = given
    y = selective_scan_fn(u32, delta32, A32, B32, C32, D32, delta_bias=bias32, delta_softplus=delta_softplus)
    return y.to(u.dtype)
