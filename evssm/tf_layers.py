"""Where TensorFlow computes otherwise than PyTorch, for the networks whose authors used it.

Padding "SAME" puts an odd pixel to the right and below, and the bilinear resizing of TensorFlow 1 takes output i from
position i in / out, so that halving is leaving out.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evssm.shapes import Image


def same_padding(kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after a side that is a multiple of `stride`, so that side / stride pixels come out."""
    missing = max((kernel - 1) * dilation + 1 - stride, 0)
    return missing // 2, missing - missing // 2


def same(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, ...]:
    """The layers of a convolution with padding "SAME": one, or a padding before it where its sides differ."""
    before, after = same_padding(kernel, stride, dilation)
    if before == after:
        return (nn.Conv2d(c_in, c_out, kernel, stride, before, dilation),)
    return nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(c_in, c_out, kernel, stride, 0, dilation)


def subsampled(x: Image, step: int) -> Float[Tensor, "b c _ _"]:
    """The map bilinearly resized to the `step`-th part: every `step`-th pixel from the first on, no averages."""
    return x[..., ::step, ::step]


def doubled(x: Image) -> Float[Tensor, "b c _ _"]:
    """The map bilinearly resized to twice its size: between two pixels their mean, at the end the last one again."""
    for axis in (2, 3):
        last = x.shape[axis] - 1
        following = torch.cat((x.narrow(axis, 1, last), x.narrow(axis, last, 1)), axis)
        x = torch.stack((x, (x + following) / 2), axis + 1).flatten(axis, axis + 1)
    return x
