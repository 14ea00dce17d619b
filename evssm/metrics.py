"""PSNR and SSIM, one value per image, under a protocol that is written down with every score.

Three different SSIMs are published under the one name; on one pair of images they lie up to 0.07 apart, so each has a
name of its own here. All arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from evssm.images import levels
from evssm.shapes import Image, Map

BITS: dict[str, int | None] = {"8-bit": 8, "16-bit": 16, "none": None}
"""Rounding -> bits of the levels that images are rounded to, after clamping them to [0, 1]; "none" does neither."""

SSIMS = {
    "gauss": "per channel, 11 x 11 Gaussian of sigma 1.5, population covariance",
    "uniform": "per channel, 7 x 7 box, sample covariance",
    "volume": "over rows, columns and colours together, 11 x 11 x 11 Gaussian of sigma 1.5, edges repeated",
}
"""Variant -> definition. "gauss" is what RealBlur's authors compute, "uniform" what DPDD's tables hold (scikit-image's
default), "volume" what MATLAB's `ssim` makes of an RGB image, the usual column for GoPro and HIDE."""

ALIGNMENTS = {
    "none": "not aligned",
    "ecc": "aligned to the sharp image (ECC homography), scored where it covers that",
}

EDGE = {"gauss": 5, "uniform": 3, "volume": 0}
"""Pixels at each border of an image for which `ssim_map` has no value."""


@dataclass(frozen=True)
class Protocol:
    """How images are compared; scores are comparable only where all of it is the same.

    `rounding` is a key of `BITS`, `crop` the pixels left out at each border, `ssim` a key of `SSIMS`, `alignment` one
    of `ALIGNMENTS`. Raises `ValueError` for anything else.
    """

    rounding: str = "8-bit"
    ssim: str = "gauss"
    crop: int = 0
    alignment: str = "none"

    def __post_init__(self) -> None:
        _demand("rounding", self.rounding, BITS)
        _demand("an SSIM variant", self.ssim, SSIMS)
        _demand("an alignment", self.alignment, ALIGNMENTS)
        if self.crop < 0:
            raise ValueError(f"crop is the number of pixels left out at each border, 0 or more, not {self.crop}")

    def describe(self) -> str:
        """All of it in a line."""
        exact = f"clamped to [0, 1] and rounded to {BITS[self.rounding]} bits"
        return "; ".join(
            (
                f"RGB {'floats as they come, white 1' if self.rounding == 'none' else exact}",
                f"{self.crop or 'no'} border pixels left out",
                f"ssim_{self.ssim} ({SSIMS[self.ssim]})",
                ALIGNMENTS[self.alignment],
            )
        )


def rounded(x: Image, rounding: str) -> Float[Tensor, "b c h w"]:
    """The images in [0, 1] as they are compared: float64, clamped and rounded as the key of `BITS` says."""
    bits = BITS[_demand("rounding", rounding, BITS)]
    return x.double() if bits is None else levels(x, bits) / (2**bits - 1)


def psnr(
    x: Image,
    y: Map,
    *,
    rounding: str = "8-bit",
    crop: int = 0,
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each image in dB, -10 log10 of the mean squared error; infinite for equal images.

    Both images are clamped and rounded first, unless `rounding` is "none". Rounded levels are whole numbers, so for 8
    bits the sum of squares is exact. `crop` pixels at each border do not count; `mask` weighs the pixels. An image
    with NaN has the score NaN. Raises `ValueError` for shapes that differ and for images of whole numbers.
    """
    x, y, weight, peak = _prepared(x, y, rounding, crop, mask)
    squares = ((x - y).square() * weight).sum(dim=(1, 2, 3))
    return 10 * torch.log10(peak**2 * weight.sum(dim=(1, 2, 3)) * x.shape[1] / squares)


def ssim(
    x: Image,
    y: Map,
    *,
    variant: str = "gauss",
    rounding: str = "8-bit",
    crop: int = 0,
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Structural similarity of each image (Wang et al. 2004), the mean of `ssim_map`; 1 for equal images.

    For the other arguments see `psnr`. Raises `ValueError` as `psnr` does, and for images smaller than the window.
    """
    x, y, weight, peak = _prepared(x, y, rounding, crop, mask)
    values = ssim_map(x / peak, y / peak, variant=variant)
    edge = EDGE[_demand("an SSIM variant", variant, SSIMS)]
    weight = weight[..., edge : weight.shape[-2] - edge, edge : weight.shape[-1] - edge]
    return (values * weight).sum(dim=(1, 2, 3)) / (weight.sum(dim=(1, 2, 3)) * x.shape[1])


def ssim_map(x: Image, y: Image, *, variant: str = "gauss") -> Float[Tensor, "b c h1 w1"]:
    """The structural similarity at every pixel whose window lies inside the image, `EDGE` pixels from each border.

        (2 mx my + c1) (2 vxy + c2) / ((mx^2 + my^2 + c1) (vx + vy + c2)),  c1 = 0.01^2, c2 = 0.03^2

    with means `m` and (co)variances `v` in the window of the variant. Nothing is rounded or clamped here.
    """
    window = BOX if _demand("an SSIM variant", variant, SSIMS) == "uniform" else GAUSSIAN
    if min(x.shape[-2:]) < len(window):
        raise ValueError(
            f"ssim_{variant} looks through windows of {len(window)} pixels and has none in {x.shape[-2]} x "
            f"{x.shape[-1]}; give larger images"
        )
    x, y = x.double(), y.double()
    axes: tuple[int, ...] = (-2, -1)
    if variant == "volume":
        x, y, axes = _repeated(x), _repeated(y), (-3, -2, -1)
    moments = [_means(m, window, axes) for m in (x, y, x * x, y * y, x * y)]
    mx, my = moments[:2]
    samples = len(window) ** len(axes)
    spread = samples / (samples - 1) if variant == "uniform" else 1
    vx, vy, vxy = (spread * (m - p) for m, p in zip(moments[2:], (mx * mx, my * my, mx * my), strict=True))
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def _gaussian(sigma: float, radius: int) -> tuple[float, ...]:
    raw = [exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)]
    return tuple(w / sum(raw) for w in raw)


GAUSSIAN = _gaussian(1.5, 5)
BOX = (1 / 7,) * 7


def _means(x: Tensor, window: Sequence[float], axes: tuple[int, ...]) -> Tensor:
    """Weighted means over the windows that lie inside, along one axis after the other."""
    for axis in axes:
        count = x.shape[axis] - len(window) + 1
        total = torch.zeros_like(x.narrow(axis, 0, count))
        for k, weight in enumerate(window):
            total.add_(x.narrow(axis, k, count), alpha=weight)
        x = total
    return x


def _repeated(x: Tensor) -> Tensor:
    """The images with their edges repeated along rows, columns and colours, as far as the Gaussian reaches."""
    return F.pad(x[:, None], (len(GAUSSIAN) // 2,) * 6, mode="replicate")[:, 0]


def _prepared(
    x: Tensor, y: Tensor, rounding: str, crop: int, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Both images as float64, in levels where they are rounded, without their borders; the weight of each pixel
    (`b 1 h w`); and what white is."""
    if x.shape != y.shape or x.dim() != 4:
        raise ValueError(f"compared are two batches `b c h w` of one shape, not {tuple(x.shape)} and {tuple(y.shape)}")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(f"images are floats in [0, 1], not {x.dtype} and {y.dtype}; divide 8-bit levels by 255")
    h, w = x.shape[-2:]
    if crop < 0 or 2 * crop >= min(h, w):
        raise ValueError(f"cannot leave out {crop} pixels at each border of {h} x {w}; give a crop that leaves some")
    bits = BITS[_demand("rounding", rounding, BITS)]
    weight = torch.ones_like(x[:, :1]) if mask is None else mask
    inside = (..., slice(crop, h - crop), slice(crop, w - crop))
    x, y, weight = (m.detach().double()[inside] for m in (x, y, weight.to(x.device)))
    return (x, y, weight, 1) if bits is None else (levels(x, bits), levels(y, bits), weight, 2**bits - 1)


def _demand(what: str, value: str, known: dict) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not {what} known here; choose from {', '.join(known)}")
    return value
