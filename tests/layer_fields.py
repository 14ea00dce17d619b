"""Which columns of the input a column of the output reads, by counting through the layers.

A layer is a function from the set of columns asked for to the set of columns that they read; a network is the layers
from the last to the first, and the union where paths meet. Borders are not looked at: ask far enough inside.
"""

from collections.abc import Callable, Iterable
from functools import reduce

import torch
from torch import Tensor, nn

Columns = frozenset[int]
Layer = Callable[[Columns], Columns]


def convolution(kernel: int, *, stride: int = 1, before: int | None = None, dilation: int = 1) -> Layer:
    """`before` pixels of padding on the left; half the kernel's reach unless given."""
    before = (kernel - 1) * dilation // 2 if before is None else before
    return lambda asked: frozenset(o * stride - before + k * dilation for o in asked for k in range(kernel))


def transposed(kernel: int, *, stride: int = 2, padding: int = 1) -> Layer:
    """Input i reaches the outputs i stride - padding + k."""
    return lambda asked: frozenset(
        (o + padding - k) // stride for o in asked for k in range(kernel) if (o + padding - k) % stride == 0
    )


def pooled(asked: Columns) -> Columns:
    return frozenset(2 * o + k for o in asked for k in (0, 1))


def repeated(asked: Columns) -> Columns:
    """Nearest doubling."""
    return frozenset(o // 2 for o in asked)


def subsampled(step: int) -> Layer:
    return lambda asked: frozenset(o * step for o in asked)


def back(asked: Iterable[int], *layers: Layer) -> Columns:
    """The columns read through `layers`, given in the order of the forward pass."""
    return reduce(lambda columns, layer: layer(columns), reversed(layers), frozenset(asked))


def columns_of(gradient: Tensor) -> Columns:
    """The columns of a map `1 c h w` that are not 0 everywhere."""
    return frozenset(gradient[0].abs().sum((0, 1)).nonzero().flatten().tolist())


def nothing_cut_off(net: nn.Module) -> nn.Module:
    """`net` in float64 with random weights, where no activation is flat anywhere and pooling takes the mean, so that
    everything read has a gradient."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(0.5))
            elif isinstance(child, nn.Sigmoid | nn.Tanh):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return net.requires_grad_(False)
