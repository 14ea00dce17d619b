"""Networks and images by what they are made from: small values that travel to other processes, which make the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from evssm.foreign import own_network
from evssm.images import crop_centre, read_image
from evssm.models import build
from evssm.photographs import photograph
from evssm.weights import bundled, load


@dataclass(frozen=True)
class NetworkSource:
    """One's own network (`package.module:callable`), or one of ours with weights, or where `untrained` asks for it,
    with the random ones of `seed`. `local` is the argument of that name of `build`."""

    name: str
    file: str | None = None
    local: bool | tuple[int, ...] = False
    untrained: bool = False
    seed: int = 0

    @property
    def own(self) -> bool:
        """Whether it is the user's own network."""
        return ":" in self.name

    def make(self) -> Callable[..., Any]:
        """The network; the same weights in every process, also where one's own class draws them from torch.

        Raises `ValueError` for an unknown name and for one without weights unless `untrained`.
        """
        torch.manual_seed(self.seed)
        if self.own:
            return own_network(self.name)
        overrides = {"local": self.local} if self.local else {}
        if self.file or (self.name in bundled() and not self.untrained):
            return load(self.file or self.name, name=self.name if self.file else None, **overrides)
        net = build(self.name, **overrides)  # first, for what it says of unknown names
        if not self.untrained:
            raise ValueError(
                f"no trained weights of {self.name} here; give --weights FILE, or --untrained, which the picture says"
            )
        return net


@dataclass(frozen=True)
class ImageSource:
    """An image file, or without `path` the bundled photograph `name`: whole, or the middle `size` (h, w) of it."""

    name: str
    path: Path | None = None
    size: tuple[int, int] | None = None

    def read(self) -> Float[Tensor, "3 h w"]:
        """The image; a `ValueError` about it names the file."""
        if self.path is None:
            return photograph(self.name, self.size)
        x = read_image(self.path)
        try:
            return x if self.size is None else crop_centre(x, *self.size)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
