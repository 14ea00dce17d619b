"""Self-ensemble: the mean of what a network makes of an image in several positions, each turned back.

The name stands for different things: in MIMO-UNet's published numbers for four quarter turns, elsewhere for all eight
symmetries of the square. It multiplies the cost by the number of positions, and a network without it is not
comparable with one with it, so tables name both.
"""

from collections.abc import Callable, Sequence

from evssm.geometry import ANTI_TRANSPOSE, D4, GROUP, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.shapes import Image, Map

ENSEMBLES: dict[str, tuple[D4, ...]] = {
    "none": (IDENTITY,),
    "x4": (IDENTITY, D4(transpose=True, flip_h=True), HALF_TURN, D4(transpose=True, flip_w=True)),
    "x4-frames": (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE),
    "x8": GROUP,
}
"""Name -> positions; their number is the factor of the cost. "x4" are the quarter turns, as in MIMO-UNet. "x4-frames"
are the four positions in which EVSSM's own blocks see a map, so what it adds is what turning between blocks leaves.
"x8" is the whole group. Which four EVSSM's Table 12 averages (504 G operations in place of 126 G) is not published:
"flipped and rotated"."""


def self_ensemble(net: Callable[[Image], Map], x: Image, symmetries: str | Sequence[D4] = "x8") -> Map:
    """Mean over the symmetries g of `g.inverse(net(g(x)))`, of the size of `net(x)`.

    `symmetries` is a name in `ENSEMBLES` or elements of `D4`. One position runs at a time, since a transpose changes
    the size of an image that is not square; the memory is that of one run, the time that of all. Raises `ValueError`
    for an unknown name, for no symmetry at all, and for more than one with the two views of a dual-pixel sensor,
    which are no image that can be turned: what lies between them is a shift from left to right.
    """
    chosen = tuple(_named(symmetries) if isinstance(symmetries, str) else symmetries)
    if not chosen:
        raise ValueError(f"a self-ensemble needs a symmetry to average over; name one of {', '.join(ENSEMBLES)}")
    if x.shape[1] == 6 and any(g != IDENTITY for g in chosen):
        raise ValueError("the two views of a dual-pixel sensor (6 channels) cannot be turned; use the ensemble 'none'")
    total = _turned(chosen[0], net, x)
    for g in chosen[1:]:
        total = total + _turned(g, net, x)
    return total / len(chosen)


def _turned(g: D4, net: Callable[[Image], Map], x: Image) -> Map:
    return g.inverse(net(g(x).contiguous()))


def _named(name: str) -> tuple[D4, ...]:
    if name not in ENSEMBLES:
        raise ValueError(f"no self-ensemble is called {name!r}; there are {', '.join(ENSEMBLES)}")
    return ENSEMBLES[name]
