"""Whether the row of a scan knows which pixels matter to its module: `analysis.order_check` inside a network."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis.activations import ScanCache
from analysis.borrow import borrowed
from analysis.deletion import Answer, Case, all_compared, counts_of, replacement
from analysis.module_rows import Site, Window
from analysis.order_check import Faithfulness, counter
from analysis.scan_branches import Cell, SS2DBranch, step_of
from analysis.scan_rows import SCAN_LEVELS, Scan, scan_output
from evssm.geometry import D4
from evssm.shapes import Image


def row_faithfulness(
    cache: ScanCache,
    stage: str,
    queries: Sequence[tuple[int, int]],
    *,
    baseline: str = "noise",
    steps: int = 10,
    random_orders: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Faithfulness:
    """Whether pixels that the row ranks first are those that move the module's output at the query when replaced.

    At levels A0-A4 replaced are the values that enter the scan, and asked is its output; in EVSSM's mixer the selection
    follows them, elsewhere it is held. At A5-A7 replaced are pixels of the map that enters the module's branch, and
    asked is the branch's output. Where the module works in windows, it is in one of those around the query. Only pixels
    of the row's support go, and never the query's own, which skip and gate make the first of any order. `queries` are
    image pixels, one row each, with the `options` of `ScanCache.row`; the other arguments are those of `faithfulness`.

    Raises `ValueError` where no query has two pixels in its support, or no replacement changes the output.
    """
    site = cache.site(stage)
    asked = [_asked(cache, site, query, options) for query in queries]
    widest = max(int(each.within.sum()) for each in asked)
    # The first pixels of a scan see little: their curves would end before others begin to bend.
    asked = [each for each in asked if each.within.sum() >= max(2, widest / 8)]
    asked = [each for each in asked if np.ptp(np.abs(each.field[each.within])) > 0]
    if not asked:
        raise ValueError(f"no query sees two pixels besides itself in {site.name}; ask in the middle of the image")
    counts = counts_of(min(int(each.within.sum()) for each in asked), steps)
    tick = counter(2 * len(asked) * len(counts) * (2 + random_orders), progress)
    of_scan = site.bare is not None or options.get("level", "A3") in SCAN_LEVELS

    def case(number: int, window: Window, place: Cell, field: np.ndarray, within: np.ndarray) -> Case:
        x, answer = _scan(site, window, place) if of_scan else _branch(site, window, place)
        box = (place[0], place[1], place[0] + 1, place[1] + 1)
        return Case(answer, x, replacement(x, baseline, seed + number), field, box, within)

    with borrowed(nn.ModuleList(part for part in (site.mixer, site.norm) if part is not None)), torch.no_grad():
        deletion, insertion = all_compared(
            (case(number, *each) for number, each in enumerate(asked)),
            counts,
            random_orders=random_orders,
            seed=seed,
            done=tick,
        )
    answers = "the output of its scan" if of_scan else "the output of its branch"
    return Faithfulness(counts, deletion, insertion, np.zeros(len(asked), dtype=np.int64), baseline, answers)


class Asked(NamedTuple):
    """A query of a module in one of its windows: all in the window, as the module stores its map."""

    window: Window
    place: Cell
    field: Float[np.ndarray, "h w"]
    within: Bool[np.ndarray, "h w"]


def _asked(cache: ScanCache, site: Site, query: tuple[int, int], options: dict[str, Any]) -> Asked:
    row = cache.row(query, site.name, keep_channels=False, **options)
    r, c = site.frame.points(row.cell, *row.map.shape)
    window = site.around((r, c))[0]
    field, within = (
        site.frame(torch.from_numpy(each.copy())).numpy()[window].copy() for each in (row.map, row.support)
    )
    place = (r - window[0].start, c - window[1].start)
    within[place] = False
    return Asked(window, place, field, within)


def _branch(site: Site, window: Window, place: Cell) -> tuple[Image, Answer]:
    """The map that enters the branch in a window, and what the branch says at one pixel as a function of it."""

    def answer(x: Image) -> Float[Tensor, "b a"]:
        return site.mixer(site.entering(x))[(..., *place)]

    return site.x[(..., *window)], answer


def _scan(site: Site, window: Window, place: Cell) -> tuple[Image, Answer]:
    """The values that enter the scans in a window, as a map, and the scans' sum at one pixel as a function of it."""
    branch = site.scanned(window)
    if not isinstance(branch, SS2DBranch):
        return _held(list(branch.scans), branch.size, place)
    turn, scan = next(iter(branch.scans))
    h, w = branch.size
    values = turn.inverse(scan.u.unflatten(1, turn.size(h, w)))

    def answer(x: Image) -> Float[Tensor, "b a"]:
        return torch.stack([_sum_at([(t, s, s.u) for t, s in branch.scans_of(one)], place, (h, w)) for one in x])

    return values[None], answer


def _held(parts: list[tuple[D4, Scan]], size: tuple[int, int], place: Cell) -> tuple[Image, Answer]:
    """The same with the selection held: each scan's own values, one after the other in the channels."""
    maps = [turn.inverse(scan.u.unflatten(1, turn.size(*size))) for turn, scan in parts]
    lengths = [len(each) for each in maps]

    def answer(x: Image) -> Float[Tensor, "b a"]:
        several = []
        for one in x:
            own = zip(parts, one.split(lengths), strict=True)
            several.append(_sum_at([(turn, scan, turn(v).flatten(1)) for (turn, scan), v in own], place, size))
        return torch.stack(several)

    return torch.cat(maps)[None], answer


def _sum_at(
    parts: list[tuple[D4, Scan, Float[Tensor, "d l"]]], place: Cell, size: tuple[int, int]
) -> Float[Tensor, " d"]:
    """The scans' outputs of the values given with them at one pixel, added."""
    return torch.stack([scan_output(scan, u)[:, step_of(turn, place, *size)] for turn, scan, u in parts]).sum(dim=0)
