"""What training minimises."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from evssm.shapes import Image

Scaling = Literal["backward", "ortho"]
"""Of the Fourier transform: "backward" leaves it unscaled, as the released code does; "ortho" divides by sqrt(h w)."""


def frequency_distance(x: Image, y: Image, scaling: Scaling = "backward") -> Float[Tensor, ""]:
    """Mean over images, channels, frequencies and both parts of |Re| and |Im| of the transform of x - y.

    The transform is the two-dimensional one of the whole image. Left unscaled its values grow with the image: for
    white errors this is about sqrt(h w) times the mean absolute error. A real image's transform is the same, but for
    the sign of the imaginary part, at opposite frequencies, so half of it is computed and counted twice.
    """
    w = x.shape[-1]
    parts = torch.view_as_real(torch.fft.rfft2(x - y, norm=scaling)).abs().sum(-1)
    alone = [0, w // 2] if w % 2 == 0 else [0]  # columns that are their own opposites
    total = 2 * parts.sum() - parts[..., alone].sum()
    return total / (2 * x.numel())


def deblurring_loss(
    restored: Image, sharp: Image, *, frequency_weight: float = 0.1, scaling: Scaling = "backward"
) -> Float[Tensor, ""]:
    """Mean absolute error plus `frequency_weight` times `frequency_distance` (Kong et al. 2025, Eq. (1)).

    The weight of 0.1 and the unscaled transform are those of the released training options; at crops of 128 pixels the
    second term is then several times the first. A weight of 0 is the paper's "L1 loss" (supplement, Table 10).
    """
    loss = (restored - sharp).abs().mean()
    return loss + frequency_weight * frequency_distance(restored, sharp, scaling) if frequency_weight else loss
