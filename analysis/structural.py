"""What an architecture lets one pixel reach, exactly: not-a-number goes wherever a computation goes.

A pixel is made not-a-number and the outputs that turn so are the ones that its value enters, whatever the weights. No
gradient is taken and nothing is thresholded: weights of zero, saturated activations and forgotten states pass it on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from analysis.activations import Query, query_pixel
from analysis.borrow import borrowed
from analysis.growth import step_names
from analysis.inputs import check_fit, single_images
from analysis.making import made_of
from analysis.sensitivity import Network, Select, chosen_output
from evssm import mamba2
from evssm.hooks import FeatureMap, record

OUTPUT = "the network's output"


@dataclass(frozen=True, eq=False)
class Reach:
    """Where one pixel reaches in one map, as the image lies; a cell of the map is `stride` image px wide.

    `missed` counts cells that changed when the pixel's value was changed, but did not turn not-a-number: something on
    the way hides it (`nan_to_num`, a comparison), and the mask is too small. It is 0 where the tracing holds.
    """

    name: str
    mask: Bool[np.ndarray, "h w"]
    stride: int
    missed: int

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """First and last row, first and last column that the pixel reaches; `None` where it reaches nothing."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@dataclass(frozen=True, eq=False)
class StructuralField:
    """Where one pixel reaches in each map asked for, the output last, and how it was made."""

    pixel: tuple[int, int]
    reaches: tuple[Reach, ...]
    provenance: dict[str, Any]

    @property
    def output(self) -> Reach:
        """The reach in the network's output."""
        return self.reaches[-1]

    def rows(self) -> list[dict[str, Any]]:
        """A line for each map: cells reached, their share, their box in cells, and what the tracing missed."""
        found = []
        for reach in self.reaches:
            top, bottom, left, right = reach.box or (None, None, None, None)
            place = {"top": top, "bottom": bottom, "left": left, "right": right}
            numbers = {"cells": int(reach.mask.sum()), "share": float(reach.mask.mean())}
            found.append({"map": reach.name, "stride": reach.stride, **numbers, **place, "missed": reach.missed})
        return found


def structural_field(
    net: Network,
    image: Tensor,
    pixel: Query = "centre",
    stages: str | Sequence[str] | None = None,
    *,
    select: Select | None = None,
    seed: int = 0,
    trained: bool | None = None,
) -> StructuralField:
    """Which outputs the value of one pixel of `image` can enter, and with `stages` which cells of those maps.

    `image` is `c h w` or `1 c h w`, `pixel` (row, column) or "centre", `select` as in `effective_receptive_field`.
    `stages` are patterns of stage names, "*" for the outermost; maps of stages are turned upright and cut to the image.
    A column of the structure, where `effective_receptive_field` shows a row: for a network that does alike everywhere
    the two are mirror images. A network of one's own that calls `evssm.ssd_scan` must do so with chunks of one step, or
    all of a chunk is marked. Three runs: with not-a-number, and twice to see that nothing hides it (`Reach.missed`).

    Raises `ValueError` for a pixel outside, for stages of a network that is no `nn.Module`, and where the output is
    not-a-number without the pixel's being so.
    """
    (x,) = single_images(image)
    check_fit(net, x)
    h, w = x.shape[-2:]
    place = query_pixel(pixel, h, w)
    names = _named(net, stages)
    at = (..., *place)
    generator = torch.Generator().manual_seed(seed)
    changed, lost = x.clone(), x.clone()
    changed[at] = torch.rand(x.shape[1], generator=generator).to(x) * 2
    lost[at] = torch.nan
    with borrowed(net), torch.no_grad(), _step_by_step():
        usual, other, marked = (_maps(net, version, names, select) for version in (x, changed, lost))
    if any(not found.tensor.isfinite().all() for found in usual.values()):
        raise ValueError("the network makes values that are not finite of this image by itself; take another image")
    reaches = tuple(_reach(name, usual[name], other[name], marked[name], (h, w)) for name in usual)
    made = made_of(net, [x], trained=trained, pixel=list(place), seed=seed)
    return StructuralField(place, reaches, made)


@contextmanager
def _step_by_step() -> Iterator[None]:
    """Mamba-2 blocks in chunks of one step: masked products of longer ones carry not-a-number to their start."""
    scan = mamba2.ssd_scan
    mamba2.ssd_scan = partial(scan, chunk=1)
    try:
        yield
    finally:
        mamba2.ssd_scan = scan


def _named(net: Network, stages: str | Sequence[str] | None) -> list[str]:
    if stages is None:
        return []
    if not isinstance(net, nn.Module):
        raise ValueError(f"stages are those of an nn.Module, and this network is a {type(net).__name__}")
    return step_names(net, None if stages in ("*", ["*"]) else stages)


def _maps(net: Any, x: Tensor, names: Sequence[str], select: Select | None) -> dict[str, FeatureMap]:
    """The maps asked for, the output last, of one image."""
    if not names:
        return {OUTPUT: FeatureMap(OUTPUT, chosen_output(net(x.clone()), select))}
    with record(net, *names) as recording:
        y = chosen_output(net(x.clone()), select)
    found = {name: one for name, one in recording.items() if one.tensor.ndim == 4}
    return {**found, OUTPUT: FeatureMap(OUTPUT, y)}


def _reach(name: str, usual: FeatureMap, other: FeatureMap, marked: FeatureMap, size: tuple[int, int]) -> Reach:
    """The cells of one map that turned not-a-number, checked against those that changed."""
    turned = marked.tensor.isnan()[0].any(dim=0)
    differs = (usual.tensor != other.tensor)[0].any(dim=0)
    stride = usual.stride or max(1, round(size[0] / turned.shape[-2]))
    maps = [turned, differs] if usual.frame is None else [usual.frame.inverse(m) for m in (turned, differs)]
    inside = tuple(slice(0, -(-side // stride)) for side in size)
    mask, moved = (m.cpu().numpy()[inside].copy() for m in maps)
    return Reach(name, mask, stride, int((moved & ~mask).sum()))
