"""What each part of an image does to the restoration of a region: parts are exchanged, and the region is scored again.

A causal effect map after Hu et al. (2025), where gradients show only what infinitely small changes would do. A block is
overwritten by a patch from elsewhere, so that what stands there is still a piece of an image; its effect is the PSNR of
the region as it was less that after the exchange, in dB: positive where the block's own content helps. Unlike theirs,
the mean over patches comes with an interval, and sampling stops when that says enough (`analysis.sequential`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attributions import region_of
from analysis.borrow import borrowed
from analysis.inputs import check_fit, single_images
from analysis.making import made_of
from analysis.regions import Box
from analysis.sensitivity import INCLUDE, Network, Select, check_reproducible, response, selector_name
from analysis.sequential import LOOKS, Means, sampled_means
from evssm.shapes import Image
from evssm.stamp import image_sha256

BLOCK = 16
"""Height and width in px of what is exchanged at a time."""

LEAST = 0.01
"""An effect in dB below which a block counts as neutral, that of Hu et al."""


DECIDED = ("positive", "negative")
"""The words of an effect whose sign is known."""


@dataclass(frozen=True, eq=False)
class CausalEffects:
    """The effect of every block on the PSNR of the region `box`, in dB: mean, interval, samples and word by block.

    `blocks` are (row, column, height, width) of each, row by row; those that meet the region change it themselves.
    """

    means: Means
    blocks: tuple[Box, ...]
    box: Box
    psnr: float
    """Of the region as it was."""
    provenance: dict[str, Any]

    def map(self) -> Float[np.ndarray, "h w"]:
        """The mean effect, for each pixel that of its block."""
        return self._laid_out(self.means.mean)

    def decided(self) -> np.ndarray:
        """For each pixel whether its block's word is "positive" or "negative"."""
        return self._laid_out(np.array([word in DECIDED for word in self.means.words()]))

    def counts(self) -> dict[str, int]:
        """How many blocks have which word."""
        return dict(Counter(self.means.words()))

    def rows(self) -> list[dict[str, Any]]:
        """A line for each block."""
        numbers = zip(self.means.mean, self.means.low, self.means.high, self.means.trials, strict=True)
        return [
            {
                **dict(zip(("row", "column", "height", "width"), block, strict=True)),
                "effect": float(mean),
                "low": float(low),
                "high": float(high),
                "patches": int(trials),
                "word": word,
                "meets_region": _meet(block, self.box),
            }
            for block, (mean, low, high, trials), word in zip(self.blocks, numbers, self.means.words(), strict=True)
        ]

    def peak(self) -> float:
        """The largest decided effect of a block that does not meet the region; 0 where there is none."""
        return max(
            (abs(row["effect"]) for row in self.rows() if row["word"] in DECIDED and not row["meets_region"]),
            default=0.0,
        )

    def _laid_out(self, values: np.ndarray) -> np.ndarray:
        field = np.zeros(self.provenance["size"], dtype=values.dtype)
        for (top, left, height, width), value in zip(self.blocks, values, strict=True):
            field[top : top + height, left : left + width] = value
        return field


def causal_effects(
    net: Network,
    image: Tensor,
    sharp: Tensor,
    box: Sequence[int] | str = "centre",
    *,
    block: int = BLOCK,
    donors: Tensor | Sequence[Tensor] | None = None,
    looks: Sequence[int] = LOOKS,
    level: float | int = 0.95,
    least: float | int = LEAST,
    select: Select | None = None,
    batch: int = 4,
    seed: int = 0,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CausalEffects:
    """How much every block of `image` helps `net` to restore a region, by exchanging it for other patches.

    `image` and `sharp` are `c h w` or `1 c h w`; `box` is (row, column, height, width) or "centre", the middle 32 x 32
    px. Patches come from `donors`, one image or several, by default from this image, where they do not overlap the
    block. Each block is exchanged as often as `looks` say at most; intervals have `level`, and with `least` dB a block
    may be found neutral. `select` picks the image of a network that returns several; `batch` images are restored
    together; `progress` is called with (done, total) images. PSNR is that of unrounded values.

    With many blocks, expect a share of up to 1 - `level` of them to have a wrong word. Raises `ValueError` for sizes
    that do not fit together, a region restored without any error, and a function that gives two answers to one image.
    """
    (x,), (truth,) = single_images(image), single_images(sharp)
    check_fit(net, x)
    if truth.shape != x.shape:
        raise ValueError(
            f"the sharp image is {tuple(truth.shape)}, the blurred one {tuple(x.shape)}; they belong together"
        )
    h, w = x.shape[-2:]
    region = region_of(box, h, w)
    if not 1 <= block <= min(h, w):
        raise ValueError(f"blocks of {block} px do not fit an image of {h} x {w} px; try {BLOCK}")
    blocks = blocks_of(h, w, block)
    sources = None if donors is None else [source for one in _several(donors) for source in single_images(one)]
    generator = np.random.default_rng(seed)
    patch = _patches(x, sources, generator)
    with borrowed(net), torch.no_grad():
        if not isinstance(net, nn.Module):
            check_reproducible(net, x, select)

        def score(images: Image) -> Float[np.ndarray, " b"]:
            y, _ = response(net, images, select, INCLUDE)
            return _psnr(y, truth, region)

        (clean,) = score(x)
        if not np.isfinite(clean):
            raise ValueError("the network restores this region without any error, so nothing in it can be lost")

        def draw(which: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
            found = []
            for start in range(0, len(which), batch):
                some = [_exchanged(x, blocks[i], patch(blocks[i])) for i in which[start : start + batch]]
                found.append(clean - score(torch.cat(some)))
            return np.concatenate(found)

        means = sampled_means(draw, len(blocks), looks=looks, level=level, least=least, progress=progress)
    facts: dict[str, Any] = {"box": list(region), "block": block, "looks": list(looks), "level": level, "least": least}
    facts |= {"seed": seed, "select": selector_name(select), "sharp": image_sha256(truth)}
    facts["donors"] = None if sources is None else [image_sha256(source) for source in sources]
    return CausalEffects(means, blocks, region, float(clean), made_of(net, [x], trained=trained, **facts))


def blocks_of(h: int, w: int, edge: int) -> tuple[Box, ...]:
    """The blocks that an image is cut into, row by row; the last ones may be smaller."""
    return tuple(
        (top, left, min(edge, h - top), min(edge, w - left)) for top in range(0, h, edge) for left in range(0, w, edge)
    )


def places(size: tuple[int, int], block: Box, *, own: bool) -> Int[np.ndarray, "n 2"]:
    """Where a patch of the block's size may begin in an image; in its `own` nothing that overlaps it."""
    top, left, height, width = block
    rows, columns = np.mgrid[: max(0, size[0] - height + 1), : max(0, size[1] - width + 1)]
    free = (abs(rows - top) >= height) | (abs(columns - left) >= width) if own else np.ones_like(rows, dtype=bool)
    return np.stack([rows[free], columns[free]], axis=1)


def _patches(
    x: Image, sources: Sequence[Tensor] | None, generator: np.random.Generator
) -> Callable[[Box], Float[Tensor, "1 c _ _"]]:
    """Draws a patch for a block, every place of every source being as likely as any other of that source."""

    def patch(block: Box) -> Tensor:
        source = x if sources is None else sources[int(generator.integers(len(sources)))]
        found = places((source.shape[-2], source.shape[-1]), block, own=sources is None)
        if not len(found):
            raise ValueError(
                f"no patch of {block[2]} x {block[3]} px can be taken from an image of "
                f"{source.shape[-2]} x {source.shape[-1]} px; try smaller blocks"
            )
        top, left = found[generator.integers(len(found))]
        return source[..., top : top + block[2], left : left + block[3]].to(x)

    return patch


def _exchanged(x: Image, block: Box, patch: Float[Tensor, "1 c _ _"]) -> Image:
    top, left, height, width = block
    changed = x.clone()
    changed[..., top : top + height, left : left + width] = patch
    return changed


def _psnr(y: Image, truth: Float[Tensor, "1 c h w"], box: Box) -> Float[np.ndarray, " b"]:
    top, left, height, width = box
    gap = (y.double() - truth.double())[..., top : top + height, left : left + width]
    return (-10 * gap.square().sum(dim=(1, 2, 3)).div(prod(gap.shape[1:])).log10()).cpu().numpy()


def _meet(a: Box, b: Box) -> bool:
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def _several(images: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [images] if isinstance(images, Tensor) else images
