"""Everything that can be measured of a network, by name: what it is, how it is asked, and how it is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from analysis import measure_maps, measure_panels
from analysis.activations import query_pixel
from analysis.alignment import blur_alignment
from analysis.growth import growth_curve
from analysis.half_planes import half_plane_shares
from analysis.horizons import horizon_maps
from analysis.interventions import causal_effects
from analysis.knock_out_table import knock_out_effects
from analysis.modes import mode_difference
from analysis.selection_share import selection_shares
from analysis.sensitivity import Select
from analysis.structural import structural_field
from analysis.transfer import blur_transfer

REGION = 16
"""Height and width in px of the region, around the query, whose restoration "causes" explains."""


@dataclass(frozen=True)
class Question:
    """What is asked of a network: images and, where they are known, the sharp ones that belong to them.

    All are `c h w` and of one size. `query` is (row, column) or "centre"; `select` picks the image of a network that
    returns several; `length` in px and `angle` in degrees are those of the blur that "transfer" makes.
    """

    blurred: Sequence[Tensor]
    sharp: Sequence[Tensor] | None = None
    query: Any = "centre"
    stages: Sequence[str] | None = None
    select: Select | None = None
    seed: int = 0
    length: float = 8.0
    angle: float = 0.0
    whole: Any = None
    """The same network without windows, for "modes"."""
    progress: Callable[[int, int], object] | None = None


@dataclass(frozen=True)
class Measure:
    """One thing to measure: `ask(net, question)` gives a result with `rows()` and `provenance`, `draw` its figure."""

    summary: str
    ask: Callable[[Any, Question], Any]
    draw: Callable[[Any], Figure]


def _growth(net: Any, q: Question) -> Any:
    return growth_curve(net, q.blurred, q.stages, query=q.query, seed=q.seed, progress=q.progress)


def _half_planes(net: Any, q: Question) -> Any:
    return half_plane_shares(net, q.blurred, queries=q.query, select=q.select, seed=q.seed, progress=q.progress)


def _horizons(net: Any, q: Question) -> Any:
    return horizon_maps(net, q.blurred[0], q.stages, progress=q.progress)


def _selection(net: Any, q: Question) -> Any:
    return selection_shares(net, q.blurred[0], q.stages, query=q.query, seed=q.seed, progress=q.progress)


def _knock_outs(net: Any, q: Question) -> Any:
    return knock_out_effects(net, q.blurred, q.sharp, queries=q.query, select=q.select, progress=q.progress)


def _modes(net: Any, q: Question) -> Any:
    if q.whole is None:
        raise ValueError("modes compare a network in windows with the same one without; give --local or --window")
    return mode_difference(q.whole, net, q.blurred, queries=q.query, select=q.select, progress=q.progress)


def _alignment(net: Any, q: Question) -> Any:
    return blur_alignment(net, _sharp(q), queries=q.query, select=q.select, progress=q.progress)


def _transfer(net: Any, q: Question) -> Any:
    return blur_transfer(
        net, _sharp(q), length=q.length, angle=q.angle, query=q.query, select=q.select, progress=q.progress
    )


def _structure(net: Any, q: Question) -> Any:
    stages = q.stages or ("*" if getattr(net, "stages", None) else None)
    return structural_field(net, q.blurred[0], q.query, stages, select=q.select, seed=q.seed)


def _causes(net: Any, q: Question) -> Any:
    if q.sharp is None:
        raise ValueError("this scores a region against the sharp image; give --sharp")
    h, w = q.blurred[0].shape[-2:]
    edges = min(REGION, h), min(REGION, w)
    corner = [
        min(max(at - edge // 2, 0), side - edge)
        for at, edge, side in zip(query_pixel(q.query, h, w), edges, (h, w), strict=True)
    ]
    return causal_effects(
        net, q.blurred[0], q.sharp[0], (*corner, *edges), select=q.select, seed=q.seed, progress=q.progress
    )


def _sharp(q: Question) -> Sequence[Tensor]:
    """The images that a known blur is put on."""
    if q.sharp is None:
        raise ValueError("this puts a known blur on sharp images; give --sharp")
    return q.sharp


MEASURES = {
    "growth": Measure("how far the query sees after every block", _growth, measure_panels.growth_panel),
    "half-planes": Measure("on which sides, beyond its local zone", _half_planes, measure_panels.half_planes_panel),
    "horizons": Measure("how far back every scan remembers", _horizons, measure_maps.horizons_panel),
    "selection": Measure("steering against routing in every scan", _selection, measure_panels.selection_panel),
    "knock-outs": Measure("without scans, turns or windows", _knock_outs, measure_panels.knock_outs_panel),
    "modes": Measure("in windows and on the whole map", _modes, measure_maps.modes_panel),
    "alignment": Measure("whether the field turns with the blur", _alignment, measure_panels.alignment_panel),
    "transfer": Measure("gain by frequency, beside the ideal inverse", _transfer, measure_panels.transfer_panel),
    "structure": Measure("what a pixel can reach, whatever the weights", _structure, measure_maps.structural_panel),
    "causes": Measure("which parts help or harm the restoration around it", _causes, measure_maps.causes_panel),
}
"""The choices of `evssm measure`."""
