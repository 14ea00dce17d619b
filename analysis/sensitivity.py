"""How strongly each input pixel moves one output pixel: estimators made of vector-Jacobian products.

With J[c, p] the derivative of output channel c at the query by input p, pixel and channel, one backward
pass gives v J for one direction v in output channels. Three passes show the whole row of an RGB restorer's
Jacobian.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evssm.layers import views_and_picture
from evssm.shapes import Image

Network = Callable[..., Any]
Select = Callable[[Any], Any] | int | str
EXCLUDE, INCLUDE, UNLIKE = "exclude", "include", "none: shapes differ"
NONE_ADDED = "none: the network adds no input to its output"


class Estimator(NamedTuple):
    """How a map follows from vector-Jacobian products."""

    directions: Callable[[Tensor], Tensor]  # output at the query, `b c` -> directions in output channels, `k b c`
    term: Callable[[Tensor], Tensor]  # one product -> what is summed over directions and input channels
    finish: Callable[[Tensor], Tensor]  # that sum -> the map


def _every_channel(output: Tensor) -> Tensor:
    return torch.eye(output.shape[1]).to(output)[:, None].expand(-1, len(output), -1)


def _their_sum(output: Tensor) -> Tensor:
    return torch.ones_like(output)[None]


def _sum_of_the_positive(output: Tensor) -> Tensor:
    return (output > 0).to(output)[None]


def _same(values: Tensor) -> Tensor:
    return values


ESTIMATORS = {
    "rss": Estimator(_every_channel, torch.square, torch.sqrt),
    "abs": Estimator(_every_channel, torch.abs, _same),
    "signed": Estimator(_their_sum, _same, _same),
    "replknet": Estimator(_sum_of_the_positive, torch.relu, _same),
    "mambair": Estimator(_their_sum, torch.relu, _same),
}


def sensitivity(
    y: Float[Tensor, "b out h w"],
    x: Image,
    query: tuple[int, int],
    estimator: str,
    *,
    keep_graph: bool,
    done: Callable[[int], object],
) -> Float[np.ndarray, "b h w"]:
    """The map of `estimator` for each image, in float64: how `y` at `query` depends on `x`.

    `done` is called after each vector-Jacobian product with the number of them that one query needs.
    """
    rule = ESTIMATORS[estimator]
    at_query = y[..., query[0], query[1]]
    directions = rule.directions(at_query.detach())
    total = torch.zeros(x.shape[0], *x.shape[-2:], dtype=torch.float64)
    for k, direction in enumerate(directions, start=1):
        keep = keep_graph or k < len(directions)
        (gradient,) = torch.autograd.grad(at_query, x, direction, retain_graph=keep, allow_unused=True)
        if gradient is not None:  # float64 before squaring: float32 loses squares of what is below 1e-22
            total += rule.term(gradient.cpu().double()).sum(dim=1)
        done(len(directions))
    return rule.finish(total).numpy()


def response(net: Network, x: Image, select: Select | None, residual: str) -> tuple[Float[Tensor, "b out h w"], str]:
    """The image whose dependence on `x` is asked for, F(x) - x or F(x), and which of the two it is.

    `x` is handed over as a copy, so a network may overwrite its input. Of a network that says `adds_input = False` it
    is F(x): there is no input in the output to be taken out. Of two views it is the picture that a network which says
    `adds_input = True` adds, their mean, that is taken out. `ValueError` where the output is no image of the input's
    size, or carries no gradient though `x` asks for one.
    """
    y = chosen_output(net(x.clone()), select)
    if y.ndim != 4 or len(y) != len(x) or y.shape[-2:] != x.shape[-2:]:
        raise ValueError(
            f"the network made {tuple(y.shape)} of an input {tuple(x.shape)}; wanted is an image "
            "b c h w with equal b, h and w: try `select=`, or a function that crops or resizes the output"
        )
    if x.requires_grad and not y.requires_grad:
        raise ValueError(
            "the network's output carries no gradient; take `torch.no_grad`, `.detach()` or the conversion "
            "to numpy out of it"
        )
    if residual == INCLUDE:
        return y, INCLUDE
    if y.shape == x.shape:
        return (y - x, EXCLUDE) if getattr(net, "adds_input", True) else (y, NONE_ADDED)
    added = getattr(net, "adds_input", None)
    if added is None or (x.shape[1], y.shape[1]) != (6, 3):
        return y, UNLIKE
    return (y - views_and_picture(x)[1], EXCLUDE) if added else (y, NONE_ADDED)


def selector_name(select: Select | None) -> int | str | None:
    """What a result says of the selector: an index or key itself, a function by its name."""
    return getattr(select, "__qualname__", type(select).__name__) if callable(select) else select


def chosen_output(output: Any, select: Select | None) -> Tensor:
    """The tensor that `select`, a function or an index, picks from what a network returned."""
    if callable(select):
        output = select(output)
    elif select is not None:
        if isinstance(output, Tensor):
            raise ValueError(f"select={select!r}, but the network returns one tensor; leave `select` out")
        try:
            output = output[select]
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError(f"select={select!r} picks nothing from {_inventory(output)}") from error
    if not isinstance(output, Tensor):
        raise ValueError(f"the network returns {_inventory(output)}; say which is the image, as in `select=-1`")
    return output


def _inventory(output: Any) -> str:
    """The kind of a network's answer and the shapes in it."""
    entries = output.values() if isinstance(output, dict) else output
    entries = list(entries) if isinstance(output, dict | list | tuple) else []
    shapes = (str(tuple(e.shape)) if isinstance(e, Tensor) else type(e).__name__ for e in entries)
    return f"a {type(output).__name__} of {len(entries)} ({', '.join(shapes)})"


def check_reproducible(net: Network, x: Image, select: Select | None) -> None:
    """`ValueError` if two runs of `net` on `x` differ by more than rounding."""
    with torch.no_grad():
        first, second = (chosen_output(net(x.clone()), select) for _ in range(2))
    tolerance = 1e-3 * float(first.nan_to_num(0, 0, 0).abs().max())
    if not torch.allclose(first, second, rtol=0, atol=tolerance, equal_nan=True):
        raise ValueError(
            "two runs on the same image differ: something in this function is random, perhaps dropout; "
            "call `.eval()` on its network, or pass the nn.Module itself"
        )
