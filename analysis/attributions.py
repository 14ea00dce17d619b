"""Which input pixels make up a region of a restored image: attribution methods on the caller's own network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.attribution import Attribution
from analysis.borrow import borrowed
from analysis.inputs import check_fit, single_images
from analysis.lam import SIGMA, blur_path, gaussian_blur, integral_along
from analysis.regions import Box, RegionScalar, check_box, middle_box, scalar_without_gradient
from analysis.sensitivity import INCLUDE, Network, Select, check_reproducible, selector_name
from evssm.stamp import image_sha256, network_stamp

METHODS: dict[str, str] = {
    "lam": "local attribution map, integral of the gradient along a blur path (Gu & Dong 2021)",
    "integrated_gradients": "integral of the gradient along a straight line (Sundararajan et al. 2017)",
    "gradient_x_input": "gradient times the difference from the baseline",
    "occlusion": "what the region loses when a square is replaced by the baseline (Zeiler & Fergus 2014)",
}

BASELINES: dict[str, str] = {
    "black": "zeros",
    "mean": "the image's mean colour",
    "blur": "the image, blurred",
}
"""What an image is compared with, by name."""

OWN_BASELINE = {"lam": "blur", "integrated_gradients": "mean", "gradient_x_input": "black", "occlusion": "mean"}
"""The baseline of each method where none is asked for, and the only one of "lam". A path that begins at black is hard
to integrate: norms divide by what vanishes there, and the gap falls slowly and unevenly with the steps."""

STEPS = 25
"""Gradients along a path: on a trained compact EVSSM they left gaps of 0.01 % (straight line from the mean colour) and
0.02 % (blur path)."""

REGION = 32
"""Height and width of the region in px where none is asked for."""


@dataclass(frozen=True)
class Settings:
    """What the methods need to know besides the image: `steps` of an integral, `sigma` px of a blur and the edge
    `window` px of an occluded square."""

    steps: int = STEPS
    sigma: int | float = SIGMA
    window: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.window < 1 or not self.sigma > 0:
            raise ValueError(
                f"steps and window are 1 or more and sigma above 0; got steps={self.steps}, window={self.window}, "
                f"sigma={self.sigma:g}"
            )

    def evaluations(self, method: str, h: int, w: int) -> int:
        """How often the network runs for a method on an image of `h w` pixels."""
        squares = ceil(h / self.window) * ceil(w / self.window)
        return {"gradient_x_input": 1, "occlusion": 1 + squares}.get(method, self.steps)


def local_attribution(
    net: Network,
    image: Tensor,
    box: Sequence[int] | str = "centre",
    *,
    method: str = "lam",
    steps: int = STEPS,
    sigma: int | float = SIGMA,
    window: int = 32,
    baseline: str | Tensor | None = None,
    reduce: str = "grad",
    residual: str = INCLUDE,
    select: Select | None = None,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Attribution:
    """What each pixel of `image` (`c h w` or `1 c h w`) contributes to one number of the output in a region.

    `box` is (row, column, height, width) or "centre", the middle 32 x 32 px. The number s is `reduce` of the region
    (`RegionScalar`): "grad", the strength of its edges, or "sum" of its values; of F(x), or with `residual="exclude"`
    of F(x) - x. `method` is

        "lam"                   integral of the gradient of s while a blur of `sigma` px is taken away
        "integrated_gradients"  integral of the gradient of s on the straight line from the baseline
        "gradient_x_input"      gradient of s times (image - baseline)
        "occlusion"             s - s(with one `window` px square replaced by the baseline), spread over its pixels

    `baseline` is "black", "mean", "blur" (by `sigma`) or an image such as the sharp one; by default `OWN_BASELINE`.
    "integrated_gradients" from "blur" is LAM along a straight line. Integrals take `steps` gradients, one image at a
    time: memory depends on neither `steps` nor `window`. All but LAM are captum's.

    A module runs in evaluation mode with frozen parameters and is handed back as it was. `select` picks the image of a
    network that returns several; `trained` says what you know about the weights where the network has no `provenance`;
    `progress` is called with (done, total) runs of the network. `ValueError` for what does not fit together, and where
    the map is not finite.
    """
    if method not in METHODS:
        raise ValueError(f'no method "{method}" of attribution; choose from {", ".join(METHODS)}')
    settings = Settings(steps, sigma, window)
    x = single_image(net, image)
    h, w = x.shape[-2:]
    region = region_of(box, h, w)
    start = baseline_of(x, method, baseline, sigma)
    scalar = RegionScalar(net, region, reduce, select, residual)
    how: Any = {"reduce": reduce, "residual": residual, "select": select}
    asked = settings_asked(x, region, method, settings, baseline, **how)
    started = perf_counter()
    with borrowed(net):
        if not isinstance(net, nn.Module):  # only its owner can put such a network into evaluation mode
            check_reproducible(net, x, select)
        value = scalar_without_gradient(scalar, x)
        change = value - scalar_without_gradient(scalar, start)
        counted = _counted(scalar, settings.evaluations(method, h, w), progress)
        found = _METHODS[method](counted, x, start, settings).detach().cpu().double().numpy()[0]
    if not np.isfinite(found).all():
        raise ValueError(f"the {method} map of this image is not finite; try float64, or look at the network's output")
    made = {"device": str(x.device), "torch": torch.__version__, "seconds": round(perf_counter() - started, 3)}
    if trained is not None:
        asked["trained"] = trained
    return Attribution(found, method, region, value, change, {**network_stamp(net), **asked, **made})


def settings_asked(
    image: Tensor,
    box: Box,
    method: str,
    settings: Settings,
    baseline: str | Tensor | None,
    *,
    reduce: str,
    residual: str,
    select: Select | None,
) -> dict[str, Any]:
    """All that an attribution depends on besides the network, in JSON values; `image` is `1 c h w`."""
    kind = OWN_BASELINE[method] if baseline is None else baseline
    kind = image_sha256(kind) if isinstance(kind, Tensor) else kind
    return {
        "image": image_sha256(image),
        "size": list(image.shape[-2:]),
        "dtype": str(image.dtype).removeprefix("torch."),
        "box": list(box),
        "method": method,
        "steps": settings.steps if method in ("lam", "integrated_gradients") else None,
        "sigma": float(settings.sigma) if kind == "blur" else None,
        "window": settings.window if method == "occlusion" else None,
        "baseline": kind,
        "reduce": reduce,
        "residual": residual,
        "select": selector_name(select),
    }


def _lam(scalar: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, settings: Settings) -> Tensor:
    return integral_along(scalar, blur_path(x, settings.sigma), settings.steps)


def _integrated_gradients(scalar: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, settings: Settings) -> Tensor:
    from captum.attr import IntegratedGradients  # takes two seconds to import

    return IntegratedGradients(scalar).attribute(x, baselines=start, n_steps=settings.steps, internal_batch_size=1)


def _gradient_x_input(scalar: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, settings: Settings) -> Tensor:
    from captum.attr import InputXGradient

    difference = (x - start).requires_grad_()  # the baseline is its zero
    return InputXGradient(lambda d: scalar(start + d)).attribute(difference)


def _occlusion(scalar: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, settings: Settings) -> Tensor:
    """Squares that do not overlap, each one's loss spread evenly over its pixels and channels."""
    from captum.attr import Occlusion

    c, h, w = x.shape[1:]
    edges = [min(settings.window, length) for length in (h, w)]
    with torch.no_grad():
        loss = Occlusion(scalar).attribute(
            x, sliding_window_shapes=(c, *edges), strides=(c, *edges), baselines=start, perturbations_per_eval=1
        )
    rows, columns = (_pixels_of_squares(length, edge) for length, edge in zip((h, w), edges, strict=True))
    return loss.cpu().double() / (c * torch.outer(rows, columns))


def _pixels_of_squares(length: int, edge: int) -> Tensor:
    """For each pixel of a line, how many pixels the part that holds it has; the last part may be shorter."""
    first = torch.arange(length) // edge * edge
    return torch.clamp(length - first, max=edge).double()


_METHODS: dict[str, Callable[..., Tensor]] = {
    "lam": _lam,
    "integrated_gradients": _integrated_gradients,
    "gradient_x_input": _gradient_x_input,
    "occlusion": _occlusion,
}


def single_image(net: Network, image: Tensor) -> Tensor:
    """One image `1 c h w` of its own, fitting the network."""
    found = single_images(image)
    if len(found) != 1:
        raise ValueError(f"one image at a time, please; got {len(found)}")
    check_fit(net, found[0])
    return found[0].detach().clone()


def region_of(box: Any, h: int, w: int) -> Box:
    """The region that `box` names in an image of `h w` pixels; `ValueError` where it names none."""
    if isinstance(box, str):
        if box != "centre":
            raise ValueError(f'no region "{box}"; give (row, column, height, width) or "centre"')
        return middle_box(h, w, REGION, REGION)
    return check_box(box, h, w)


def baseline_of(x: Tensor, method: str, asked: str | Tensor | None, sigma: int | float) -> Tensor:
    """The image that `method` compares `x` with where `asked` is its argument `baseline`; `ValueError` for others."""
    if method == "lam" and asked is not None:
        raise ValueError(
            'the path of "lam" begins at the blurred image; take method="integrated_gradients" with a baseline'
        )
    asked = OWN_BASELINE[method] if asked is None else asked
    if isinstance(asked, Tensor):
        given = asked.reshape(1, *asked.shape[-3:]) if asked.ndim in (3, 4) else asked
        if given.shape != x.shape or not given.isfinite().all():
            raise ValueError(f"a baseline is a finite image like the input, {tuple(x.shape)}; got {tuple(asked.shape)}")
        return given.detach().to(x)
    if asked not in BASELINES:
        raise ValueError(f'no baseline "{asked}"; choose from {", ".join(BASELINES)}, or give an image')
    if asked == "black":
        return torch.zeros_like(x)
    if asked == "mean":
        return x.mean(dim=(2, 3), keepdim=True).expand_as(x).clone()
    return gaussian_blur(x, sigma)


def _counted(
    scalar: Callable[[Tensor], Tensor], total: int, progress: Callable[[int, int], object] | None
) -> Callable[[Tensor], Tensor]:
    """`scalar`, telling `progress` of each call."""
    done = 0

    def call(x: Tensor) -> Tensor:
        nonlocal done
        y = scalar(x)
        done += 1
        if progress is not None:
            progress(done, total)
        return y

    return call
