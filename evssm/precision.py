"""Steps that half precision would spoil: what they compute in, and autocast off for them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside it nothing on the device of `x` is cast; it does nothing where nothing ever is, as on device "meta"."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def computing_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that such a step of these tensors computes in: their common one, but at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 where it is float64: for sums that half precision would spoil."""
    return x if x.dtype == torch.float64 else x.float()
