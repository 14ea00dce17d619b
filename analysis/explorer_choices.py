"""What an explorer offers where nothing of one's own is given: the bundled images and networks."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from evssm.data.embedded import embedded_test
from evssm.images import crop_centre
from evssm.models import MODELS
from evssm.photographs import photograph, photographs_of
from evssm.weights import bundled, load

SIZE = (96, 128)
"""Rows and columns cut from the middle of a bundled photograph: what a small network answers for in an instant."""

EXTENT = 12
"""Pixels that the camera travels along a line in the blurred photographs."""

BLURRED = "-blurred"


def bundled_images(size: tuple[int, int] = SIZE) -> dict[str, Callable[[], Tensor]]:
    """What opens each photograph that no network was trained on, by name: blurred by camera motion, and sharp."""
    names = sorted(photographs_of("test"))  # the cat first, whose middle has an edge in every direction
    blurred = {f"{name}{BLURRED}": partial(_blurred, name, size) for name in names}
    return {**blurred, **{name: partial(photograph, name, size) for name in names}}


def bundled_networks(**overrides: Any) -> dict[str, Callable[[], Any]]:
    """What loads each network for single photographs that comes trained with the package, by name, EVSSM's first.

    Where networks of several seeds are bundled, the first seed of each.
    """
    known = [name for name in MODELS if name in bundled() and not MODELS[name].arguments.get("dual_pixel")]
    return {name: partial(load, name, **overrides) for name in sorted(known, key=lambda name: "evssm" not in name)}


def _blurred(name: str, size: tuple[int, int]) -> Tensor:
    pairs = embedded_test(extents=(EXTENT,), straight=True)
    (index,) = [i for i, item in enumerate(pairs.items) if item[0] == name]
    return crop_centre(pairs[index].blurred, *size)
