"""The verdict on a drawn map: does its order matter, does it depend on the weights, were there enough images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from analysis.activations import ScanCache
from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.image_count import Convergence, convergence
from analysis.order_check import Faithfulness, faithfulness
from analysis.queries import Position, centred_on, query_positions
from analysis.randomisation import Randomisation, weight_randomisation, weight_randomisations
from analysis.row_faithfulness import row_faithfulness
from analysis.row_map import ScanRow
from analysis.sensitivity import EXCLUDE, INCLUDE, Network, Select

Tracks = Callable[[str], Callable[[int, int], object]]
"""Makes, for a task's name, what is called with (done, total)."""

QUERIES = 4
"""Queries that are asked of each image, or module, where more would only take longer."""

REDRAWN = 2
"""Images whose maps are computed again under redrawn weights."""


@dataclass(frozen=True, eq=False, repr=False)
class MapVerdict:
    """What each check says of a map; a string where a check cannot be made, saying why. `str` is one line."""

    order: Faithfulness | str
    weights: Randomisation | str
    images: Convergence | str

    def __str__(self) -> str:
        return "; ".join(str(part) for part in (self.order, self.weights, self.images) if str(part))

    @property
    def words(self) -> str:
        """The verdicts without their numbers."""
        parts = []
        if isinstance(self.order, Faithfulness):
            parts.append(f"order of importance {self.order.word}")
        if isinstance(self.weights, Randomisation):
            parts.append(self.weights.word)
        if isinstance(self.images, Convergence):
            parts.append(str(self.images))
        return "; ".join(parts) or "not judged"

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON values."""
        parts = {"order": self.order, "weights": self.weights, "images": self.images}
        return {
            "says": str(self),
            **{name: part if isinstance(part, str) else part.as_dict() for name, part in parts.items()},
        }


def silent(_name: str) -> Callable[[int, int], object]:
    """Progress that nobody watches."""
    return lambda done, total: None


def check_field(
    net: Network,
    images: Sequence[Tensor],
    field: ERF,
    *,
    select: Select | None = None,
    seed: int = 0,
    track: Tracks = silent,
) -> MapVerdict:
    """The verdict on the field that `net` has over `images`, asked as `field.provenance` says.

    The pooled map is laid on up to four of the queries of each image (`faithfulness`); maps of up to two images are
    made again with redrawn weights (`weight_randomisation`); and the images are drawn again (`convergence` of R_90).
    `track` makes a progress callback per task.
    """
    made = field.provenance
    residual = made["residual"] if made["residual"] in (EXCLUDE, INCLUDE) else EXCLUDE
    h, w = field.map.shape
    places = [(row, column) for row, column in made["queries"]][:QUERIES]

    def order() -> Faithfulness:
        return faithfulness(
            net,
            [image for image in images for _ in places],
            places * len(images),
            [_laid_on(field.map, place) for place in places] * len(images),
            residual=residual,
            select=select,
            seed=seed,
            progress=track("order"),
        )

    def maps(network: nn.Module) -> np.ndarray:
        return effective_receptive_field(
            network,
            images[:REDRAWN],
            queries=places,
            estimator=made["estimator"],
            residual=residual,
            select=select,
        ).per_image

    def weights() -> Randomisation:
        if not isinstance(net, nn.Module):
            raise ValueError("a plain function has no weights to redraw")
        return weight_randomisation(net, images[0], (h // 2, w // 2), maps, seed=seed, progress=track("weights"))

    def enough() -> Convergence:
        return convergence(field, n=200, seed=seed)

    return MapVerdict(*(tried(what, check) for what, check in (("order", order), ("weights", weights), ("", enough))))


def check_rows(
    net: Network,
    image: Tensor,
    rows: Mapping[str, ScanRow],
    *,
    seed: int = 0,
    track: Tracks = silent,
    **held: Any,
) -> dict[str, MapVerdict]:
    """The verdicts on activation maps of one image, by name.

    The order of each is judged at its own query and four more (`row_faithfulness`), its weights by the maps of copies
    with redrawn ones. One image says nothing of others. `held` are arguments of `ScanCache`.
    """
    stages = list(dict.fromkeys(row.stage for row in rows.values()))
    first = next(iter(rows.values()))
    h, w = first.size
    around = query_positions("grid", h, w, n_queries=QUERIES, seed=seed)
    queries = list(dict.fromkeys([first.query, *around]))
    options: dict[str, Any] = {"level": first.level, "reduction": first.reduction, "kind": first.kind}
    cache = ScanCache(net, image, stages, **held)

    def maps(network: nn.Module) -> dict[str, np.ndarray]:
        redrawn = ScanCache(network, image, stages, **held)
        return {name: redrawn.row(first.query, name, keep_channels=False, **options).map for name in rows}

    def redraw() -> dict[str, Randomisation]:
        if not isinstance(net, nn.Module):
            raise ValueError("a plain function has no weights to redraw")
        places = {name: (row.cell, np.asarray(row.support)) for name, row in rows.items()}
        return weight_randomisations(net, image, maps, places, seed=seed, progress=track("weights"))

    redrawn = tried("weights", redraw)
    advance, verdicts = track("order"), {}
    for done, (name, row) in enumerate(rows.items(), start=1):
        if row.kind == "row":
            order = tried("order", partial(row_faithfulness, cache, name, queries, seed=seed, **options))
        else:
            order = "order not judged: a column says where a value goes, not what matters to the query"
        weights = redrawn if isinstance(redrawn, str) else redrawn[name]
        verdicts[name] = MapVerdict(order, weights, "one image")
        advance(done, len(rows))
    return verdicts


def _laid_on(field: np.ndarray, query: Position) -> np.ndarray:
    """The map with its middle moved to the query: the inverse of `centred_on`."""
    h, w = field.shape
    return centred_on(field, (2 * (h // 2) - query[0], 2 * (w // 2) - query[1]))


def tried(what: str, check: Callable[[], Any]) -> Any:
    """What the check finds, or in words why it cannot be made."""
    try:
        return check()
    except ValueError as error:
        return f"{what} not judged: {error}".lstrip()


def tally(verdicts: Mapping[str, MapVerdict]) -> str:
    """Of how many of several maps each word was said: first of their order of importance, then of their weights."""
    said = []
    for what, part in (("order of importance ", "order"), ("", "weights")):
        found = [getattr(verdict, part) for verdict in verdicts.values()]
        words = Counter("not judged" if isinstance(each, str) else each.word for each in found)
        said.append(what + ", ".join(f"{word}: {count} of {len(found)}" for word, count in words.items()))
    return "; ".join(said)
