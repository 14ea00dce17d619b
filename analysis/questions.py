"""Questions for many networks and many images: what an answer depends on, the answer, and the file that keeps it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from analysis.activations import ScanCache, query_pixel
from analysis.attribution import Attribution, load_attributions, save_attributions
from analysis.attributions import Settings, local_attribution, region_of, settings_asked
from analysis.erf import check_question, effective_receptive_field
from analysis.field import ERF
from analysis.kept_rows import load_rows, save_rows
from analysis.queries import query_positions
from analysis.regions import Box, around
from analysis.row_map import ScanRow

Network = Callable[..., Any]
Progress = Callable[[int, int], object] | None


@runtime_checkable
class Question(Protocol):
    """`facts` is all that the answer depends on besides the network and the pixels, in JSON values; it refuses, with a
    `ValueError`, what cannot be asked of an image of that size. `image` is `c h w`."""

    def facts(self, image: Tensor) -> dict[str, Any]: ...

    def answer(self, net: Network, image: Tensor, progress: Progress = None) -> Any: ...

    def save(self, path: Path, answer: Any) -> Path: ...

    def load(self, path: Path) -> Any: ...


@dataclass(frozen=True)
class FieldQuestion:
    """The effective receptive field over one image; the arguments are those of `effective_receptive_field`."""

    queries: Any = "centre"
    estimator: str = "rss"
    residual: str = "exclude"
    select: int | str | None = None
    n_queries: int = 16
    seed: int = 0

    def facts(self, image: Tensor) -> dict[str, Any]:
        check_question(self.estimator, self.residual)
        places = query_positions(self.queries, *image.shape[-2:], n_queries=self.n_queries, seed=self.seed)
        return {
            "question": "field",
            "queries": [list(place) for place in places],
            "estimator": self.estimator,
            "residual": self.residual,
            "select": self.select,
        }

    def answer(self, net: Network, image: Tensor, progress: Progress = None) -> ERF:
        return effective_receptive_field(
            net,
            image[None],
            queries=self.queries,
            estimator=self.estimator,
            residual=self.residual,
            select=self.select,
            n_queries=self.n_queries,
            seed=self.seed,
            progress=progress,
        )

    def save(self, path: Path, answer: ERF) -> Path:
        return answer.save(path)

    def load(self, path: Path) -> ERF:
        return ERF.load(path)


@dataclass(frozen=True)
class RowsQuestion:
    """The activation maps of a network's scans at one pixel, of `kind` "row" or "column"; the arguments are those of
    `activation_maps`."""

    query: Any = "centre"
    stages: tuple[str, ...] | None = None
    level: str = "A3"
    reduction: str = "abs"
    kind: str = "row"

    def facts(self, image: Tensor) -> dict[str, Any]:
        return {
            "question": "rows",
            "query": list(query_pixel(self.query, *image.shape[-2:])),
            "stages": None if self.stages is None else list(self.stages),
            "level": self.level,
            "reduction": self.reduction,
            "kind": self.kind,
        }

    def answer(self, net: Network, image: Tensor, progress: Progress = None) -> dict[str, ScanRow]:
        options: Any = {
            "level": self.level,
            "kind": self.kind,
            "reduction": self.reduction,
            "keep_channels": False,
        }
        return ScanCache(net, image, self.stages).rows(self.query, progress=progress, **options)

    def save(self, path: Path, answer: dict[str, ScanRow]) -> Path:
        return save_rows(path, answer)

    def load(self, path: Path) -> dict[str, ScanRow]:
        return load_rows(path)


@dataclass(frozen=True, eq=False)
class AttributionQuestion:
    """One attribution of a region, of which the network sees `margin` pixels around (`None`: all of the image); the
    arguments are those of `local_attribution`."""

    method: str
    box: Sequence[int] | str = "centre"
    margin: int | None = None
    settings: Settings = field(default_factory=Settings)
    baseline: str | Tensor | None = None
    reduce: str = "grad"
    residual: str = "include"
    select: int | str | None = None

    def seen(self, image: Tensor) -> tuple[Tensor, Box, tuple[int, int]]:
        """What the network is shown of an image `c h w`, as `1 c h w`; the region in it; its corner in the image."""
        h, w = image.shape[-2:]
        return around(image[None], region_of(self.box, h, w), max(h, w) if self.margin is None else self.margin)

    def facts(self, image: Tensor) -> dict[str, Any]:
        seen, within, _ = self.seen(image)
        how: Any = {"reduce": self.reduce, "residual": self.residual, "select": self.select}
        asked = settings_asked(seen, within, self.method, self.settings, self._baseline(image), **how)
        return {"question": "attribution", **asked}

    def answer(self, net: Network, image: Tensor, progress: Progress = None) -> Attribution:
        seen, within, _ = self.seen(image)
        return local_attribution(
            net,
            seen,
            within,
            method=self.method,
            steps=self.settings.steps,
            sigma=self.settings.sigma,
            window=self.settings.window,
            baseline=self._baseline(image),
            reduce=self.reduce,
            residual=self.residual,
            select=self.select,
            progress=progress,
        )

    def _baseline(self, image: Tensor) -> str | Tensor | None:
        """An image to compare with, cut as the image itself is; "lam" has none but its own."""
        if self.method == "lam":
            return None
        if not isinstance(self.baseline, Tensor):
            return self.baseline
        if self.baseline.shape != image.shape:
            raise ValueError(f"the baseline is {tuple(self.baseline.shape)}, the image {tuple(image.shape)}")
        return self.seen(self.baseline)[0]

    def save(self, path: Path, answer: Attribution) -> Path:
        return save_attributions(path, {self.method: answer})

    def load(self, path: Path) -> Attribution:
        return load_attributions(path)[self.method]
