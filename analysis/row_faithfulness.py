"""Whether the row of a scan knows which pixels matter to its module: `analysis.faithfulness` inside a network."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.activations import ScanCache
from analysis.borrow import borrowed
from analysis.deletion import Answer, compared, counts_of, replacement
from analysis.faithfulness import Faithfulness, counter
from analysis.module_rows import Cell, Site, branch_answer, step_of
from analysis.scan_rows import scan_output
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

    Replaced are pixels of the map that enters the module's branch, gates, norms and selection following; of a network
    of one's own the values that enter the scan, its selection held. Only pixels of the row's support go, and never the
    query's own, which skip and gate make the first of any order. `queries` are image pixels, one row each, with the
    `options` of `ScanCache.row`; the other arguments are those of `faithfulness`.

    Raises `ValueError` where no query has two pixels in its support, or no replacement changes the output.
    """
    site, found = cache.site(stage), []
    asked = [_asked(cache, site, query, options) for query in queries]
    widest = max(int(within.sum()) for _, within, _ in asked)
    # The first pixels of a scan see little: their curves would end before others begin to bend.
    asked = [(field, within, place) for field, within, place in asked if within.sum() >= max(2, widest / 8)]
    asked = [(field, within, place) for field, within, place in asked if np.ptp(np.abs(field[within])) > 0]
    if not asked:
        raise ValueError(f"no query sees two pixels besides itself in {site.name}; ask in the middle of the image")
    counts = counts_of(min(int(within.sum()) for _, within, _ in asked), steps)
    tick = counter(2 * len(asked) * len(counts) * (2 + random_orders), progress)
    with borrowed(nn.ModuleList(part for part in (site.mixer, site.norm) if part is not None)), torch.no_grad():
        for number, (field, within, place) in enumerate(asked):
            x, answer = _bare(site, place) if site.bare is not None else (site.x, _branch(site, place))
            other = replacement(x, baseline, seed + number)
            found.append(
                compared(
                    answer,
                    x,
                    other,
                    field,
                    (place[0], place[1], place[0] + 1, place[1] + 1),
                    counts,
                    within=within,
                    random_orders=random_orders,
                    batch=1,
                    seed=seed + number,
                    done=tick,
                )
            )
    deletion, insertion = (np.stack(each) for each in zip(*found, strict=True))
    answers = "the output of its scan" if site.bare is not None else "the output of its module"
    return Faithfulness(counts, deletion, insertion, np.zeros(len(found), dtype=np.int64), baseline, answers)


def _asked(cache: ScanCache, site: Site, query: tuple[int, int], options: dict[str, Any]) -> tuple[Any, Any, Cell]:
    """The row, the pixels that may go and the query's own, all as the module stores its map."""
    row = cache.row(query, site.name, keep_channels=False, **options)
    h, w = row.map.shape
    r, c = site.frame.points(row.cell, h, w)
    field, within = (site.frame(torch.from_numpy(array.copy())).numpy().copy() for array in (row.map, row.support))
    within[r, c] = False
    return field, within, (r, c)


def _branch(site: Site, place: Cell) -> Answer:
    """What the branch says at one pixel, as a function of the map that enters it."""

    def answer(x: Image) -> Float[Tensor, "b a"]:
        return torch.stack([branch_answer(site, one[None], site.around(place), place, False) for one in x])

    return answer


def _bare(site: Site, place: Cell) -> tuple[Image, Answer]:
    """The values that enter the scans of one call, as a map, and their sum at one pixel as a function of it."""
    assert site.bare is not None
    parts, (h, w) = list(site.bare.scans), site.bare.size
    maps = [turn.inverse(scan.u.unflatten(1, turn.size(h, w))) for turn, scan in parts]
    sizes = [len(each) for each in maps]

    def answer(x: Image) -> Float[Tensor, "b a"]:
        several = []
        for one in x:
            said = [
                scan_output(scan, turn(values).flatten(1))[:, step_of(turn, place, h, w)]
                for (turn, scan), values in zip(parts, one.split(sizes), strict=True)
            ]
            several.append(torch.stack(said).sum(dim=0))
        return torch.stack(several)

    return torch.cat(maps)[None], answer
