"""How an answer changes as pixels of the input are replaced, or put back, in a given order (Petsiuk et al. 2018)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.orders import Box, Order, at_random, by_map, nearest_first
from evssm.shapes import Image

Answer = Callable[[Image], Float[Tensor, "b a"]]
"""What is asked of the network: numbers for each image."""

BASELINES = {
    "local mean": "the mean of the 17 x 17 px around it",
    "mean": "the mean of the image",
    "noise": "itself plus normal noise of a tenth of the image's deviation",
}
"""What a pixel that goes is replaced by."""

RADIUS = 8  # px of the local mean: beyond a photograph's texture, within its illumination
NOISE = 0.1


def replacement(x: Image, baseline: str | Tensor, seed: int = 0) -> Image:
    """The image that pixels are replaced from: one of `BASELINES`, or one given, such as another photograph.

    Raises `ValueError` for another name, and for an image of another shape.
    """
    if isinstance(baseline, Tensor):
        if baseline.shape[-3:] != x.shape[-3:]:
            raise ValueError(f"a baseline for {tuple(x.shape)} has its size; this one is {tuple(baseline.shape)}")
        return baseline.to(x).expand_as(x)
    if baseline == "mean":
        return x.mean(dim=(-2, -1), keepdim=True).expand_as(x)
    if baseline == "noise":
        draws = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return x + NOISE * x.std(correction=0) * draws.to(x)
    if baseline == "local mean":
        kernel, outside = 2 * RADIUS + 1, RADIUS
        return F.avg_pool2d(x, kernel, 1, outside, count_include_pad=False)
    raise ValueError(f'no baseline "{baseline}"; choose from {", ".join(BASELINES)}, or give an image')


def counts_of(pixels: int, steps: int) -> Int[np.ndarray, " k"]:
    """How many pixels have gone at each step: from one to all, in equal ratios, as far as whole numbers allow."""
    if steps < 2 or pixels < 2:
        raise ValueError(f"a curve needs two steps and two pixels or more; got {steps} steps and {pixels} pixels")
    return np.unique(np.round(np.geomspace(1, pixels, steps)).astype(np.int64))


def curve(
    answer: Answer,
    start: Image,
    end: Image,
    of: Float[Tensor, "1 a"],
    order: Order,
    counts: Int[np.ndarray, " k"],
    *,
    batch: int = 1,
    done: Callable[[int], object] = lambda images: None,
) -> Float[np.ndarray, " k"]:
    """Root mean square of `answer` - `of` once so many pixels of `start`, the first of `order`, come from `end`.

    `batch` images are asked about together; `done` gets the number of those answered.
    """
    h, w = start.shape[-2:]
    rank = torch.full((h * w,), h * w)
    rank[torch.from_numpy(order)] = torch.arange(len(order))
    found = []
    for several in torch.from_numpy(counts).split(batch):
        gone = (rank < several[:, None]).view(-1, 1, h, w).to(start.device)
        change = answer(torch.where(gone, end, start)).double() - of.double()
        found.append(change.square().mean(dim=1).sqrt().cpu())
        done(len(several))
    return torch.cat(found).numpy()


class Curves(NamedTuple):
    """For each order of `ORDERS`, shares of the largest change by the orders that know no map."""

    deletion: Float[np.ndarray, "3 k"]  # how far the answer has moved once so many pixels are replaced
    insertion: Float[np.ndarray, "3 k"]  # how far it has come back once so many are put into the replaced image


ORDERS = ("map", "nearest", "random")


def compared(
    answer: Answer,
    x: Image,
    other: Image,
    field: Float[np.ndarray, "h w"],
    box: Box,
    counts: Int[np.ndarray, " k"],
    *,
    within: Bool[np.ndarray, "h w"],
    random_orders: int,
    batch: int,
    seed: int,
    done: Callable[[int], object],
) -> Curves:
    """The curves of `field`, of nearest-first order from `box`, and the mean of random ones; only pixels `within` go.

    Raises `ValueError` where replacing them does not change the answer.
    """
    if random_orders < 1:
        raise ValueError(f"chance needs one random order or more, got {random_orders}")
    generator = np.random.default_rng(seed)
    orders = [by_map(field, within, generator), nearest_first(box, within, generator)]
    orders += [at_random(within, generator) for _ in range(random_orders)]
    mask = torch.from_numpy(within).to(x.device)
    bare, of = torch.where(mask, other, x), answer(x)
    away = np.stack([curve(answer, x, bare, of, order, counts, batch=batch, done=done) for order in orders])
    back = np.stack([curve(answer, bare, x, of, order, counts, batch=batch, done=done) for order in orders])
    scale = max(away[1:].max(), back[1:].max())
    if not np.isfinite(scale) or scale <= 1e-9 * float(of.double().square().mean().sqrt()):
        raise ValueError(
            f"replacing pixels changes the answer by {scale:.1e}, so their order shows nothing; try another query "
            "or baseline"
        )
    away, back = away / scale, 1 - back / scale
    return Curves(*(np.stack([all[0], all[1], all[2:].mean(axis=0)]) for all in (away, back)))


class Case(NamedTuple):
    """One query: what is asked of `x` as its pixels come from `other`, the map judged, its place, what may go."""

    answer: Answer
    x: Image
    other: Image
    field: Float[np.ndarray, "h w"]
    box: Box
    within: Bool[np.ndarray, "h w"]


def all_compared(
    cases: Iterable[Case],
    counts: Int[np.ndarray, " k"],
    *,
    random_orders: int,
    seed: int,
    done: Callable[[int], object],
    batch: int = 1,
) -> tuple[Float[np.ndarray, "n 3 k"], Float[np.ndarray, "n 3 k"]]:
    """Deletion and insertion of every case (`compared`), each with random orders of its own."""
    found = []
    for number, case in enumerate(cases):
        found.append(
            compared(
                case.answer,
                case.x,
                case.other,
                case.field,
                case.box,
                counts,
                within=case.within,
                random_orders=random_orders,
                batch=batch,
                seed=seed + number,
                done=done,
            )
        )
    deletion, insertion = (np.stack(each) for each in zip(*found, strict=True))
    return deletion, insertion


def area(curve: Float[np.ndarray, "... k"], counts: Int[np.ndarray, " k"]) -> Float[np.ndarray, "..."]:
    """The mean height of a curve over the logarithm of the number of pixels: every doubling counts alike."""
    place = np.log(counts)
    return np.asarray(np.trapezoid(curve, place, axis=-1) / (place[-1] - place[0]))
