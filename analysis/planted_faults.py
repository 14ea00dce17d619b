"""Whether the tracer of artefacts finds what is known to be broken: one weight made too large, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.artefacts import Trace, trace
from analysis.field_statistics import Number
from evssm.models.stages import stages

LIMIT = 2.0
"""How many times its largest size on the image compared with a stage may reach."""


@dataclass(frozen=True)
class Hunt:
    """What the tracer said of a network in which the largest weight of `stage`, an entry of the tensor `weight`, was
    `factor` times as large.

    `compared` is the first stage out of range beside a sound photograph, `alone` that of the image alone, which judges
    whole blocks only; `None` where none was. `cast` is how far the output's mean red, green and blue moved, as a screen
    shows them, in [0, 1]; NaN where values are not finite.
    """

    stage: str
    weight: str
    factor: float
    compared: str | None
    alone: str | None
    cast: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def right(self) -> bool:
        """Whether the comparison named the very stage."""
        return self.compared == self.stage

    @property
    def right_alone(self) -> bool:
        """Whether the image alone named the stage or the block that it is part of."""
        return self.alone is not None and f"{self.stage}.".startswith(f"{self.alone}.")

    @property
    def tint(self) -> float:
        """How much the picture changed its colour, not its brightness: the range of `cast`."""
        return max(self.cast) - min(self.cast)


def innermost(net: nn.Module) -> list[str]:
    """The stages of a network that hold no other stage, in the order of the forward pass."""
    names = [stage.name for stage in stages(net)]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


@contextmanager
def planted(net: nn.Module, stage: str, factor: Number) -> Iterator[str]:
    """While the block runs, the largest entry of the last tensor of weights in `stage` is `factor` times as large.

    Yields the tensor's key; its bits are put back afterwards, also after an exception. Raises `ValueError` for a stage
    without weights.
    """
    tensors = [(key, p) for key, p in net.get_submodule(stage).named_parameters() if p.ndim >= 2]
    if not tensors:
        raise ValueError(f"{stage} has no weights that a fault could be planted in; choose another stage")
    key, weight = tensors[-1]
    with torch.no_grad():
        at = weight.abs().argmax()
        kept = weight.view(-1)[at].clone()
        try:
            weight.view(-1)[at] = kept * factor
            yield f"{stage}.{key}"
        finally:
            weight.view(-1)[at] = kept


def hunts(
    net: nn.Module,
    image: Tensor,
    sound: Tensor,
    *,
    factors: Sequence[Number] = (10, 100, 1000),
    places: Sequence[str] | None = None,
    limit: Number = LIMIT,
    progress: Callable[[int, int], object] | None = None,
) -> list[Hunt]:
    """For each of `factors` and each of `places` (by default `innermost` stages) a fault is planted, and the tracer,
    which is not told, looks for it on `image`.

    `sound` is another photograph, on which the network as it was sets the limits: `limit` times the largest size there.
    The network is handed back as it was. `progress` is called with (done, total) faults.
    """
    places = innermost(net) if places is None else places
    normal, plain = (trace(net, x, states=False) for x in (sound, image))
    found: list[Hunt] = []
    for factor in factors:
        for place in places:
            with planted(net, place, factor) as weight:
                seen = trace(net, image, states=False)
            named = _first(seen, limit, normal), _first(seen)
            found.append(Hunt(place, weight, float(factor), *named, _cast(seen, plain)))
            if progress is not None:
                progress(len(found), len(factors) * len(places))
    return found


def hunt_table(found: Sequence[Hunt]) -> str:
    """Markdown: for each factor the number of faults, and how many were named rightly, wrongly and not at all."""
    head = ["weight made larger by", "faults", "compared: right", "another stage", "none"]
    head += ["image alone: right", "another stage", "none"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for factor in sorted({one.factor for one in found}):
        these = [one for one in found if one.factor == factor]
        cells = [f"{factor:g}", str(len(these))]
        for named, right in (
            ([one.compared for one in these], [one.right for one in these]),
            ([one.alone for one in these], [one.right_alone for one in these]),
        ):
            wrong = sum(name is not None and not good for name, good in zip(named, right, strict=True))
            cells += [str(sum(right)), str(wrong), str(named.count(None))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cast(seen: Trace, plain: Trace) -> tuple[float, float, float]:
    """The change of the mean of each colour, values beyond [0, 1] shown as a screen would."""
    shown, before = (run.output.clip(0, 1).mean(axis=(1, 2), dtype=float) for run in (seen, plain))
    red, green, blue = (float(value) for value in shown - before)
    return red, green, blue


def _first(seen: Trace, *limits: object) -> str | None:
    first = seen.first(*limits)  # type: ignore[arg-type]
    return None if first is None else first.name
