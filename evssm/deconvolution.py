"""Defocus undone without learning: deconvolution under a prior on gradients, each pixel by the blur a map says it has.

The second half of the methods that first estimate a map of blur (JNB, EBDB, DMENet). The prior and its solution are
Krishnan and Fergus 2009, "Fast Image Deconvolution Using Hyper-Laplacian Priors"; quantiles, weights and the exponent
are those with which DMENet's authors deconvolved DPDD. With that exponent of 1.5 the prior is no hyper-Laplacian, which
asks for less than 1; photographs have about 2/3.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import fft

from evssm.data.defocus import half_aperture_kernels
from evssm.shapes import Image

DPDD_WEIGHT = 16.8
DPDD_EXPONENT = 1.5

BETAS = tuple(8 ** (step / 2) for step in range(6))
"""How strongly auxiliary gradients are tied to the image's, step by step: 1, 2.83, ... 181."""

_TABLE = np.linspace(0, 10, 100_001)

Kernel = Callable[[float], np.ndarray]
"""From the standard deviation of a blur along each axis, in pixels, to its point spread `k k`, summing to 1."""


def gaussian_kernel(sigma: float | int) -> np.ndarray:
    """A Gaussian of at most 101 x 101 pixels, cut where it is below rounding; one pixel where its neighbours are."""
    if sigma <= 0:
        return np.ones((1, 1))
    at = np.arange(-50, 51)
    row = np.exp(-(at**2) / (2 * sigma**2))
    row = row[row > np.finfo(float).eps]
    return np.outer(row, row) / row.sum() ** 2


def disc_kernel(sigma: float | int) -> np.ndarray:
    """The even disc with that standard deviation along each axis, 4 sigma wide: what a round aperture makes."""
    return np.mean(half_aperture_kernels(4 * float(sigma)), axis=0) if sigma > 0 else np.ones((1, 1))


def deblurred_by_map(
    x: Image,
    sigma: Float[np.ndarray, "b h w"],
    *,
    kernel: Kernel = gaussian_kernel,
    weight: float | int = DPDD_WEIGHT,
    exponent: float | int = DPDD_EXPONENT,
    quantiles: int = 32,
) -> Image:
    """Each image deconvolved with every blur of its map, each pixel taken from the result for its own; in [0, 1].

    `sigma` is the standard deviation of the blur along each axis at each pixel, in pixels. It is brought to about as
    many values as `quantiles`: a pixel takes the lower edge of its bin. `weight` and `exponent` as in `deconvolved`.
    Where the map jumps the result has seams. Raises `ValueError` for a map with negative or infinite values.
    """
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError("a map of blur holds finite numbers of 0 or more; clip it first")
    images = x.detach().cpu().double().numpy()
    found = np.empty_like(images)
    for image, own, out in zip(images, quantised(sigma, quantiles), found, strict=True):
        for level in np.unique(own):
            whole = deconvolved_whole(image, kernel(float(level)), weight=weight, exponent=exponent)
            out[:, own == level] = whole[:, own == level]
    return torch.from_numpy(found.clip(0, 1)).to(x)


def quantised(sigma: Float[np.ndarray, "b h w"], quantiles: int) -> Float[np.ndarray, "b h w"]:
    """The maps with each value lowered to the next of the quantiles of its map's distinct values, or the least one."""

    def lowered(one: np.ndarray) -> np.ndarray:
        distinct = np.unique(one)
        inner = np.quantile(distinct, np.arange(1, quantiles + 1) / (quantiles + 1))
        edges = np.unique([distinct[0], *inner, distinct[-1]])
        return edges[np.searchsorted(edges, one, side="right") - 1]

    return np.stack([lowered(one) for one in sigma])


def deconvolved_whole(
    image: Float[np.ndarray, "c h w"], kernel: Float[np.ndarray, "k k"], *, weight: float | int, exponent: float | int
) -> Float[np.ndarray, "c h w"]:
    """The image deconvolved as a picture with borders: continued by its edge and faded into its own blur there."""
    reach, (h, w) = len(kernel) // 2, image.shape[1:]
    if reach == 0:
        return image  # nothing to undo
    sides = [fft.next_fast_len(n + 2 * reach, real=True) - n - reach for n in (h, w)]
    padded = np.pad(image, ((0, 0), *((reach, after) for after in sides)), mode="edge")
    for _ in range(4):
        padded = tapered(padded, kernel)
    found = deconvolved(padded, kernel, weight=weight, exponent=exponent)
    return found[:, reach : reach + h, reach : reach + w]


def tapered(image: Float[np.ndarray, "c h w"], kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "c h w"]:
    """The image inside, its circular blur at the borders, so that it looks blurred across them too.

    The share of the image is the product over both axes of one minus the kernel's autocorrelation, as MATLAB's
    `edgetaper` has it.
    """

    def share(projected: np.ndarray, n: int) -> np.ndarray:
        correlation = fft.irfft(np.abs(fft.rfft(projected, n - 1)) ** 2, n - 1)
        return 1 - np.append(correlation, correlation[0]) / correlation.max()

    inner = np.outer(share(kernel.sum(1), image.shape[1]), share(kernel.sum(0), image.shape[2]))
    return inner * image + (1 - inner) * blurred_around(image, kernel)


def blurred_around(image: Float[np.ndarray, "c h w"], kernel: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "c h w"]:
    """The circular convolution of the image with the kernel."""
    return fft.irfft2(fft.rfft2(image) * _spectrum(kernel, image.shape[1:]), image.shape[1:])


def deconvolved(
    y: Float[np.ndarray, "c h w"], kernel: Float[np.ndarray, "k k"], *, weight: float | int, exponent: float | int
) -> Float[np.ndarray, "c h w"]:
    """x that makes (weight / 2) |kernel * x - y|^2 + sum |gradient of x|^exponent small, all circular.

    Half-quadratic splitting: the gradients get auxiliary numbers v, tied to them by (beta / 2) |gradient - v|^2, and
    for each of `BETAS` first v and then x is the best one given the other.
    """
    size = y.shape[1:]
    blur = _spectrum(kernel, size)
    differences = np.stack([_spectrum(np.array(d), size, centred=False) for d in ([[-1], [1]], [[-1, 1]])])
    # Gradients are forward differences, correlations with (-1, 1): the conjugates of the convolutions' spectra.
    differences = differences.conj()
    data, power = blur.conj() * fft.rfft2(y), np.abs(blur) ** 2
    roughness = (np.abs(differences) ** 2).sum(0)
    x = fft.rfft2(y)
    for beta in BETAS:
        gradients = fft.irfft2(differences[:, None] * x, size)
        back = (differences.conj()[:, None] * fft.rfft2(shrunk(gradients, beta, exponent))).sum(0)
        x = (data + beta / weight * back) / (power + beta / weight * roughness)
    return fft.irfft2(x, size)


def _spectrum(kernel: np.ndarray, size: tuple[int, ...], *, centred: bool = True) -> np.ndarray:
    """Of the convolution with a kernel whose origin is its middle, or else its first element."""
    whole = np.zeros(size)
    whole[: kernel.shape[0], : kernel.shape[1]] = kernel
    if centred:
        whole = np.roll(whole, [-(n // 2) for n in kernel.shape], (0, 1))
    return fft.rfft2(whole)


def shrunk(v: np.ndarray, beta: float, exponent: float | int) -> np.ndarray:
    """For each v the w with the least |w|^exponent + (beta / 2) (w - v)^2, read from a table in steps of 1e-4."""
    size = np.abs(v)
    found = np.interp(size, _TABLE, _shrunk_table(beta, exponent))
    if (beyond := size > _TABLE[-1]).any():
        found[beyond] = least(size[beyond], beta, exponent)
    return np.copysign(found, v)


@lru_cache(maxsize=64)
def _shrunk_table(beta: float, exponent: float | int) -> np.ndarray:
    return least(_TABLE, beta, exponent)


def least(v: np.ndarray, beta: float, exponent: float | int) -> np.ndarray:
    """What `shrunk` reads, for v of 0 or more, by halving intervals down to rounding.

    The slope, exponent w^(exponent - 1) + beta (w - v), falls up to some w where the exponent is below 1 and rises
    from there on: its last zero is the one minimum besides 0, and the lower of both is taken.
    """
    turn = (exponent * (1 - exponent) / beta) ** (1 / (2 - exponent)) if exponent < 1 else 0.0
    low, high = np.minimum(turn, v), v.copy()
    for _ in range(48):
        middle = (low + high) / 2
        with np.errstate(divide="ignore"):  # at 0 the slope may be infinite, and is positive
            rises = exponent * middle ** (exponent - 1) + beta * (middle - v) > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return np.where(high**exponent + beta / 2 * (high - v) ** 2 < beta / 2 * v**2, high, 0.0)
