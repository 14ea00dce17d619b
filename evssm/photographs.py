"""Sharp photographs that are on every machine already: they come with scikit-image and Matplotlib."""

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
    """Where a photograph lies in which package, who made it, under which terms it may be shown, and its part in
    training (`SPLITS`)."""

    file: str
    credit: str
    licence: str
    split: str
    package: str = "skimage"


SPLITS = ("train", "validation", "test")
"""Whole photographs are held out, so that nothing of a test scene was seen in training; what is chosen (a step at
which to stop, a rate) is chosen by the validation photograph."""


PHOTOGRAPHS: Mapping[str, Photograph] = {
    "motorcycle": Photograph(
        "motorcycle_left.png",
        "Middlebury 2014 stereo benchmark (Scharstein et al., GCPR 2014), left view at a quarter of its size",
        "to be cited",
        "train",
    ),
    "coffee": Photograph("coffee.png", "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0", "test"),
    "astronaut": Photograph("astronaut.png", "Eileen Collins, NASA", "public domain", "train"),
    "chelsea": Photograph("chelsea.png", "Stefan van der Walt", "CC0", "test"),
    "rocket": Photograph("rocket.jpg", "Falcon 9 with DSCOVR, SpaceX", "public domain", "train"),
}
"""Name -> photograph, the most cluttered first; from 300 x 451 to 500 x 741 pixels."""

MORE_PHOTOGRAPHS: Mapping[str, Photograph] = {
    "hopper": Photograph("grace_hopper.jpg", "Grace Hopper, US Navy", "public domain", "test", "matplotlib"),
    "camera": Photograph("camera.png", "Lav Varshney", "CC0", "validation"),
    "brick": Photograph("brick.png", "CC0Textures, Bricks25", "CC0", "train"),
    "grass": Photograph("grass.png", "linolafett, DeviantArt, Grass 01", "CC0", "train"),
    "gravel": Photograph("gravel.png", "CC0Textures, Gravel04", "CC0", "train"),
    "coins": Photograph("coins.png", "Brooklyn Museum Collection", "no known copyright restrictions", "train"),
}
"""A portrait in colour, a scene in grey and four grey textures: data for training and testing, not for pictures."""


def photograph(name: str, size: int | tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
    """One of `PHOTOGRAPHS` or `MORE_PHOTOGRAPHS` as RGB in [0, 1]: whole, or the middle of it.

    `size` is the edge of a square or a pair (h, w), in pixels; photographs are cut, never resized, for that would
    sharpen them.

    Raises `ValueError` for an unknown name and a size larger than the photograph, and `FileNotFoundError` where the
    installed package lacks the file.
    """
    known = {**PHOTOGRAPHS, **MORE_PHOTOGRAPHS}
    if name not in known:
        near = get_close_matches(name, known, n=2) or list(known)
        raise ValueError(f"no photograph is called {name!r}; try {', '.join(near)}")
    x = read_image(packaged_file(known[name].package, known[name].file))
    if size is None:
        return x
    h, w = (size, size) if isinstance(size, int) else size
    return crop_centre(x, h, w)


def photographs(size: int | tuple[int, int] | None = None) -> dict[str, Tensor]:
    """All of `PHOTOGRAPHS` by name, `3 h w`; see `photograph`."""
    return {name: photograph(name, size) for name in PHOTOGRAPHS}


def photographs_of(split: str) -> tuple[str, ...]:
    """Names of the photographs of one of `SPLITS`; `ValueError` for another word."""
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; photographs are split into {', '.join(SPLITS)}")
    return tuple(name for name, entry in {**PHOTOGRAPHS, **MORE_PHOTOGRAPHS}.items() if entry.split == split)


_FOLDERS = {"skimage": ("scikit-image", "data"), "matplotlib": ("matplotlib", "mpl-data/sample_data")}


def packaged_file(package: str, name: str) -> Path:
    """A file among the images of an installed "skimage" or "matplotlib", which is not imported for it.

    Raises `FileNotFoundError` where the package or the file is missing.
    """
    distribution, folder = _FOLDERS[package]
    found = find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{name} comes with {distribution}, which is not installed: pip install {distribution}")
    path = Path(found.origin).parent / folder / name
    if not path.is_file():
        raise FileNotFoundError(f"this {distribution} has no {path}; reinstall it with pip, or give images of your own")
    return path
