"""Our scan under the name and with the arguments of mamba-ssm's, for layers that were written for that (Gu & Dao 2023).

    from evssm.mamba_ssm import selective_scan_fn   # in place of mamba_ssm.ops.selective_scan_interface

runs on any device, and lets activation maps see the scan.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evssm.scan import selective_scan


def selective_scan_fn(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Float[Tensor, " d"] | None = None,
    z: Float[Tensor, "b d l"] | None = None,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """y, times silu(z) where there is a gate; with `return_last_state` also h after the last step, `b d n`.

    A is `d n`; B and C are `b n l`, `b g n l`, or `d n` where they do not depend on the input. See
    `evssm.selective_scan`, which this calls. Raises `ValueError` for complex numbers (S4's).
    """
    if any(x.is_complex() for x in (A, B, C)):
        raise ValueError("this scan is for real A, B and C; complex ones (S4's) are not supported")
    B, C = (_over_steps(x, u) for x in (B, C))
    options: dict[str, Any] = {"delta_bias": delta_bias, "delta_softplus": delta_softplus}
    y = selective_scan(u, delta.to(u.dtype), A, B, C, D, **options)
    y = y if z is None else y * F.silu(z)
    if not return_last_state:
        return y
    # With a one in one state of C, y is that state.
    states = [selective_scan(u, delta.to(u.dtype), A, B, _only(C, i), **options)[..., -1] for i in range(A.shape[1])]
    return y, torch.stack(states, dim=-1)


def _over_steps(x: Tensor, u: Tensor) -> Tensor:
    """B or C as the scan takes it; one that is the same at every step is a group for each channel."""
    return x[None, :, :, None].expand(len(u), -1, -1, u.shape[-1]) if x.ndim == 2 else x


def _only(C: Tensor, state: int) -> Tensor:
    one = torch.zeros_like(C)
    one.select(-2, state).fill_(1)
    return one
