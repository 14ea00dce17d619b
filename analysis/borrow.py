"""Using somebody else's network without leaving a trace on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

CHECKPOINT_ABOVE = 160 * 160
"""Pixels from which on a large network's activations crowd a small machine's memory."""


@contextmanager
def borrowed(net: Callable[..., Any], *, checkpoint: bool = False) -> Iterator[None]:
    """`net` in evaluation mode with frozen parameters while the block runs; gradients are on.

    Put back afterwards, also after an exception: each module's `training`, each parameter's
    `requires_grad`, the network's `checkpoint` (recompute blocks in the backward pass; set to the argument
    where the network has that switch), torch's random state and its gradient mode. A callable that is no
    `nn.Module` is run as it is.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    parameters = list(net.parameters()) if isinstance(net, nn.Module) else []
    training = [module.training for module in modules]
    trainable = [parameter.requires_grad for parameter in parameters]
    switch = checkpoint_switch(net)
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.enable_grad():
        try:
            for module in modules:
                module.training = False  # not .eval(): networks override it, some to fold their weights
            for parameter in parameters:
                parameter.requires_grad_(False)
            if switch is not None:
                setattr(net, "checkpoint", checkpoint)  # noqa: B010  a callable is not known to have it
            yield
        finally:
            if switch is not None:
                setattr(net, "checkpoint", switch)  # noqa: B010
            for parameter, flag in zip(parameters, trainable, strict=True):
                parameter.requires_grad_(flag)
            for module, flag in zip(modules, training, strict=True):
                module.training = flag


def checkpoint_switch(net: Callable[..., Any]) -> bool | None:
    """Whether `net` recomputes its blocks in the backward pass; `None` where it has no such switch."""
    switch = getattr(net, "checkpoint", None)
    return switch if isinstance(switch, bool) else None


def recomputes(net: Callable[..., Any], checkpoint: bool | str, pixels: int) -> bool:
    """Whether the network shall recompute its blocks in the backward pass: as told, or at "auto" for large images.

    Raises `ValueError` for another word, and where that is asked of a network without such a switch.
    """
    switch = checkpoint_switch(net)
    if checkpoint == "auto":
        return switch is not None and (switch or pixels > CHECKPOINT_ABOVE)
    if not isinstance(checkpoint, bool):
        raise ValueError(f'checkpoint is True, False or "auto"; got {checkpoint!r}')
    if checkpoint and switch is None:
        raise ValueError(f"{type(net).__name__} has no boolean attribute `checkpoint`; leave it at 'auto'")
    return checkpoint
