"""What several networks make of one blurred photograph, beside the sharp one: scores, errors, and where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.regions import Box, check_box
from evssm.data.pairs import Pair
from evssm.inference import Inference, demand_views
from evssm.metrics import Protocol, psnr
from evssm.stamp import network_stamp


@dataclass(frozen=True, eq=False)
class Comparison:
    """A pair and what each named network restored of it, `3 h w` each; `stamps` say whose weights those are.

    `protocol` rules all scores, and `inference` how the networks were run.
    """

    pair: Pair
    restored: Mapping[str, Float[Tensor, "3 h w"]]
    stamps: Mapping[str, Mapping[str, Any]]
    protocol: Protocol
    inference: Inference

    @property
    def untrained(self) -> tuple[str, ...]:
        """The networks that are known to have untrained weights; a picture must say so."""
        return tuple(name for name, stamp in self.stamps.items() if stamp["trained"] is False)

    def psnr(self, image: Float[Tensor, "3 h w"], box: Box | None = None) -> float:
        """PSNR of an image against the sharp one in dB, of the whole of it or of a box in it."""
        x, y = (_cut(whole, box)[None] for whole in (image, self.pair.sharp))
        return float(psnr(x, y, rounding=self.protocol.rounding, crop=0 if box else self.protocol.crop))

    def blurred_psnr(self, box: Box | None = None) -> float:
        """The PSNR that the blurred image has, dB."""
        return self.psnr(self.pair.blurred, box)

    def scores(self, box: Box | None = None) -> dict[str, float]:
        """The PSNR that each network reaches, dB."""
        return {name: self.psnr(image, box) for name, image in self.restored.items()}

    def gains(self, box: Box | None = None) -> dict[str, float]:
        """What each network adds to the PSNR of the blurred image, dB."""
        blurred = self.blurred_psnr(box)
        return {name: score - blurred for name, score in self.scores(box).items()}

    def error(self, image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w"]:
        """How far an image, clamped to [0, 1], is from the sharp one at each pixel: root of the mean square over
        colours, in levels of 255. Twice the error costs 6 dB."""
        x, y = (whole.detach().cpu().double().clamp(0, 1) for whole in (image, self.pair.sharp))
        return 255 * (x - y).square().mean(dim=0).sqrt().numpy()

    def removed(self) -> dict[str, float]:
        """The share of the blurred image's squared error that each network took away; negative where it added some."""
        return {name: 1 - 10 ** (-gain / 10) for name, gain in self.gains().items()}


def restore(
    nets: Mapping[str, Callable[..., Any]],
    pair: Pair,
    *,
    views: Float[Tensor, "6 h w"] | None = None,
    protocol: Protocol | None = None,
    inference: Inference | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Comparison:
    """What each network makes of `pair.blurred`, or of the `views` (left, right) of a dual-pixel sensor where those
    are given; `pair.blurred` is then the photograph of the whole lens, and what scores are held against.

    `progress` is called with (done, total) networks. Raises `ValueError` for a pair of two views or sizes, a network
    that takes another number of views or returns another size, and a protocol that aligns images, which would move
    what is drawn.
    """
    protocol, inference = protocol or Protocol(), inference or Inference()
    if protocol.alignment != "none":
        raise ValueError(f"images that are compared by eye stay where they are; leave out {protocol.alignment!r}")
    if pair.blurred.shape != pair.sharp.shape or pair.sharp.shape[0] != 3:
        raise ValueError(
            f"compared are two images 3 h w; {pair.name} has {tuple(pair.blurred.shape)} and {tuple(pair.sharp.shape)}"
        )
    restored, seen = {}, pair.blurred if views is None else views
    for done, (name, net) in enumerate(nets.items(), start=1):
        demand_views(net, seen.shape[0])
        found = inference(net, seen[None])[0].float().cpu()
        if found.shape != pair.sharp.shape:
            raise ValueError(
                f"{name} makes {tuple(found.shape)} of {pair.name}, where {tuple(pair.sharp.shape)} is asked"
            )
        restored[name] = found
        if progress is not None:
            progress(done, len(nets))
    return Comparison(pair, restored, {name: network_stamp(net) for name, net in nets.items()}, protocol, inference)


def most_blurred_box(pair: Pair, edge: int) -> Box:
    """The square of `edge` px in which the blurred image is farthest from the sharp one, by squared error.

    So a detail to look at is chosen by the data, before any network has run. `ValueError` for a square larger than the
    image.
    """
    h, w = pair.sharp.shape[-2:]
    if not 0 < edge <= min(h, w):
        raise ValueError(f"a square of {edge} px does not lie in an image of {h} x {w} px; ask for a smaller one")
    error = (pair.blurred.double() - pair.sharp.double()).square().sum(dim=0)
    sums = torch.zeros(h + 1, w + 1, dtype=torch.float64)
    sums[1:, 1:] = error.cumsum(0).cumsum(1)
    inside = sums[edge:, edge:] - sums[:-edge, edge:] - sums[edge:, :-edge] + sums[:-edge, :-edge]
    top, left = divmod(int(inside.argmax()), inside.shape[1])
    return top, left, edge, edge


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: a row per network, the best mean first, its PSNR and gain in dB on each picture, and the mean gain."""
    names = [one.pair.name for one in comparisons]
    gains = [one.gains() for one in comparisons]
    mean = {name: float(np.mean([gain[name] for gain in gains])) for name in gains[0]}
    head = ["network", *names, "mean gain [dB]"]
    blurred = ["blurred", *(f"{one.blurred_psnr():.2f}" for one in comparisons), ""]
    rows = [
        [
            name + (" (untrained)" if name in comparisons[0].untrained else ""),
            *(f"{one.scores()[name]:.2f} ({gain[name]:+.2f})" for one, gain in zip(comparisons, gains, strict=True)),
            f"{mean[name]:+.2f}",
        ]
        for name in sorted(mean, key=lambda name: -mean[name])
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), blurred, *rows)]
    return "\n".join(
        [*lines, "", f"PSNR in dB, in brackets above the blurred image; {comparisons[0].protocol.describe()}."]
    )


def _cut(image: Float[Tensor, "3 h w"], box: Box | None) -> Float[Tensor, "3 _ _"]:
    if box is None:
        return image
    top, left, height, width = check_box(box, *image.shape[-2:])
    return image[..., top : top + height, left : left + width]
