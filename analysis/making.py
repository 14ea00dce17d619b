"""How an answer was made: the network, the images and the machine, in JSON values that go beside every number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evssm.stamp import image_sha256, network_stamp


def made_of(
    net: Callable[..., Any], images: Sequence[Tensor], *, trained: bool | None = None, **facts: Any
) -> dict[str, Any]:
    """`facts`, what is known of `net`, and the images' digests, size, dtype and device.

    `images` are `1 c h w` of one size. `trained` is what the caller says of weights without a provenance.
    """
    stamp = network_stamp(net)
    return {
        **facts,
        "size": list(images[0].shape[-2:]),
        "images": [image_sha256(image) for image in images],
        **stamp,
        "trained": stamp["trained"] if trained is None else trained,
        "dtype": str(images[0].dtype).removeprefix("torch."),
        "device": str(images[0].device),
        "torch": torch.__version__,
    }


def is_untrained(provenance: Mapping[str, Any]) -> bool:
    """Whether the weights are known to be untrained; a picture must say so."""
    return provenance.get("trained") is False
