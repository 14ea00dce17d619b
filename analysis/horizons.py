"""How far back every pixel's scan remembers: horizons of the decay, in pixels along the scan and in rows of it.

The horizon of a state at step t is the smallest lag over which it decays to 1/e, -A (S[t] - S[t - lag]) >= 1 with S the
running sum of the steps (`analysis.scan_rows.memory_horizon`, here at every t at once). What a scan knows of the row
above has passed through a whole row of steps: a horizon under one row is why EVSSM transposes the map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.activations import ScanCache
from analysis.module_rows import Site
from analysis.scan_rows import Scan
from evssm.geometry import D4

Number = float | int


@dataclass(frozen=True, eq=False)
class HorizonMap:
    """The horizons of one scan at every pixel, as the image lies, at the scale of its stage.

    `turn` took the upright image to the map that the scan read row by row, of which a row has `row_length` pixels.
    `pixels` are image px along the scan, `rows` are rows of it (columns of the image where it lies transposed), each
    the `quantile` over all states of all channels; infinite where that state remembers the beginning of the sequence.
    """

    stage: str
    turn: D4
    stride: int
    row_length: int
    pixels: Float[np.ndarray, "h w"]
    rows: Float[np.ndarray, "h w"]
    unforgotten: float
    """Share of all states at all pixels that have not decayed to 1/e since the sequence began."""


@dataclass(frozen=True, eq=False)
class Horizons:
    """A map for every scan, in the order of the forward pass, and how they were made."""

    maps: tuple[HorizonMap, ...]
    provenance: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line for each scan: medians over the pixels of the image."""
        return [
            {
                "stage": found.stage,
                "lies": str(found.turn),
                "stride": found.stride,
                "pixels": _median(found.pixels),
                "rows": _median(found.rows),
                "share over a row": float((found.rows >= 1).mean()),
                "share unforgotten": found.unforgotten,
            }
            for found in self.maps
        ]


def horizon_maps(
    net: Callable[..., Any],
    image: Tensor,
    stages: str | Sequence[str] | None = None,
    *,
    quantile: Number = 0.5,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Horizons:
    """The memory horizon of every scan of `net` on one image, at every pixel.

    `image` is `3 h w` or `1 3 h w`; `stages` and `options` are those of `ScanCache`, through which networks that call
    `evssm.selective_scan` take part too. `quantile` says which of the horizons of a pixel's states is shown: 0.5 their
    median, 1 the longest. Where windows overlap, the longest of theirs. `progress` counts scanning modules.

    Raises `LookupError` where nothing scans and `ValueError` for a quantile outside [0, 1].
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, got {quantile}; the median is 0.5")
    cache = ScanCache(net, image, stages, trained=trained, **options)
    maps: list[HorizonMap] = []
    with torch.no_grad():
        for done, (name, site) in enumerate(cache.sites.items(), start=1):
            maps += _of_site(name, site, cache.size, quantile)
            if progress is not None:
                progress(done, len(cache.sites))
    return Horizons(tuple(maps), {**cache.stamp, "quantile": quantile})


def _of_site(name: str, site: Site, size: tuple[int, int], quantile: Number) -> Iterator[HorizonMap]:
    """A map for each direction in which one module scans, its windows stitched."""
    h, w = site.x.shape[-2:]
    steps: dict[int, Tensor] = {}
    turns: dict[int, D4] = {}
    lengths: dict[int, int] = {}
    unforgotten: dict[int, list[float]] = {}
    for window in site.windows():
        seen = site.scanned(window)
        for k, (turn, scan) in enumerate(seen.scans):
            lags, endless = horizons(scan, quantile)
            at = turn.inverse(lags.reshape(turn.size(*seen.size)))
            whole = steps.setdefault(k, torch.full((h, w), -1.0, dtype=torch.float64))
            whole[window] = torch.maximum(whole[window], at.cpu())
            turns[k], lengths[k] = turn, turn.size(*seen.size)[1]
            unforgotten.setdefault(k, []).append(endless)
            del scan
    inside = tuple(slice(0, -(-side // site.stride)) for side in size)
    for k, whole in steps.items():
        upright = site.frame.inverse(whole).contiguous().numpy()[inside]
        turn = turns[k] @ site.frame
        label = name if len(steps) == 1 else f"{name}[{k}]"
        ends = float(np.mean(unforgotten[k]))
        pixels, rows = upright * site.stride, upright / lengths[k]
        yield HorizonMap(label, turn, site.stride, lengths[k], pixels, rows, ends)


def horizons(scan: Scan, quantile: Number = 0.5) -> tuple[Float[Tensor, " l"], float]:
    """For each step, a quantile over states and channels of the lag to 1/e, in steps; and the share that has none.

    Quantiles are values that occur (the lower of two neighbours), so that infinite ones do not spread.
    """
    total = scan.delta.double().cumsum(-1)
    t = torch.arange(total.shape[1], device=total.device)
    lags = []
    for A in scan.A.double().unbind(dim=1):
        # the latest s with S[s] <= S[t] - 1/|A|; -1 where even the first is later
        border = total + 1 / A[:, None]
        latest = torch.searchsorted(total, border.contiguous(), right=True) - 1
        lags.append(torch.where(latest >= 0, (t - latest).double(), torch.inf))
    every = torch.cat(lags)
    rank = int(quantile * (len(every) - 1))
    return every.kthvalue(rank + 1, dim=0).values, float(every.isinf().double().mean())


def _median(values: Float[np.ndarray, "h w"]) -> float:
    return float(np.partition(values.ravel(), values.size // 2)[values.size // 2])
