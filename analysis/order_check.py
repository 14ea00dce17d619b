"""Whether a map knows which pixels matter: deletion and insertion by its order, nearest first, and at random."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.borrow import borrowed
from analysis.deletion import ORDERS, Answer, Case, all_compared, area, counts_of, replacement
from analysis.inputs import check_fit, single_images
from analysis.orders import Box, box_of
from analysis.sensitivity import EXCLUDE, INCLUDE, Network, Select, check_reproducible, response
from analysis.verdicts import Verdict
from evssm.bootstrap import percentile_interval
from evssm.shapes import Image
from evssm.stamp import image_sha256


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness:
    """Curves of deletion and insertion for one query or several; `str` is the verdict in a line.

    `deletion` is how far the answer has moved once `counts` pixels are replaced, `insertion` how far it has come back
    once so many are put into the replaced image; both as shares of the largest change by the orders that know no map,
    in the order of `ORDERS`. High is good: what the order puts first matters. `images` numbers the image of each query.
    """

    counts: Int[np.ndarray, " k"]
    deletion: Float[np.ndarray, "n 3 k"]
    insertion: Float[np.ndarray, "n 3 k"]
    images: Int[np.ndarray, " n"]
    baseline: str
    answers: str = "the output"

    def areas(self) -> Float[np.ndarray, "n 3"]:
        """The mean height of both curves over the logarithm of the number of pixels."""
        return (area(self.deletion, self.counts) + area(self.insertion, self.counts)) / 2

    def gains(self, over: str = "nearest") -> Float[np.ndarray, " n"]:
        """The map's area less that of another order, for each query."""
        areas = self.areas()
        return areas[:, 0] - areas[:, ORDERS.index(over)]

    def gain(self, over: str = "nearest") -> float:
        """The mean of `gains`."""
        return float(self.gains(over).mean())

    def interval(self, over: str = "nearest", level: float = 0.95, *, n: int = 1000) -> tuple[float, float]:
        """(low, high) of the gain by the percentile bootstrap over images, queries staying with their image.

        Of a single image, over its queries. `ValueError` for a single query.
        """
        gains, names = self.gains(over), np.unique(self.images)
        groups = [np.flatnonzero(self.images == name) for name in names] if len(names) > 1 else np.arange(len(gains))

        def mean(chosen: Any) -> float:
            return float(gains[np.hstack([groups[k] for k in chosen])].mean())

        return percentile_interval(mean, len(groups), level=level, n=n)

    def verdict(self, over: str = "nearest") -> Verdict | None:
        """Whether the map does better than another order; `None` for a single query, whose gain has no interval."""
        if len(self.images) < 2:
            return None
        claim = {"nearest": "it knows more than distance", "random": "it knows more than chance"}[over]
        return Verdict(claim, f"gain over {over} order", "larger", self.gain(over), *self.interval(over))

    @property
    def word(self) -> str:
        """What both verdicts come to."""
        nearest, chance = self.verdict("nearest"), self.verdict("random")
        if nearest is None or chance is None:
            return "not judged"
        if nearest.word == "contradicted" or chance.word == "contradicted":
            return "contradicted"
        if nearest.word == "shown":
            return "shown, beyond distance"
        return "shown, as far as distance goes" if chance.word == "shown" else "not shown"

    def __str__(self) -> str:
        words = []
        for over in ("nearest", "random"):
            verdict = self.verdict(over)
            words.append(f"{self.gain(over):+.3f} over {over} order (one query: no interval)")
            if verdict is not None:
                words[-1] = f"{verdict.difference:+.3f} [{verdict.low:+.3f}, {verdict.high:+.3f}] over {over} order"
        queries, images = len(self.images), len(np.unique(self.images))
        return (
            f"order of importance {self.word}: replacing pixels by it moves {self.answers} {'; '.join(words)} "
            f"({queries} quer{'y' if queries == 1 else 'ies'}, {images} image{'s' * (images > 1)}, "
            f"baseline {self.baseline})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON values."""
        facts: dict[str, Any] = {
            "says": str(self),
            "word": self.word,
            "baseline": self.baseline,
            "pixels": self.counts.tolist(),
            "image_of_query": self.images.tolist(),
        }
        for over in ("nearest", "random"):
            verdict = self.verdict(over)
            facts[f"gain_over_{over}"] = self.gain(over)
            facts[f"interval_over_{over}"] = None if verdict is None else [verdict.low, verdict.high]
        for name in ("deletion", "insertion"):
            facts[name] = dict(zip(ORDERS, getattr(self, name).mean(axis=0).tolist(), strict=True))
        return facts


def faithfulness(
    net: Network,
    image: Tensor | Sequence[Tensor],
    query: Sequence[Any] | np.ndarray,
    map: np.ndarray | Sequence[np.ndarray],
    *,
    baseline: str | Tensor = "noise",
    residual: str = "exclude",
    select: Select | None = None,
    support: np.ndarray | None = None,
    steps: int = 12,
    random_orders: int = 2,
    batch: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Faithfulness:
    """Whether the pixels that `map` ranks first are those that move the output at `query` when they are replaced.

    `map` is any `h w` array over the input, its largest absolute values first; `query` is (row, column), or the box
    (top, left, bottom, right) of a region. Images, queries and maps may also be lists, taken together one by one; a
    single one serves all. `baseline` says what replaces a pixel: a name in `BASELINES`, or an image; small noise
    asks what a map of derivatives claims, and changes flat places too. Pixels outside
    `support` stay, in every order: a causal map gains nothing by what it cannot see. `residual` and `select` are those
    of `effective_receptive_field`. The change, a root mean square over output channels and region, is compared with
    that by nearest-first order (for a restorer hard to beat) and by the mean of `random_orders`. Needs 2 (2 + orders)
    `steps` runs for each query, `batch` images in each; `progress` is called with (done, total) of them.

    Raises `ValueError` for a map that is not finite or orders nothing, where no replacement changes the output, and
    where a plain function gives two answers to one image.
    """
    images = [x.detach() for x in single_images(image)]
    queries, maps = _several(query, 1), _several(map, 2)
    check_fit(net, images[0])
    n = max(len(images), len(queries), len(maps))
    if any(len(each) not in (1, n) for each in (images, queries, maps)):
        raise ValueError(
            f"{len(images)} images, {len(queries)} queries and {len(maps)} maps do not go together one by one; "
            "give as many of each, or one for all"
        )
    if residual not in (EXCLUDE, INCLUDE):
        raise ValueError(f'no residual "{residual}"; choose from {EXCLUDE}, {INCLUDE}')
    h, w = images[0].shape[-2:]
    within = np.ones((h, w), dtype=bool) if support is None else np.asarray(support, dtype=bool)
    check_sizes(within, maps, h, w)
    counts = counts_of(int(within.sum()), steps)
    tick = counter(2 * n * len(counts) * (2 + random_orders), progress)

    def case(index: int) -> Case:
        x, box = images[index % len(images)], box_of(queries[index % len(queries)], h, w)
        answer = _output_at(net, box, select, residual)
        return Case(answer, x, replacement(x, baseline, seed + index), maps[index % len(maps)], box, within)

    with borrowed(net), torch.no_grad():
        if not isinstance(net, nn.Module):
            check_reproducible(net, images[0], select)
        deletion, insertion = all_compared(
            (case(index) for index in range(n)), counts, random_orders=random_orders, batch=batch, seed=seed, done=tick
        )
    names = [image_sha256(x) for x in images]
    numbers = [names.index(names[index % len(names)]) for index in range(n)]
    name = baseline if isinstance(baseline, str) else "as given"
    return Faithfulness(counts, deletion, insertion, np.array(numbers), name)


def _output_at(net: Network, box: Box, select: Select | None, residual: str) -> Answer:
    """What the network says in a region, as a function of the image."""
    top, left, bottom, right = box

    def answer(x: Image) -> Float[Tensor, "b a"]:
        return response(net, x, select, residual)[0][..., top:bottom, left:right].flatten(1)

    return answer


def check_sizes(within: np.ndarray, maps: Sequence[np.ndarray], h: int, w: int) -> None:
    """`ValueError` unless the support and all maps have the image's size."""
    for what, array in (("the support", within), *(("a map", field) for field in maps)):
        if array.shape != (h, w):
            raise ValueError(
                f"{what} of {' x '.join(map(str, array.shape))} does not lie over an image of {h} x {w} px; "
                "bring it to the image's size first"
            )


def counter(total: int, progress: Callable[[int, int], object] | None) -> Callable[[int], None]:
    """A function to call with the number of runs that are done; it reports their sum."""
    done = 0

    def tick(runs: int) -> None:
        nonlocal done
        done += runs
        if progress is not None:
            progress(done, total)

    return tick


def _several(given: Any, single: int) -> list[Any]:
    """A list of what has `single` axes, from one of them or several."""
    array = np.asarray(given)
    if array.ndim == single and array.size:
        return [array]
    if array.ndim == single + 1 and len(array):
        return list(array)
    raise ValueError(f"expected an array with {single} axes, or a list of them alike; got one of shape {array.shape}")
