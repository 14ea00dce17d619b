"""Whether a map depends on what a network has learnt: how like it is to the map with all weights redrawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from analysis.cascade import cascade
from analysis.similarity import MEASURES, decades
from evssm.bootstrap import percentile_interval

DEPENDS = 0.5
"""A measure of likeness that falls to this, or below, with all weights redrawn shows that they matter."""

IGNORES = 0.9
"""Where all measures stay at this, or above, the map is one of the architecture, not of what was learnt."""

Maps = Callable[[nn.Module], Float[np.ndarray, "h w"] | Float[np.ndarray, "n h w"]]
"""Makes the map, or one for each of several images, of a network."""


Place = tuple[tuple[int, int], np.ndarray | None]
"""A map's query and its support."""


@dataclass(frozen=True, eq=False, repr=False)
class Randomisation:
    """Likeness of maps before and after redrawing weights, by name of the measure (`MEASURES`); `str` is the verdict.

    `steps` are for each share of modules redrawn, the last first, the mean over maps; `final` are the likenesses with
    all redrawn, for each draw and map.
    """

    shares: Float[np.ndarray, " depth"]
    steps: dict[str, Float[np.ndarray, " depth"]]
    final: dict[str, Float[np.ndarray, " n"]]

    def interval(self, measure: str, level: float = 0.95, *, n: int = 1000) -> tuple[float, float]:
        """(low, high) of the mean likeness with all weights redrawn, by the bootstrap over draws and maps."""
        values = self.final[measure]
        return percentile_interval(lambda chosen: float(values[chosen].mean()), len(values), level=level, n=n)

    @property
    def lowest(self) -> str:
        """The measure by which the maps differ most once all weights are redrawn."""
        return min(self.final, key=lambda measure: self.final[measure].mean())

    @property
    def word(self) -> str:
        """Whether the map depends on the weights: one measure has to fall for that, and none for the opposite."""
        if self.interval(self.lowest)[1] <= DEPENDS:
            return "depends on the weights"
        if all(self.interval(measure)[0] >= IGNORES for measure in self.final):
            return "ignores the weights"
        return "depends on the weights in part"

    def __str__(self) -> str:
        low, high = self.interval(self.lowest)
        others = [f"{name} {values.mean():.2f}" for name, values in self.final.items() if name != self.lowest]
        return (
            f"{self.word}: with all of them redrawn {self.lowest} {self.final[self.lowest].mean():.2f} "
            f"[{low:.2f}, {high:.2f}], {', '.join(others)} (1 = same map; {len(self.final[self.lowest])} comparisons)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON values."""
        return {
            "says": str(self),
            "word": self.word,
            "share_of_modules_redrawn": self.shares.tolist(),
            "likeness": {name: values.tolist() for name, values in self.steps.items()},
            "likeness_all_redrawn": {name: values.tolist() for name, values in self.final.items()},
            "interval_all_redrawn": {name: self.interval(name) for name in self.final},
        }


def weight_randomisation(
    net: nn.Module,
    image: Tensor,
    query: tuple[int, int],
    maps: Maps,
    *,
    support: np.ndarray | None = None,
    depth: int = 4,
    draws: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Randomisation:
    """How alike `maps(net)` and the maps of copies of `net` with redrawn weights are, inside `support`.

    `maps` makes an `h w` map, or `n h w` for several images, of whatever network it is given; `query` is its place in
    them, and `image` (`c h w`) what the network can run on. The first of `draws` goes from the output to the input in
    `depth` steps; the others redraw everything at once (`analysis.cascade`). `net` is not touched. Pixels outside
    `support` (where the architecture allows only zeros; by default those that are zero in all of the network's maps)
    do not count, for there every network agrees. `progress` is called with (done, total) computations of the maps.

    Raises `ValueError` for a function, which has no weights to redraw, and for maps that differ from run to run.
    """
    given = None if support is None else np.asarray(support, dtype=bool)
    found = weight_randomisations(
        net,
        image,
        lambda network: {"": maps(network)},
        {"": (query, given)},
        depth=depth,
        draws=draws,
        seed=seed,
        progress=progress,
    )
    return found[""]


def weight_randomisations(
    net: nn.Module,
    image: Tensor,
    maps: Callable[[nn.Module], Mapping[str, np.ndarray]],
    places: Mapping[str, Place],
    *,
    depth: int = 4,
    draws: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Randomisation]:
    """`weight_randomisation` of several maps that are made together, by name, each with its query and support."""
    if not isinstance(net, nn.Module) or next(net.parameters(), None) is None:
        raise ValueError("only an nn.Module with parameters has weights to redraw; pass the module itself")
    if draws < 2:
        raise ValueError(f"an interval needs two draws or more, got {draws}")
    holding = sum(next(module.parameters(recurse=False), None) is not None for module in net.modules())
    total, done = 1 + min(depth, holding) + draws, 0

    def made(network: nn.Module) -> dict[str, np.ndarray]:
        nonlocal done
        found = {name: np.asarray(array, dtype=np.float64) for name, array in maps(network).items()}
        done += 1
        if progress is not None:
            progress(done, total)
        return {name: array[None] if array.ndim == 2 else array for name, array in found.items()}

    def run(network: nn.Module) -> Any:
        return network(image.reshape(1, *image.shape[-3:]).detach().clone())

    own, again = made(net), made(net)
    for name, arrays in own.items():
        if not all(np.allclose(decades(a), decades(b), atol=0.01) for a, b in zip(arrays, again[name], strict=True)):
            raise ValueError(
                "two maps of the same network differ, so a difference would say nothing; make them repeatable"
            )
    shares, steps, final = [], [], []
    for draw in range(draws):
        for share, copy in cascade(net, run, depth if draw == 0 else 1, seed + draw):
            found = {name: _alike(own[name], array, *places[name]) for name, array in made(copy).items()}
            if draw == 0:
                shares.append(share)
                steps.append(found)
        final.append(found)
    return {
        name: Randomisation(
            np.array(shares),
            {measure: np.array([step[name][measure].mean() for step in steps]) for measure in steps[0][name]},
            {measure: np.concatenate([each[name][measure] for each in final]) for measure in final[0][name]},
        )
        for name in own
    }


def _alike(
    own: Float[np.ndarray, "n h w"], others: Float[np.ndarray, "n h w"], query: tuple[int, int], support: Any
) -> dict[str, Float[np.ndarray, " n"]]:
    """Each measure of likeness, map by map, where it can be taken."""
    within = np.abs(own).max(axis=0) > 0 if support is None else support
    pairs = list(zip(own, others, strict=True))
    measured = {name: np.array([measure(a, b, within, query) for a, b in pairs]) for name, measure in MEASURES.items()}
    return {name: values for name, values in measured.items() if not np.isnan(values).any()}
