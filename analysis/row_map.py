"""The value that a question about a scan returns: a map in image coordinates, its channels, and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.archive import protect

REDUCTIONS: dict[str, str] = {
    "abs": "mean over channels of the absolute value",
    "rms": "root of the mean square over channels",
    "signed": "mean over channels, signs kept",
    "output": "mean over channels of the absolute value, weighted by gate and norm in the output projection",
}
NORMALISATIONS: dict[str, Callable[[np.ndarray], float]] = {
    "none": lambda field: 1.0,
    "max": lambda field: float(np.abs(field).max()),
    "sum": lambda field: float(np.abs(field).sum()),
}


@dataclass(frozen=True, eq=False, repr=False)
class ScanRow:
    """What one query pixel gathers in one module (a row), or where it goes (a column); read-only, as the image lies.

    All maps are at the module's scale, a pixel of theirs being `stride` image pixels wide, and cover the image with the
    padding that the network gave it; `inside` cuts the padding off. `query` is (row, column) in the image, `cell` the
    pixel of the maps that holds it. `per_channel` keeps every sign (levels A0-A3 have a row per decay, shared by
    equally many channels, A4 and A5 one per channel of the scan, A6 and A7 one per channel of the block's map), or is
    `None` where it was not wanted; `map` is its `reduction`, divided by its `normalisation`. `support` is where the
    architecture allows anything but zero. `rebuilt` and `output` are compared by `check`.
    """

    map: Float[np.ndarray, "h w"]
    per_channel: Float[np.ndarray, "_ h w"] | None
    support: Bool[np.ndarray, "h w"]
    stage: str
    kind: str
    level: str
    reduction: str
    normalisation: str
    query: tuple[int, int]
    cell: tuple[int, int]
    stride: int
    size: tuple[int, int]
    rebuilt: Float[np.ndarray, " _"]
    output: Float[np.ndarray, " _"]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        protect(self, "map", "per_channel", "support", "rebuilt", "output")

    def __repr__(self) -> str:
        h, w = self.map.shape
        return f"ScanRow({self.stage}, {self.level} {self.kind} of {self.query}, {h} x {w} px, stride {self.stride})"

    def check(self) -> float:
        """Relative error of what the row says of the module against what the module does.

        Levels A0-A4 have one check: of row u + D u against y, the output of the scan, relative to y - D u, in which a
        large D cannot hide errors; A0-A2 leave factors out that it puts in. A5: of row a + biases against the gated
        output. A6: of row x + biases against the branch's output along its own direction. A7: of the change along a
        random direction against central differences in float64. A column is applied to the query's value alone, at A7
        to its change alone, and all pixels' answers are compared.
        """
        scale = np.linalg.norm(self.output)
        gap = np.linalg.norm(self.rebuilt - self.output)
        return float(gap / scale) if scale else float(gap)

    @property
    def untrained(self) -> bool:
        """Whether the network is known to have untrained weights; a picture must say so."""
        return self.provenance.get("trained") is False

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the maps that holds the image: `row.map[row.inside]`."""
        h, w = (-(-side // self.stride) for side in self.size)
        return slice(0, h), slice(0, w)

    def share_inside(self) -> float:
        """The share of the map's absolute mass on the image itself, not on its padding; 1.0 for a map of zeros."""
        whole = float(np.abs(self.map).sum())
        return float(np.abs(self.map[self.inside]).sum()) / whole if whole else 1.0


def reduced(
    lines: Float[np.ndarray, "k h w"], reduction: str, emphasis: Float[np.ndarray, " d"] | None = None
) -> Float[np.ndarray, "h w"]:
    """One map of all channels, by one of `REDUCTIONS`; `emphasis` are the weights of "output".

    Raises `ValueError` for another name, and for "output" where no weights are known.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f'no reduction "{reduction}" of channels; choose from {", ".join(REDUCTIONS)}')
    if reduction == "signed":
        return lines.mean(axis=0)
    if reduction == "rms":
        return np.sqrt(np.square(lines).mean(axis=0))
    if reduction == "abs":
        return np.abs(lines).mean(axis=0)
    if emphasis is None:
        raise ValueError('reduction "output" is for rows at levels A0-A5, whose channels are those of the scan')
    weights = emphasis.reshape(len(lines), -1).mean(axis=1)
    return np.einsum("k, k h w -> h w", weights, np.abs(lines)) / len(lines)


def normalised(field: Float[np.ndarray, "h w"], normalisation: str) -> Float[np.ndarray, "h w"]:
    """The map divided by one of `NORMALISATIONS`; a map of zeros stays one. `ValueError` for another name."""
    if normalisation not in NORMALISATIONS:
        raise ValueError(f'no normalisation "{normalisation}"; choose from {", ".join(NORMALISATIONS)}')
    divisor = NORMALISATIONS[normalisation](field)
    return field / divisor if divisor else field
