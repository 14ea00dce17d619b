"""What a network does to the waves in an image: its local transfer function, beside the one that would undo a blur.

To first order, and around one pixel q, any network is a filter: with J[p] the derivative of its output at q by the
input at p, grey to grey, a wave of frequency f passes with the gain H(f) = sum over p of J[p] exp(2 pi i f (p - q)). A
blur with transfer function K asks for 1 / K; H K is what the two together leave of the scene.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from analysis.activations import Query, query_pixel
from analysis.borrow import borrowed, recomputes
from analysis.field_statistics import Number
from analysis.inputs import check_fit, single_images
from analysis.making import made_of
from analysis.sensitivity import INCLUDE, Network, Select, response
from evssm.data.kernels import blur, motion_kernel

BANDS = 8
"""Equal parts of the frequencies from 0 to 1/2 cycle per pixel."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """Local transfer functions of one network at one pixel, one per image; frequencies as `numpy.fft.fftfreq` has them.

    `blur` is the transfer function of the blur that the images have, `angle` the direction of its motion in degrees;
    `None` where they are not known.
    """

    per_image: Complex[np.ndarray, "n h w"]
    blur: Complex[np.ndarray, "h w"] | None
    angle: float | None
    provenance: dict[str, Any]

    @property
    def response(self) -> Complex[np.ndarray, "h w"]:
        """The mean over images, which is that of the mean signed field."""
        return self.per_image.mean(axis=0)

    def restored(self) -> tuple[float, float]:
        """Mean over all frequencies of the real part of H K, and of K alone: 1 for the ideal inverse, and what the
        blur leaves by itself. `ValueError` where the blur is not known."""
        if self.blur is None:
            raise ValueError("the blur of these images is not known; use `blur_transfer`, which makes it")
        return float((self.response * self.blur).real.mean()), float(self.blur.real.mean())

    def rows(self) -> list[dict[str, Any]]:
        """A line for each band of frequencies and direction, "all" or "along" and "across" a known motion.

        "gain" is the mean of |H|, "blur" that of |K|, "ideal" that of 1 / |K|, and "together" the mean real part of
        H K; directions are within 22.5 degrees. Without a frequency in it, a band is left out.
        """
        f = np.stack(np.meshgrid(*(np.fft.fftfreq(side) for side in self.response.shape), indexing="ij"))
        size, found = np.hypot(*f), []
        for name, sector in self._sectors(f).items():
            for band in range(BANDS):
                low, high = band / BANDS / 2, (band + 1) / BANDS / 2
                chosen = sector & (size >= low) & (size < high)
                if chosen.any():
                    found.append({"direction": name, "from": low, "to": high, **self._band(chosen)})
        return found

    def _band(self, chosen: np.ndarray) -> dict[str, float]:
        h, nan = self.response[chosen], float("nan")
        numbers = {"gain": float(np.abs(h).mean()), "blur": nan, "ideal": nan, "together": nan}
        if self.blur is not None:
            k = self.blur[chosen]
            ideal = float((1 / np.maximum(np.abs(k), 1e-12)).mean())
            numbers |= {"blur": float(np.abs(k).mean()), "ideal": ideal, "together": float((h * k).real.mean())}
        return numbers

    def _sectors(self, f: np.ndarray) -> dict[str, np.ndarray]:
        """The frequencies of each direction; the mean, which has none, belongs to "all" alone."""
        if self.angle is None:
            return {"all": np.ones(f.shape[1:], dtype=bool)}
        way = np.radians(self.angle)
        cosine = np.abs(f[1] * np.cos(way) - f[0] * np.sin(way)) / np.maximum(np.hypot(*f), 1e-12)
        moving = np.hypot(*f) > 0
        near, far = np.cos(np.radians(22.5)), np.sin(np.radians(22.5))
        return {"along": moving & (cosine >= near), "across": moving & (cosine <= far)}


def transfer_function(
    net: Network,
    images: Tensor | Sequence[Tensor],
    *,
    query: Query = "centre",
    kernel: Float[Tensor, "p q"] | None = None,
    angle: Number | None = None,
    select: Select | None = None,
    checkpoint: bool | str = "auto",
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Transfer:
    """The local transfer function of `net` around the pixel `query` for each image, from grey to the mean of its
    channels; the input that a restorer adds back is part of it.

    `kernel`, of odd sides, is the blur that the images have, `angle` the direction of its motion. Frequencies are those
    of the image's own Fourier transform; an image should be larger than the field, or far parts fold over. `select`
    and `checkpoint` are those of `effective_receptive_field`; `progress` counts images.
    """
    inputs = single_images(images)
    check_fit(net, inputs[0])
    h, w = inputs[0].shape[-2:]
    place = query_pixel(query, h, w)
    found = []
    with borrowed(net, checkpoint=recomputes(net, checkpoint, h * w)):
        for done, image in enumerate(inputs, start=1):
            x = image.detach().clone().requires_grad_()
            y, _ = response(net, x, select, INCLUDE)
            (row,) = torch.autograd.grad(y[0, :, place[0], place[1]].mean(), x)
            field = row[0].double().sum(dim=0).cpu().roll((-place[0], -place[1]), (0, 1))
            found.append(torch.fft.fft2(field).conj().resolve_conj().numpy())
            if progress is not None:
                progress(done, len(inputs))
    spectrum = None if kernel is None else transfer_of(kernel.double(), h, w).numpy()
    made = made_of(net, inputs, trained=trained, query=list(place))
    return Transfer(np.stack(found), spectrum, None if angle is None else float(angle), made)


def blur_transfer(
    net: Network, sharp: Tensor | Sequence[Tensor], *, length: Number = 8, angle: Number = 0, **options: Any
) -> Transfer:
    """The transfer function for sharp images under a straight motion of `length` px at `angle` degrees.

    The blur is a convolution of the stored values, not of light, so that its transfer function is exact. `options` are
    those of `transfer_function`.
    """
    kernel = motion_kernel(length, angle)
    blurred = [blur(image, kernel, linear=False) for image in single_images(sharp)]
    found = transfer_function(net, blurred, kernel=kernel, angle=angle, **options)
    found.provenance.update(length=float(length), angle=float(angle))
    return found


def transfer_of(kernel: Float[Tensor, "p q"], h: int, w: int) -> Complex[Tensor, "{h} {w}"]:
    """The discrete Fourier transform of a kernel of odd sides around the origin; parts beyond `h w` wrap around."""
    p, q = kernel.shape
    whole = kernel.new_zeros(h, w)
    rows, columns = torch.arange(p) - p // 2, torch.arange(q) - q // 2
    whole.index_put_((rows[:, None] % h, columns[None] % w), kernel, accumulate=True)
    return torch.fft.fft2(whole)


def wiener(kernel: Float[Tensor, "p q"], noise: Number = 1e-2) -> Callable[[Tensor], Tensor]:
    """The linear deblurrer of a known blur, conj(K) / (|K|^2 + noise), borders continued periodically (Wiener 1949).

    A network of which everything is known: its gain is that formula, and its field lies along the blur.
    """

    def restore(x: Tensor) -> Tensor:
        spectrum = transfer_of(kernel.to(x), x.shape[-2], x.shape[-1])
        gain = spectrum.conj() / (spectrum.abs().square() + noise)
        return torch.fft.ifft2(torch.fft.fft2(x) * gain).real

    return restore
