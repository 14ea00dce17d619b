"""Where the feature maps of a network live, and how they lie."""

from dataclasses import dataclass

from torch import nn

from evssm.geometry import D4, IDENTITY


@dataclass(frozen=True)
class Stage:
    """One place in a network whose output is a feature map `b c h w`.

    `name` is the module's path (`net.get_submodule(name)`), `stride` the image pixels per feature pixel. The stored
    map is `frame(upright map)`; `window` is the edge, in feature pixels, of the windows that the module works in, or
    `None` where it sees the whole map.
    """

    name: str
    channels: int
    stride: int
    frame: D4 = IDENTITY
    window: int | None = None


def stages(net: nn.Module) -> tuple[Stage, ...]:
    """The places of `net` whose outputs are feature maps, in the order of the forward pass.

    Every network of this package publishes them; a network of one's own takes part by having an attribute `stages`, a
    sequence of `Stage`. Raises `LookupError` for a network that has none.
    """
    found = getattr(net, "stages", None)
    if found is None:
        raise LookupError(
            f"{type(net).__name__} does not say where its feature maps live; give it `stages`, a list of "
            "evssm.Stage(name, channels, stride)"
        )
    return tuple(found)
