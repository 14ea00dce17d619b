"""How much of a scan's sensitivity is steering and how much is routing.

The output of a scan depends on its input twice: through the values u that it carries (routing, the rows of level "A3"
and D) and through the steps, B and C, which are made of the same input and say how values are carried (selection). With
J the Jacobian row of y at the query by what enters the mixer and R the same row with delta, B and C held fixed, the
selection share is |J - R|_1 / |J|_1, the sums being over pixels, channels and random directions of y.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.activations import Query, ScanCache, query_pixel
from analysis.borrow import borrowed
from analysis.module_rows import Site, within
from analysis.scan_branches import step_of
from analysis.scan_rows import Scan, first, scan_output
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D

Rows = tuple[Float[Tensor, "k ..."], Float[Tensor, "k ..."]]


@dataclass(frozen=True)
class SelectionShare:
    """The share in one module: of the whole row, and of the row without the query's own cell.

    It may exceed one, where steering and routing cancel; not-a-number where the row is zero. `reach` is the share of
    the selection's mass that lies off the query's cell.
    """

    stage: str
    share: float
    off_query: float
    reach: float


@dataclass(frozen=True, eq=False)
class Selection:
    """The shares of all modules, in the order of the forward pass, and how they were made."""

    shares: tuple[SelectionShare, ...]
    provenance: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line for each module."""
        return [asdict(share) for share in self.shares]


def selection_shares(
    net: Callable[..., Any],
    image: Tensor,
    stages: str | Sequence[str] | None = None,
    *,
    query: Query = "centre",
    probes: int = 4,
    seed: int = 0,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Selection:
    """The selection share of every scanning module at one pixel of one image.

    `image` is `3 h w` or `1 3 h w`; `stages` are patterns as in `activation_maps`. `probes` random sign vectors stand
    for the channels of y. Directions are added and overlapping windows averaged as the network does; what follows the
    scan, norm and gate, is left out.

    Raises `LookupError` where no stage holds a mixer of ours and `ValueError` for a query outside the image.
    """
    if probes < 1:
        raise ValueError(f"channels are probed with one sign vector or more, got probes={probes}")
    cache = ScanCache(net, image, stages, trained=trained)
    h, w = cache.size
    place = query_pixel(query, h, w)
    found = []
    generator = torch.Generator().manual_seed(seed)
    for done, (name, site) in enumerate(cache.sites.items(), start=1):
        if site.bare is not None:
            raise LookupError(f"of {name} only the scan is known, not what selects its steps; choose a mixer of ours")
        found.append(_of_site(name, site, place, probes, generator))
        if progress is not None:
            progress(done, len(cache.sites))
    return Selection(tuple(found), {**cache.stamp, "query": list(place), "probes": probes, "seed": seed})


def split_row(
    scans: Callable[[Tensor], Sequence[Scan]],
    x: Tensor,
    steps: Sequence[int],
    directions: Float[Tensor, "k d"],
) -> Rows:
    """The rows of sum over i of y_i[steps[i]] by x, along each direction: all of it, and with delta, B, C held fixed.

    `scans` makes the scans whose outputs y_i are added from x; both rows have the shape of x behind the directions.
    """
    x = x.detach().requires_grad_()
    made = scans(x)
    whole = _at(made, steps)
    fixed = [scan._replace(delta=scan.delta.detach(), B=scan.B.detach(), C=scan.C.detach()) for scan in made]
    routed = _at(fixed, steps)
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for direction in directions:
        for answer, kept in zip((whole, routed), rows, strict=True):
            (row,) = torch.autograd.grad(answer, x, direction, retain_graph=True, allow_unused=True)
            kept.append(torch.zeros_like(x) if row is None else row.detach())
    return torch.stack(rows[0]), torch.stack(rows[1])


def _at(scans: Sequence[Scan], steps: Sequence[int]) -> Float[Tensor, " d"]:
    parts = [scan_output(first(scan, t + 1))[:, -1] for scan, t in zip(scans, steps, strict=True)]
    return torch.stack(parts).sum(dim=0)


def _of_site(name: str, site: Site, query: tuple[int, int], probes: int, generator: torch.Generator) -> SelectionShare:
    h, w = site.frame.inverse.size(*site.x.shape[-2:])
    cell: Any = site.frame.points((query[0] // site.stride, query[1] // site.stride), h, w)
    projection: Any = site.mixer.out_proj
    channels = projection.in_features
    directions = (torch.randint(0, 2, (probes, channels), generator=generator) * 2.0 - 1).to(site.x)
    total, routed = (torch.zeros(probes, *site.x.shape[1:]).to(site.x) for _ in range(2))
    with borrowed(nn.ModuleList([site.mixer])):
        for window in site.around(cell):
            x = site.entering(site.x[(..., *window)]).detach()
            at, (h, w) = within(cell, window), x.shape[-2:]
            steps = [step_of(turn, at, h, w) for turn in site.branch(window).directions]
            both = split_row(lambda x: _scans(site.mixer, x), x, steps, directions)
            for into, part in zip((total, routed), both, strict=True):
                into[(..., *window)] += part[:, 0]
    away = torch.ones_like(site.x[0, 0])
    away[cell] = 0
    steering = (total - routed).abs()
    mass, off = float(total.abs().sum()), float((total.abs() * away).sum())
    selected, far = float(steering.sum()), float((steering * away).sum())
    return SelectionShare(name, _quotient(selected, mass), _quotient(far, off), _quotient(far, selected))


def _scans(mixer: nn.Module, x: Tensor) -> list[Scan]:
    """Each direction's scan for the mixer's input."""
    if isinstance(mixer, SS2D):
        return [Scan.of(inputs) for inputs in mixer.each_scan(x)]
    assert isinstance(mixer, Mamba2)
    return [Scan.of(mixer.scan_inputs(x))]


def _quotient(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float(np.nan)
