"""The verdict on attributions, of input pixels and of feature maps: does their order matter, and do the weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.attribution import Attribution
from analysis.attributions import BASELINES, baseline_of, local_attribution, single_image
from analysis.borrow import borrowed
from analysis.deletion import Case, all_compared, counts_of, replacement
from analysis.lam import SIGMA
from analysis.layer_attributions import LayerMap, layer_attribution
from analysis.map_verdict import MapVerdict, Tracks, silent, tried
from analysis.order_check import Faithfulness, counter, faithfulness
from analysis.orders import Box as Corners
from analysis.queries import query_positions
from analysis.randomisation import Place, Randomisation, weight_randomisations
from analysis.regions import Box
from analysis.sensitivity import Network, Select, response
from evssm.hooks import edit, record
from evssm.models.stages import Stage
from evssm.shapes import Image

ELSEWHERE = 3
"""Regions of the same size, besides a map's own, in which its method is asked as well: one region has no interval."""

STEPS = 10
"""Numbers of pixels at which each curve is taken."""

RANDOM_ORDERS = 2
"""Of which the mean is chance."""


def check_attributions(
    net: Network,
    image: Tensor,
    found: Mapping[str, Attribution],
    *,
    baseline: Tensor | None = None,
    select: Select | None = None,
    batch: int = 1,
    depth: int = 4,
    draws: int = 3,
    seed: int = 0,
    track: Tracks = silent,
) -> dict[str, MapVerdict]:
    """The verdicts on attributions of one image, by name.

    Pixels are replaced in a map's order by those of the baseline that it was made with, and asked is the region of the
    output (`faithfulness`): its own, and `ELSEWHERE` more with maps made alike. Then it is made again by copies with
    redrawn weights, `depth` and `draws` of `weight_randomisation`. `baseline` is the image that it compares with where
    that has no name. One image says nothing of others. `batch` images with replaced pixels share a forward pass;
    `track` makes a progress callback per task.
    """
    x = single_image(net, image)

    def again(network: Network, one: Attribution, box: Box) -> np.ndarray:
        options = _options(one, baseline)
        return local_attribution(network, x, box, method=one.method, select=select, **options).map

    def order(name: str, one: Attribution) -> Faithfulness:
        regions, made = _regions(one.box, x.shape[-2], x.shape[-1], seed), one.provenance
        judged = faithfulness(
            net,
            x,
            [_corners(box) for box in regions],
            [one.map, *(again(net, one, box) for box in regions[1:])],
            baseline=baseline_of(x, one.method, _named(one, baseline), made["sigma"] or SIGMA),
            residual=made["residual"],
            select=select,
            steps=STEPS,
            batch=batch,
            seed=seed,
            progress=track(f"order of {name}"),
        )
        return replace(judged, baseline=made["baseline"] if made["baseline"] in BASELINES else "as given")

    def maps(network: nn.Module) -> dict[str, np.ndarray]:
        return {name: again(network, one, one.box) for name, one in found.items()}

    places = {name: _middle(one.box) for name, one in found.items()}
    return _verdicts(net, x, maps, places, order, found, seed, track, depth=depth, draws=draws)


def check_layers(
    net: nn.Module,
    image: Tensor,
    found: Mapping[str, LayerMap],
    *,
    select: Select | None = None,
    seed: int = 0,
    track: Tracks = silent,
) -> dict[str, MapVerdict]:
    """The verdicts on the maps of `layer_attribution` of one image, by stage.

    Cells of the stage's own map are replaced in the order of the one found, by zeros, or for a gradient by themselves
    with a little noise, of which it tells; otherwise as `check_attributions`.
    """
    x, first = single_image(net, image), next(iter(found.values()))
    h, w = x.shape[-2:]
    stages: dict[str, Stage] = {stage.name: stage for stage in net.stages}  # type: ignore[union-attr]
    asked = {key: first.provenance[key] for key in ("reduce", "residual")}

    def again(network: nn.Module, box: Box) -> dict[str, LayerMap]:
        return layer_attribution(network, x, box, list(found), kind=first.kind, select=select, **asked)

    regions = _regions(first.box, h, w, seed)
    elsewhere = [found, *(again(net, box) for box in regions[1:])]
    with borrowed(net), torch.no_grad(), record(net, *found) as recording:
        net(x.clone())

    def order(name: str, one: LayerMap) -> Faithfulness:
        stage, stored = stages[name], recording[name].tensor
        noisy = one.kind == "gradient"
        end = replacement(stored, "noise", seed) if noisy else torch.zeros_like(stored)
        rows, columns = one.map.shape
        counts = counts_of(rows * columns, STEPS)
        tick = counter(2 * len(regions) * len(counts) * (2 + RANDOM_ORDERS), track(f"order in {name}"))
        everywhere = np.ones(stage.frame.size(rows, columns), dtype=bool)
        cases = [
            Case(
                partial(_with_layer, net, name, x, _corners(box), select, asked["residual"]),
                stored,
                end,
                stage.frame(torch.from_numpy(maps[name].map.copy())).numpy(),
                _cells(box, stage, rows, columns),
                everywhere,
            )
            for box, maps in zip(regions, elsewhere, strict=True)
        ]
        with borrowed(net), torch.no_grad():
            deletion, insertion = all_compared(cases, counts, random_orders=RANDOM_ORDERS, seed=seed, done=tick)
        same_image = np.zeros(len(cases), dtype=np.int64)
        return Faithfulness(counts, deletion, insertion, same_image, "noise" if noisy else "zeros")

    def maps(network: nn.Module) -> dict[str, np.ndarray]:
        return {name: one.map for name, one in again(network, first.box).items()}

    places = {name: _middle(one.box, one.stride) for name, one in found.items()}
    return _verdicts(net, x, maps, places, order, found, seed, track)


def _verdicts(
    net: Network,
    x: Tensor,
    maps: Callable[[nn.Module], Mapping[str, np.ndarray]],
    places: Mapping[str, Place],
    order: Callable[[str, Any], Faithfulness],
    found: Mapping[str, Any],
    seed: int,
    track: Tracks,
    **redrawing: int,
) -> dict[str, MapVerdict]:
    """Both verdicts of each map, or why there is none."""

    def redraw() -> dict[str, Randomisation]:
        if not isinstance(net, nn.Module):
            raise ValueError("a plain function has no weights to redraw")
        return weight_randomisations(net, x[0], maps, places, seed=seed, progress=track("weights"), **redrawing)

    redrawn = tried("weights", redraw)
    return {
        name: MapVerdict(
            tried("order", partial(order, name, one)),
            redrawn if isinstance(redrawn, str) else redrawn[name],
            "one image",
        )
        for name, one in found.items()
    }


def _regions(own: Box, h: int, w: int, seed: int) -> list[Box]:
    """The region, and others of its size around places of a grid; none twice."""
    _, _, height, width = own
    centres = query_positions("grid", h, w, n_queries=ELSEWHERE, seed=seed)
    corners = [(min(max(0, r - height // 2), h - height), min(max(0, c - width // 2), w - width)) for r, c in centres]
    return list(dict.fromkeys([own, *((top, left, height, width) for top, left in corners)]))


def _named(one: Attribution, given: Tensor | None) -> str | Tensor | None:
    """What the attribution was asked to compare with, as `local_attribution` wants it."""
    kind = one.provenance["baseline"]
    if one.method == "lam":
        return None
    if kind in BASELINES:
        return str(kind)
    if given is None:
        raise ValueError("the image that this map compares with is not kept with it; give it as `baseline`")
    return given


def _options(one: Attribution, given: Tensor | None) -> dict[str, Any]:
    """The arguments of `local_attribution` that made it; those that it did not use are not kept."""
    kept = {key: one.provenance[key] for key in ("steps", "sigma", "window", "reduce", "residual")}
    return {"baseline": _named(one, given), **{key: value for key, value in kept.items() if value is not None}}


def _with_layer(
    net: nn.Module, name: str, x: Tensor, corners: Corners, select: Select | None, residual: str, values: Image
) -> Float[Tensor, "b a"]:
    """A region of the output once the stage returns `values`."""
    top, left, bottom, right = corners
    with edit(net, {name: lambda _: values.clone()}):
        y, _ = response(net, x.expand(len(values), -1, -1, -1), select, residual)
    return y[..., top:bottom, left:right].flatten(1)


def _corners(box: Box) -> Corners:
    top, left, height, width = box
    return top, left, top + height, left + width


def _middle(box: Box, stride: int = 1) -> Place:
    top, left, height, width = box
    return ((top + height // 2) // stride, (left + width // 2) // stride), None


def _cells(box: Box, stage: Stage, rows: int, columns: int) -> Corners:
    """The cells that a region covers, in the frame in which the stage stores its map of `rows` x `columns` upright."""
    top, left, bottom, right = _corners(box)
    ends = [(top // stage.stride, left // stage.stride), ((bottom - 1) // stage.stride, (right - 1) // stage.stride)]
    (r, s), (t, u) = (stage.frame.points(end, rows, columns) for end in ends)
    return int(min(r, t)), int(min(s, u)), int(max(r, t)) + 1, int(max(s, u)) + 1
