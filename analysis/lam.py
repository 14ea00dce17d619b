"""Local attribution maps: gradients along a path from a blurred image to the image itself (Gu & Dong 2021)."""

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evssm.shapes import Image

SIGMA = 1.2
"""Standard deviation, in px, of the blur at which Gu & Dong's path begins."""


def gaussian_blur(x: Image, sigma: int | float, *, largest: int | float | None = None) -> Image:
    """`x` convolved with a Gaussian of `sigma` px, sampled at the pixels and normalised, reflected at the border.

    It ends at three times `largest`, which is `sigma` unless given, so that kernels along a path have one support
    (9 x 9 for 1.2 px, as in Gu & Dong's code). A `sigma` of 0 returns `x`.

    Raises `ValueError` for negative sigmas and for images that the kernel is too large for.
    """
    reach = ceil(3 * (sigma if largest is None else largest))
    if sigma < 0 or reach >= min(x.shape[-2:]):
        raise ValueError(f"a blur of {sigma:g} px needs 0 px or more, and sides above {reach} px; got {x.shape[-2:]}")
    if sigma == 0:
        return x
    offset = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel, groups=x.shape[1])
    return F.conv2d(rows, kernel.mT, groups=x.shape[1])


def blur_path(x: Image, sigma: int | float) -> Callable[[float], Image]:
    """The images gamma(a), `x` blurred by sigma (1 - a) px: from the blurred image at a = 0 to `x` at a = 1."""
    return lambda a: gaussian_blur(x, sigma * (1 - a), largest=sigma)


def integral_along(
    scalar: Callable[[Tensor], Tensor], path: Callable[[float], Image], steps: int
) -> Float[Tensor, "b c h w"]:
    """The integral of d scalar(gamma(a)) / d gamma * d gamma / da over a from 0 to 1, pixel by pixel, in float64.

    Each of `steps` equal parts takes the gradient in its middle times the difference of its ends: exact for a linear
    scalar on any path, and otherwise wrong by a term that falls with the square of the steps. One image is held at a
    time, so memory does not depend on their number.
    """
    start = path(0.0)
    total = torch.zeros(start.shape, dtype=torch.float64)
    for k in range(steps):
        end = path((k + 1) / steps)
        middle = path((k + 0.5) / steps).detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(scalar(middle).sum(), middle, allow_unused=True)
        if gradient is not None:
            total += (gradient.double() * (end.double() - start.double())).cpu()
        start = end
    return total
