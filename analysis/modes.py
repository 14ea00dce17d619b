"""What windows at test time take from a network's field: the same weights on the whole map and in windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.sensitivity import Network


@dataclass(frozen=True, eq=False)
class ModeDifference:
    """The fields of one network in two modes, over the same images at the same size."""

    whole: ERF
    local: ERF

    @property
    def provenance(self) -> dict[str, Any]:
        """How the field in windows was made."""
        return self.local.provenance

    @property
    def difference(self) -> Float[np.ndarray, "h w"]:
        """The whole map's field less the windows', in units of output per input; the query at `(h//2, w//2)`."""
        return self.whole.raw - self.local.raw

    @property
    def lost(self) -> Float[np.ndarray, "h w"]:
        """Where the whole map's field is and the windows' is exactly zero, its share of the mass; zero elsewhere."""
        return np.where(self.local.raw == 0, np.abs(self.whole.raw), 0) / np.abs(self.whole.raw).sum()

    def rows(self) -> list[dict[str, Any]]:
        """A line for each mode, and one for their difference.

        Radii in px; "floor" is what global operations leave far away (`analysis.field_statistics.floor`); "zero" the
        share of pixels with no sensitivity at all; "mass" is relative to the whole map's, in the last line that of the
        absolute difference.
        """
        total = np.abs(self.whole.raw).sum()
        lines = [
            {
                "mode": name,
                "windows": "/".join(map(str, field.provenance["windows"])) or "none",
                "mass": float(np.abs(field.raw).sum() / total),
                "r50": field.radius(0.5),
                "r90": field.radius(0.9),
                "r99": field.radius(0.99),
                "floor": field.floor(),
                "zero": float((field.raw == 0).mean()),
                "beyond the windows": float("nan"),
            }
            for name, field in (("whole map", self.whole), ("windows", self.local))
        ]
        last = {key: float("nan") for key in lines[0]} | {
            "mode": "difference",
            "windows": "",
            "mass": float(np.abs(self.difference).sum() / total),
            "beyond the windows": float(self.lost.sum()),
        }
        return [*lines, last]


def mode_difference(
    whole: Network, local: Network, images: Tensor | Sequence[Tensor], **options: Any
) -> ModeDifference:
    """The fields of `whole` and `local`, the same weights without and with windows, and their difference.

    For example `load(file)` and `load(file, local=True)`, or a network inside and outside of `knocked_out(net,
    "window")`. `options` are those of `effective_receptive_field`. Images as large as the windows or smaller show no
    difference, but for what a network pads: EVSSM without windows to multiples of 32, with them of 4. Raises
    `ValueError` where the two hold different weights.
    """
    progress = options.pop("progress", None)
    fields = []
    for before, net in enumerate((whole, local)):

        def tick(done: int, total: int, before: int = before) -> None:
            if progress is not None:
                progress(before * total + done, 2 * total)

        fields.append(effective_receptive_field(net, images, progress=tick, **options))
    digests = [field.provenance["weights"] for field in fields]
    if digests[0] != digests[1]:
        raise ValueError("the two networks hold different weights; load one file twice, with and without windows")
    return ModeDifference(*fields)
