"""Steps that lower precision would spoil: autocast is off for them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Inside it nothing on the device of `x` is cast; it does nothing where nothing ever is, as on device "meta"."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
