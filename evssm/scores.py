"""Scores of one network on one data set, a row per image, and tables of several that are comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from evssm.bootstrap import percentile_interval
from evssm.cautions import cautions
from evssm.inference import Inference
from evssm.ledger import read_ledger, write_ledger
from evssm.metrics import Protocol
from evssm.sidecar import write_sidecar


@dataclass(frozen=True)
class Row:
    """One image: scores of the restored and of the blurred image against the sharp one, and what went wrong.

    `psnr` and `ssim` are NaN where the images could not be aligned, which `note` then says, or where the output has
    NaN. `covered` is the share of pixels that are scored; `not_finite` and `overshoot` are those of `Health`;
    `seconds` is processor time; `cost` the pixels that the network saw over those of the image, in tiles and
    self-ensembles more than one; `pair` a digest of both images.
    """

    name: str
    psnr: float
    ssim: float
    blurred_psnr: float
    blurred_ssim: float
    gain: float
    covered: float
    not_finite: int
    overshoot: float
    seconds: float
    cost: float
    note: str
    pair: str

    @classmethod
    def read(cls, cells: Mapping[str, str]) -> Row:
        """From text."""
        kinds: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
        return cls(**{field.name: kinds[str(field.type)](cells[field.name]) for field in fields(cls)})


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Scores:
    """The rows, and in `header` everything that they depend on: network, weights, data, protocol, inference."""

    header: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """The network and how it was used, for a table."""
        inference = self.header["inference"]
        local = self.header["overrides"].get("local", False)
        used = [f"local {'' if local is True else local}".strip()] if local else []
        used += [f"tiles {inference['tile']}/{inference['overlap']}"] if inference["tile"] else []
        used += [inference["ensemble"]] if inference["ensemble"] != "none" else []
        return self.header["network"] + (f" ({', '.join(used)})" if used else "")

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before comparing."""
        found = cautions(self.header, self.header["data"], Protocol(**self.header["protocol"]))
        failed = [row.name for row in self.rows if isnan(row.psnr)]
        if failed:
            found.append(f"{len(failed)} of {len(self.rows)} images without a score, {failed[0]} for one")
        broken = sum(row.not_finite > 0 for row in self.rows)
        return found + ([f"{broken} outputs with values that are not finite"] if broken else [])

    def mean(self, column: str = "psnr") -> float:
        """Over the images that have a score; NaN where none has."""
        values = self._scored(column)
        return float(np.mean(values)) if len(values) else nan

    def interval(self, column: str = "psnr", *, level: float = 0.95) -> tuple[float, float]:
        """Where the mean lies in a share `level` of draws of as many images (percentile bootstrap); NaN for fewer than
        two images and where a value is infinite."""
        values = self._scored(column)
        if len(values) < 2 or not np.isfinite(values).all():
            return nan, nan
        return percentile_interval(lambda chosen: values[chosen].mean(), len(values), level=level)

    def _scored(self, column: str) -> np.ndarray:
        values = np.array([getattr(row, column) for row in self.rows], float)
        return values[~np.isnan(values)]

    def summary(self) -> dict[str, Any]:
        """Means with intervals, counts and cautions, in JSON values."""
        means = {c: self.mean(c) for c in ("psnr", "ssim", "blurred_psnr", "blurred_ssim", "gain", "seconds", "cost")}
        return {
            "network": self.label,
            "images": len(self.rows),
            "not_aligned": sum(row.note.startswith("not aligned") for row in self.rows),
            "scored": len(self._scored("psnr")),
            "mean": {c: value if isfinite(value) else None for c, value in means.items()},
            "interval_95": {c: _or_none(self.interval(c)) for c in ("psnr", "ssim", "gain")},
            "cautions": self.cautions,
        }

    def save(self, path: str | Path, **facts: Any) -> Path:
        """The path, once it holds the table, and a `.json` beside it the header, the summary and `facts`.

        Raises `ValueError` for a path that is the sidecar's.
        """
        path = Path(path)
        if path.suffix == ".json":
            raise ValueError(f"cannot write the table to {path}, where its sidecar goes; end the name in .csv")
        write_sidecar(path.with_suffix(".json"), {**self.header, **self.summary(), **facts})
        return write_ledger(path, self.header, COLUMNS, map(asdict, self.rows), lines=self.lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """What the table says above its columns, for people."""
        described = (Protocol(**self.header["protocol"]), Inference(**self.header["inference"]))
        return f"{self.label} on {self.header['data']}", *(one.describe() for one in described)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """From the table that `evaluate` left at `path`; `ValueError` for any other file."""
        header, rows = read_ledger(path)
        try:
            read = {row["name"]: Row.read(row) for row in rows}  # of an image that changed, the latest
            return cls(header, tuple(read.values()))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no table of scores ({error}); name another") from None


def comparison(several: Sequence[Scores]) -> list[dict[str, Any]]:
    """The summaries of several networks side by side, each with its protocol in words.

    Raises `ValueError` where protocols, data or images differ: such numbers are not comparable.
    """
    if not several:
        raise ValueError("there is nothing to compare; give the scores of one network or more")
    first = several[0]
    for other in several[1:]:
        ours, theirs = ({**s.header["protocol"], "data": s.header["data"]} for s in (first, other))
        differing = [f"{key} {ours[key]!r} and {theirs.get(key)!r}" for key in ours if ours[key] != theirs.get(key)]
        if not differing and {(r.name, r.pair) for r in first.rows} != {(r.name, r.pair) for r in other.rows}:
            differing = ["not the same images"]
        if differing:
            raise ValueError(
                f"scores of {first.label} and {other.label} are not comparable: {'; '.join(differing)}; "
                "evaluate both in one way"
            )
    described = Protocol(**first.header["protocol"]).describe()
    return [{**scores.summary(), "protocol": described} for scores in several]


def _or_none(interval: tuple[float, float]) -> list[float] | None:
    return None if isnan(interval[0]) else list(interval)
