"""What instance norms add to a receptive field: every pixel of a map has a share in its mean and its deviation."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


def norm_row(x: Float[Tensor, "h w"], query: tuple[int, int], eps: float = 1e-5) -> Float[Tensor, "h w"]:
    """How one normalised pixel answers to every pixel before an instance norm.

        d y[query] / d x = (1 at query - (1 + y[query] y) / n) / sqrt(variance + eps),   y = the normalised map

    for n pixels with their biased variance. Off the query that is the floor: no distance enters it, and it falls as
    one over the number of pixels.
    """
    deviation = torch.sqrt(x.var(correction=0) + eps)
    y = (x - x.mean()) / deviation
    row = -(1 + y[query] * y) / x.numel()
    row[query] += 1
    return row / deviation


@contextmanager
def constant_statistics(net: nn.Module) -> Iterator[None]:
    """While the block runs, gradients take the statistics of instance norms for constants; outputs stay what they are.

    A receptive field then shows what convolutions reach; the rest of the whole field is the norms' floor. Raises
    `LookupError` for a network without instance norms.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.InstanceNorm2d)]
    if not norms:
        raise LookupError(f"{type(net).__name__} has no instance norms (torch.nn.InstanceNorm2d) to hold")
    with ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_hook(_with_constant_statistics).remove)
        yield


def _with_constant_statistics(norm: nn.InstanceNorm2d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if norm.running_mean is not None and not norm.training:
        return output  # its statistics are constants already
    (x,) = inputs
    variance, mean = torch.var_mean(x.detach(), (-2, -1), correction=0, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + norm.eps)
    return y if norm.weight is None else y * norm.weight[:, None, None] + norm.bias[:, None, None]
