"""Sharp photographs that are on every machine already: they come with scikit-image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from evssm.images import crop_centre, read_image


@dataclass(frozen=True)
class Photograph:
    """Where a photograph lies in scikit-image, who made it and under which terms it may be shown."""

    file: str
    credit: str
    licence: str


PHOTOGRAPHS: Mapping[str, Photograph] = {
    "motorcycle": Photograph(
        "motorcycle_left.png",
        "Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014), left view at a quarter of its size",
        "to be cited",
    ),
    "coffee": Photograph("coffee.png", "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0"),
    "astronaut": Photograph("astronaut.png", "Eileen Collins, NASA", "public domain"),
    "chelsea": Photograph("chelsea.png", "Stefan van der Walt", "CC0"),
    "rocket": Photograph("rocket.jpg", "Falcon 9 with DSCOVR, SpaceX", "public domain"),
}
"""Name -> photograph, the most cluttered first; from 300 x 451 to 500 x 741 pixels."""


def photograph(name: str, size: int | tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
    """One of `PHOTOGRAPHS` as RGB in [0, 1]: whole, or the middle of it.

    `size` is the edge of a square or a pair (h, w), in pixels; photographs are cut, never resized, for that would
    sharpen them.

    Raises `ValueError` for an unknown name and a size larger than the photograph, and `FileNotFoundError` where this
    installation of scikit-image lacks the file.
    """
    if name not in PHOTOGRAPHS:
        near = get_close_matches(name, PHOTOGRAPHS, n=2) or list(PHOTOGRAPHS)
        raise ValueError(f"no photograph is called {name!r}; try {', '.join(near)}")
    x = read_image(_file(PHOTOGRAPHS[name].file))
    if size is None:
        return x
    h, w = (size, size) if isinstance(size, int) else size
    return crop_centre(x, h, w)


def photographs(size: int | tuple[int, int] | None = None) -> dict[str, Tensor]:
    """All of `PHOTOGRAPHS` by name, `3 h w`; see `photograph`."""
    return {name: photograph(name, size) for name in PHOTOGRAPHS}


def _file(name: str) -> Path:
    """The photograph's file inside the installed scikit-image, which is not imported for it."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise FileNotFoundError(f"{name} comes with scikit-image, which is not installed: pip install scikit-image")
    path = Path(package.origin).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"this scikit-image has no {path}; reinstall it with pip, or give images of your own")
    return path
