"""How the receptive field grows: what one pixel of the feature map sees after every block of a network.

With J the derivative of a block's channels at the query's cell by the image, the field is sqrt(sum of J^2 over these
channels and those of the image): "rss" of `effective_receptive_field`. A few channels are differentiated one by one; of
many, random signs v give the same sum as the mean of (v J)^2 (Hutchinson 1990).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.activations import SCANNING, Query, query_pixel
from analysis.borrow import borrowed, recomputes
from analysis.field_statistics import Number, effective_pixels, spread
from analysis.inputs import check_fit, single_images
from analysis.making import made_of
from evssm.hooks import FeatureMap, matching, record

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Step:
    """The field after one block, of the mean map over images; lengths in image px, not-a-number where it is zero.

    `r50` and `r90` hold that share of the mass around the centre of the query's cell, `sigma_y` and `sigma_x` are
    standard deviations about the centre of mass. `low` and `high` are the least and the largest R90 of single images.
    """

    name: str
    scans: bool
    stride: int
    channels: int
    r50: float
    r90: float
    low: float
    high: float
    effective_pixels: float
    sigma_y: float
    sigma_x: float


@dataclass(frozen=True, eq=False)
class Growth:
    """A field for every block that the network ran, in that order, and how they were made."""

    steps: tuple[Step, ...]
    provenance: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line of a table for each step."""
        return [asdict(step) for step in self.steps]


class Tap(NamedTuple):
    """Where the query lies in one recorded map, and where the centre of its cell lies in the image."""

    found: FeatureMap
    cell: tuple[int, int]
    stride: int
    centre: tuple[float, float]


def growth_curve(
    net: Callable[..., Any],
    images: Tensor | Sequence[Tensor],
    stages: str | Sequence[str] | None = None,
    *,
    query: Query = "centre",
    probes: int = 8,
    seed: int = 0,
    checkpoint: bool | str = "auto",
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Growth:
    """The receptive field after every block of `net` at the pixel `query`, averaged over `images`.

    `images` are `b c h w` or a list of `c h w` of one size; `stages` patterns of stage or module names. Without them
    the steps are the outermost stages, or for a network that publishes none its children, containers opened, whose
    outputs are maps of the image. Maps with more than `probes` channels are probed with that many random sign vectors,
    others are exact. The whole graph is kept in memory, but for blocks that the network can recompute: `checkpoint` as
    in `effective_receptive_field`. `progress` is called with (done, total) steps of all images. Each image's map is
    divided by its sum before averaging.

    Raises `ValueError` for a network that is no `nn.Module`, for a query outside the image and where nothing recorded
    is a map of the image; `LookupError` for a pattern that matches nothing.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"a growth curve needs an nn.Module, whose parts can be named; got a {type(net).__name__}")
    if probes < 1:
        raise ValueError(f"maps are probed with one sign vector or more, got probes={probes}")
    inputs = single_images(images)
    check_fit(net, inputs[0])
    h, w = inputs[0].shape[-2:]
    place = query_pixel(query, h, w)
    names = step_names(net, stages)
    maps: dict[str, list[np.ndarray]] = {}
    places: dict[str, Tap] = {}
    with borrowed(net, checkpoint=recomputes(net, checkpoint, h * w)):
        for index, image in enumerate(inputs):
            x = image.detach().clone().requires_grad_()
            with record(net, *names, grad=True) as recording:
                net(x.clone())
            taps = dict(_taps(recording, (h, w), place))
            if not taps:
                raise ValueError(f"nothing among {', '.join(names)} returns a map of the image; name other `stages`")
            generator = torch.Generator().manual_seed(seed + index)
            for done, (name, tap) in enumerate(taps.items(), start=1):
                field = _field(tap, x, probes, generator, keep=done < len(taps))
                maps.setdefault(name, []).append(field)
                places.setdefault(name, tap._replace(found=_without_tensor(tap.found)))
                if progress is not None:
                    progress(index * len(taps) + done, len(inputs) * len(taps))
            del taps, recording, tap
    steps = tuple(_step(name, _scans(net, name), places[name], found) for name, found in maps.items())
    made = made_of(net, inputs, trained=trained, query=list(place), probes=probes, seed=seed)
    return Growth(steps, made)


def step_names(net: nn.Module, patterns: str | Sequence[str] | None = None) -> list[str]:
    """The stages or modules that patterns choose, or the steps of `growth_curve` without any."""
    if patterns is not None:
        return list(
            dict.fromkeys(n for p in ([patterns] if isinstance(patterns, str) else patterns) for n in matching(net, p))
        )
    published = [stage.name for stage in getattr(net, "stages", None) or ()]
    if published:
        inside = {name for name in published for other in published if name.startswith(f"{other}.")}
        return [name for name in published if name not in inside]
    return list(_children(net))


def _children(net: nn.Module, above: str = "") -> Iterator[str]:
    """The names of the modules in `net`, those of containers in place of the containers."""
    for name, child in net.named_children():
        if isinstance(child, CONTAINERS):
            yield from _children(child, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _taps(recording: Any, size: tuple[int, int], query: tuple[int, int]) -> Iterator[tuple[str, Tap]]:
    """The recorded maps of the image, with the query's place in them; other tensors are left out."""
    h, w = size
    for name, found in recording.items():
        if found.tensor.ndim != 4 or len(found.tensor) != 1 or not found.tensor.requires_grad:
            continue
        if found.stride is None:  # of a module that is no stage: upright, and as much smaller as its sides say
            rows, columns = found.tensor.shape[-2:]
            stride = max(1, round(h / rows))
            if stride != max(1, round(w / columns)) or -(-h // stride) > rows + 1 or -(-w // stride) > columns + 1:
                continue
            cell = (min(query[0] // stride, rows - 1), min(query[1] // stride, columns - 1))
        else:
            stride, cell = found.stride, found.cell(query)
        centre = tuple((at // stride + 0.5) * stride - 0.5 for at in query)
        yield name, Tap(found, cell, stride, centre)


def _field(tap: Tap, x: Tensor, probes: int, generator: torch.Generator, *, keep: bool) -> Float[np.ndarray, "h w"]:
    """The field of one image, in float64."""
    at = tap.found.tensor[(0, ..., *tap.cell)]
    if len(at) <= probes:
        directions = torch.eye(len(at))
    else:
        directions = torch.randint(0, 2, (probes, len(at)), generator=generator) * 2.0 - 1
    total = torch.zeros(x.shape[-2:], dtype=torch.float64)
    for k, direction in enumerate(directions, start=1):
        more = keep or k < len(directions)
        (gradient,) = torch.autograd.grad(at, x, direction.to(at), retain_graph=more, allow_unused=True)
        if gradient is not None:
            total += gradient[0].cpu().double().square().sum(dim=0)
    return (total / (1 if len(at) <= probes else probes)).sqrt().numpy()


def _step(name: str, scans: bool, tap: Tap, found: list[np.ndarray]) -> Step:
    seen = [field / field.sum() for field in found if field.sum() > 0]
    at = (name, scans, tap.stride, tap.found.channels)
    if len(seen) < len(found):
        return Step(*at, *[float("nan")] * 7)
    mean = np.mean(seen, axis=0)
    single = [radius_about(field, tap.centre, 0.9) for field in seen]
    wide = spread(mean)
    r50, r90 = (radius_about(mean, tap.centre, share) for share in (0.5, 0.9))
    return Step(*at, r50, r90, min(single), max(single), effective_pixels(mean), wide.sigma_y, wide.sigma_x)


def radius_about(mass: Float[np.ndarray, "h w"], centre: tuple[Number, Number], share: Number) -> float:
    """The smallest distance from `centre` (row, column), in px, within which at least `share` of the mass lies."""
    y, x = (axis - at for axis, at in zip(np.indices(mass.shape), centre, strict=True))
    distance = np.hypot(y, x).ravel()
    order = np.argsort(distance, kind="stable")
    within = np.cumsum(mass.ravel()[order])
    first = int(np.searchsorted(within, share * within[-1] - 1e-12))
    return float(distance[order[min(first, len(order) - 1)]])


def _scans(net: nn.Module, name: str) -> bool:
    module = net.get_submodule(name.partition("#")[0].partition("[")[0])
    return any(isinstance(part, SCANNING) for part in module.modules())


def _without_tensor(found: FeatureMap) -> FeatureMap:
    """The record with an empty tensor of as many channels, so that no graph is kept."""
    empty = torch.empty(1, found.tensor.shape[1], 0, 0)
    return FeatureMap(found.name, empty, found.stride, found.frame, found.window)
