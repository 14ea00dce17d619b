"""Images as an analysis takes them: checked, one by one, and fitting the network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def single_images(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """`images` (`b c h w`, `c h w`, or a list of `c h w` or `1 c h w`) as a list of `1 c h w`.

    `ValueError`, naming the image, unless all are floating, finite and of one shape, dtype and device.
    """
    found = [images] if isinstance(images, Tensor) and images.ndim == 3 else list(images)
    if not found:
        raise ValueError("no images; pass one or more, as one tensor b c h w or a list of tensors c h w")
    for index, image in enumerate(found):
        if not isinstance(image, Tensor) or image.ndim not in (3, 4) or (image.ndim == 4 and len(image) != 1):
            what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"image {index} is {what}; pass one tensor b c h w, or a list of tensors c h w")
    singles = [image.reshape(1, *image.shape[-3:]) for image in found]
    for index, image in enumerate(singles):
        _check(image, index, singles[0])
    return singles


def _check(image: Tensor, index: int, first: Tensor) -> None:
    if not image.is_floating_point():
        raise ValueError(f"image {index} is {image.dtype}; pass floating values, `image / 255` for 8-bit images")
    kind, wanted = ((tuple(i.shape[1:]), i.dtype, i.device) for i in (image, first))
    if kind != wanted:
        raise ValueError(
            f"image {index} is {_kind(image)}, image 0 is {_kind(first)}; pass images of one kind, "
            "cropped to one size (resizing would change their blur)"
        )
    if not image.isfinite().all():
        raise ValueError(f"image {index} has values that are not finite; repair it or leave it out")


def _kind(image: Tensor) -> str:
    return f"{' x '.join(str(side) for side in image.shape[1:])} {image.dtype} on {image.device}"


def check_fit(net: Callable[..., Any], image: Tensor) -> None:
    """`ValueError` where `image` has a dtype, or lies on a device, that no parameter of a module has."""
    parameters = list(net.parameters()) if isinstance(net, nn.Module) else []
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters if parameter.is_floating_point()}
    if kinds and (image.dtype, image.device) not in kinds:
        theirs = " and ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            f"the images are {image.dtype} on {image.device}, the network's parameters {theirs}; "
            "bring one to the other with `.to(...)`"
        )


def kind_of_parameters(net: Callable[..., Any]) -> tuple[torch.dtype, torch.device]:
    """The dtype and device of the first floating parameter of a module; float32 on the CPU where there is none."""
    parameters = net.parameters() if isinstance(net, nn.Module) else ()
    first = next((p for p in parameters if p.is_floating_point()), None)
    return (torch.float32, torch.device("cpu")) if first is None else (first.dtype, first.device)
