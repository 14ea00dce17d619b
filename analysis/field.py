"""The value that a receptive-field computation returns: maps, their statistics, and where they come from."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis import field_statistics
from analysis.archive import protect, read_archive, write_archive
from analysis.field_statistics import Asymmetry, HalfPlanes, Number, RadialProfile, Spread
from evssm.bootstrap import percentile_interval

ARRAYS = ("per_image", "mass", "coverage")
SCALARS = ("radius", "share_beyond", "area_ratio", "effective_pixels", "perplexity", "luo_size", "floor")
"""The statistics that `ERF.interval` knows by name: the methods of ERF that give one number."""


@dataclass(frozen=True, eq=False, repr=False)
class ERF:
    """The effective receptive field of a network over some images; read-only, the query at `(h//2, w//2)`.

    `per_image` holds one map per image, each divided by the sum of its own absolute values; `mass` are
    those sums, in units of output per input. `coverage` is the share of queries whose map, moved to the
    centre, reached a pixel; where it is 0 the maps are 0. `provenance` says how all this was made.
    Statistics of a signed field are those of its absolute values; each is a function of
    `analysis.field_statistics`, where its definition stands.
    """

    per_image: Float[np.ndarray, "n h w"]
    mass: Float[np.ndarray, " n"]
    coverage: Float[np.ndarray, "h w"]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        n, h, w = self.per_image.shape
        if n == 0 or self.mass.shape != (n,) or self.coverage.shape != (h, w):
            raise ValueError(
                f"maps {self.per_image.shape}, masses {self.mass.shape} and coverage {self.coverage.shape} "
                "do not belong together; a field has (n, h, w), (n,) and (h, w)"
            )
        protect(self, *ARRAYS)

    def __repr__(self) -> str:
        n, h, w = self.per_image.shape
        made = {key: self.provenance.get(key) for key in ("network", "estimator", "residual", "trained")}
        return f"ERF({n} x {h} x {w} px, {', '.join(f'{key}={value!r}' for key, value in made.items())})"

    @cached_property
    def map(self) -> Float[np.ndarray, "h w"]:
        """The mean of the normalised maps; its absolute values sum to 1."""
        mean = self._mean(np.ones(len(self.mass)))
        return mean / np.abs(mean).sum()

    @cached_property
    def raw(self) -> Float[np.ndarray, "h w"]:
        """The mean of the maps before normalisation, in units of output per input: strong images count
        more."""
        return self._mean(self.mass)

    def _mean(self, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "h w"]:
        n, h, w = self.per_image.shape
        return (weights @ self.per_image.reshape(n, h * w) / n).reshape(h, w)

    @property
    def untrained(self) -> bool:
        """Whether the network is known to have untrained weights; a picture must say so."""
        return self.provenance.get("trained") is False

    def profile(self, norm: str = "euclidean") -> RadialProfile:
        """Share of the mass within each distance of the query; `norm` is "euclidean" or "chebyshev"."""
        return field_statistics.radial_profile(self.map, norm)

    def radius(self, share: Number, norm: str = "euclidean") -> float:
        """Smallest distance from the query, in px, within which at least `share` of the mass lies."""
        return field_statistics.radius(self.map, share, norm)

    def share_beyond(self, distance: Number, norm: str = "euclidean") -> float:
        """Share of the mass farther than `distance` px from the query."""
        return field_statistics.share_beyond(self.map, distance, norm)

    def area_ratio(self, t: Number, compress: bool = True) -> float:
        """RepLKNet's r(t): relative area of the centred square that holds more than `t` of log10(1 + raw
        field).

        It depends on the unit of the gradient, so it compares only between fields of one scale;
        `compress=False` applies the same rule to the raw field itself. 1.0 where no square of the
        definition suffices.
        """
        return field_statistics.area_ratio(self.raw, t, compress=compress)

    def asymmetry(self, beyond: int = 0) -> Asymmetry:
        """(up - down)/(up + down), (left - right)/(left + right), and the share off the query that precedes
        it.

        `beyond` leaves out the pixels up to so many px away in row and column.
        """
        return field_statistics.asymmetry(self.map, beyond)

    def half_planes(self, beyond: int = 0) -> HalfPlanes:
        """Shares of the mass above, below, left and right of the query."""
        return field_statistics.half_planes(self.map, beyond)

    def effective_pixels(self) -> float:
        """1 / sum of the squared mass."""
        return field_statistics.effective_pixels(self.map)

    def perplexity(self) -> float:
        """exp(entropy of the mass), in pixels."""
        return field_statistics.perplexity(self.map)

    def luo_size(self) -> float:
        """sqrt(number of pixels above 4.55 % of the query's own value), in px."""
        return field_statistics.luo_size(self.map)

    def spread(self) -> Spread:
        """Standard deviations along rows and columns, direction and elongation."""
        return field_statistics.spread(self.map)

    def floor(self) -> float:
        """Median outside the 99 % radius over the maximum."""
        return field_statistics.floor(self.map)

    def subset(self, images: Iterable[int] | Int[np.ndarray, " k"]) -> "ERF":
        """The field over some of the images, by index; an image may occur more than once."""
        chosen = np.fromiter(images, dtype=np.intp)
        return replace(self, per_image=self.per_image[chosen], mass=self.mass[chosen])

    @classmethod
    def pooled(cls, fields: "Sequence[ERF]") -> "ERF":
        """One field for several networks of a kind, such as the seeds of a recipe: each image's map and mass are the
        means over the networks.

        The provenance is the first field's, with the digests of all weights as "pooled". Raises `ValueError` for
        fields that did not ask the same of the same images.
        """
        first = fields[0]
        same = ("images", "queries", "estimator", "residual", "size", "trained")
        for other in fields[1:]:
            if differing := [key for key in same if other.provenance.get(key) != first.provenance.get(key)]:
                raise ValueError(f"cannot pool fields that differ in {', '.join(differing)}; compute all alike")
        pooled = [field.provenance.get("weights") for field in fields]
        return cls(
            np.mean([field.per_image for field in fields], axis=0),
            np.mean([field.mass for field in fields], axis=0),
            first.coverage,
            {**first.provenance, "pooled": pooled},
        )

    @classmethod
    def joined(cls, fields: "Sequence[ERF]") -> "ERF":
        """One field over the images of several, in that order: what one computation over all of them gives.

        Raises `ValueError` for fields that did not ask the same of the same weights.
        """
        first, made = fields[0], [field.provenance for field in fields]
        summed = ("images", "share_outside_frame", "seconds")
        for other in made[1:]:
            if differing := [key for key in first.provenance if key not in summed and other.get(key) != made[0][key]]:
                raise ValueError(f"cannot join fields that differ in {', '.join(differing)}; compute all alike")
        return cls(
            np.concatenate([field.per_image for field in fields]),
            np.concatenate([field.mass for field in fields]),
            first.coverage,
            {
                **first.provenance,
                "images": [image for one in made for image in one["images"]],
                "share_outside_frame": float(np.mean([one["share_outside_frame"] for one in made])),
                "seconds": round(sum(one["seconds"] for one in made), 3),
            },
        )

    def interval(
        self,
        statistic: "str | Callable[[ERF], Any]",
        level: Number = 0.95,
        *,
        n: int = 1000,
        seed: int = 0,
        **arguments: Any,
    ) -> tuple[float, float]:
        """(low, high) of a statistic by the percentile bootstrap over images, queries staying with their
        image.

        `statistic` is the name of a method with its `arguments`, as in `interval("radius", share=0.5)`, or
        a function of an ERF, as in `interval(lambda erf: erf.asymmetry().vertical)`. `ValueError` for a
        single image.
        """
        measure = statistic_of(statistic, arguments)

        def of_resample(chosen: tuple[int, ...]) -> Any:
            return measure(self.subset(chosen))

        return percentile_interval(in_any_order(of_resample), len(self.mass), level=level, n=n, seed=seed)

    def difference_interval(
        self,
        other: "ERF",
        statistic: "str | Callable[[ERF], Any]",
        level: Number = 0.95,
        *,
        n: int = 1000,
        seed: int = 0,
        **arguments: Any,
    ) -> tuple[float, float]:
        """(low, high) of this field's statistic minus `other`'s, both over the same images each time:
        paired."""
        if self.provenance.get("images") != other.provenance.get("images") or len(self.mass) != len(other.mass):
            raise ValueError(
                "a paired difference needs fields of the same images in the same order; compute both from one list"
            )
        measure = statistic_of(statistic, arguments)

        def of_resample(chosen: tuple[int, ...]) -> Any:
            return measure(self.subset(chosen)) - measure(other.subset(chosen))

        return percentile_interval(in_any_order(of_resample), len(self.mass), level=level, n=n, seed=seed)

    def save(self, path: str | Path) -> Path:
        """Write everything to `path`, an npz without pickles; the file is there whole or not at all."""
        return write_archive(path, "provenance", self.provenance, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> "ERF":
        """The field that `save` wrote.

        `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content.
        """
        with read_archive(path, "receptive field", "ERF.save") as entries:
            arrays = {name: entries[name] for name in ARRAYS}
            if not all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("its arrays are not finite numbers in float64")
            return cls(**arrays, provenance=dict(json.loads(str(entries["provenance"]))))


def in_any_order(measure: Callable[[tuple[int, ...]], Any]) -> Callable[[Iterable[int]], Any]:
    """`measure` of indices whose order does not matter, computed once for each choice: few images are drawn alike
    often."""
    known = cache(measure)
    return lambda chosen: known(tuple(sorted(map(int, chosen))))


def statistic_of(statistic: str | Callable[[ERF], Any], arguments: dict[str, Any]) -> Callable[[ERF], Any]:
    """The function that `ERF.interval` means by `statistic` and its `arguments`; `ValueError` for an unknown name."""
    if not isinstance(statistic, str):
        if arguments:
            raise ValueError(f"{', '.join(sorted(arguments))}: bind arguments inside the function that you pass")
        return statistic
    if statistic not in SCALARS:
        raise ValueError(
            f'no statistic "{statistic}" that is one number; choose from {", ".join(SCALARS)}, '
            "or pass a function of an ERF, as in `lambda erf: erf.asymmetry().vertical`"
        )
    return lambda erf: getattr(erf, statistic)(**arguments)
