"""Running a network on one image of any size: at once or in tiles, once or as a self-ensemble; and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn

from evssm.ensemble import ENSEMBLES, self_ensemble
from evssm.memory import SLACK, UncountableError, available_memory, estimate_memory, in_words
from evssm.models import MODELS
from evssm.models.description import Recipe
from evssm.shapes import Image, Map
from evssm.tiles import spans, tiled, tiles_of

BYTES_TILED = 12 + 3 * 8 + 8 + 12
"""Bytes per pixel of the whole image that tiles are taken from and blended in: float32 in and out,
float64 sums and cover."""

BYTES_TURNED = 3 * 12
"""The same for a self-ensemble: the image beside the turned one, the sum, and the sum that takes its place."""


@dataclass(frozen=True)
class Inference:
    """How images go through a network; scores with another way of it are another row of a table.

    `tile` is the edge of the tiles in pixels, `None` for the whole image at once, `overlap` that of two tiles, and
    `ensemble` a name in `ENSEMBLES`. Raises `ValueError` for what `tiled` and `self_ensemble` would refuse.
    """

    tile: int | None = None
    overlap: int = 64
    ensemble: str = "none"

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"no self-ensemble is called {self.ensemble!r}; there are {', '.join(ENSEMBLES)}")
        if self.tile is not None:
            spans(1, self.tile, self.overlap)  # for what it says of sizes that do not go together

    def __call__(self, net: Callable[..., Any], x: Image, *, progress: Callable[[int, int], None] | None = None) -> Map:
        """The restored images, without gradients, in the network's evaluation mode, which is put back, and on the
        device and in the type of its weights.

        `progress` counts the tiles of all positions.
        """
        first = _weight(net)
        x = x if first is None else x.to(first.device, first.dtype)
        training = [m for m in net.modules() if m.training] if isinstance(net, nn.Module) else []
        positions, all_positions = count(), len(ENSEMBLES[self.ensemble])

        def once(image: Tensor) -> Tensor:
            before = next(positions)

            def track(done: int, total: int) -> None:
                if progress:
                    progress(before * total + done, all_positions * total)

            if self.tile is not None:
                return tiled(net, image, self.tile, self.overlap, progress=track)
            y = net(image)
            track(1, 1)
            return y

        try:
            for module in training:
                module.training = False
            with torch.no_grad():
                return self_ensemble(once, x, self.ensemble)
        finally:
            for module in training:
                module.training = True

    def cost(self, h: int, w: int) -> float:
        """Pixels that the network sees, over those of an `h x w` image."""
        tiles = [(h, w)] if self.tile is None else tiles_of(h, w, self.tile, self.overlap)
        return len(ENSEMBLES[self.ensemble]) * sum(rows * columns for rows, columns in tiles) / (h * w)

    def describe(self) -> str:
        """All of it in a line."""
        tiles = "whole image" if self.tile is None else f"tiles of {self.tile} px overlapping by {self.overlap}"
        times = len(ENSEMBLES[self.ensemble])
        return f"{tiles}; self-ensemble {self.ensemble}" + (f" ({times} times the cost)" if times > 1 else "")


@dataclass(frozen=True)
class Health:
    """What is wrong with an output: values that are not finite, and the share beyond [0, 1] by more than 0.1."""

    not_finite: int
    overshoot: float

    @classmethod
    def of(cls, y: Tensor) -> Health:
        """The state of an output with any axes."""
        finite = torch.isfinite(y)
        beyond = finite & ((y < -0.1) | (y > 1.1))
        return cls(int((~finite).sum()), float(beyond.double().mean()))

    def describe(self) -> str:
        """What is wrong in words; empty if nothing is."""
        found = [f"{self.not_finite} values are not finite"] if self.not_finite else []
        found += [f"{self.overshoot:.2%} of the values lie beyond [0, 1] by more than 0.1"] if self.overshoot else []
        return "; ".join(found)


def demand_views(net: Callable[..., Any], channels: int) -> None:
    """`ValueError` where a network of `MODELS` takes two views of a dual-pixel sensor and gets one, or the reverse."""
    takes, known = channels_taken(net), cast("Any", net)
    if takes not in (None, channels):
        raise ValueError(
            f"{known.recipe.name} takes images of {takes} channels, not {channels}; choose the other data or mode"
        )


def channels_taken(net: Callable[..., Any]) -> int | None:
    """6 for a network of `MODELS` that takes two views of a dual-pixel sensor, 3 for another; `None` for any other
    callable."""
    recipe = getattr(net, "recipe", None)
    if not isinstance(recipe, Recipe):
        return None
    arguments = {**MODELS[recipe.name].arguments, **recipe.overrides}
    return 6 if arguments.get("dual_pixel") else 3


def needed_memory(net: Callable[..., Any], inference: Inference, h: int, w: int, *, channels: int = 3) -> int:
    """Peak bytes of all tensors alive while an `h x w` image of float32 goes through: those of the largest tile (see
    `estimate_memory`), and the images around it."""
    rows, columns = _largest_tile(inference, h, w)
    around = BYTES_TILED * ((rows, columns) != (h, w)) + BYTES_TURNED * (inference.ensemble != "none")
    return estimate_memory(net, rows, columns, channels=channels) + around * h * w


def memory_report(net: Callable[..., Any], inference: Inference, h: int, w: int, *, channels: int = 3) -> str:
    """What the run on an `h x w` image will take (`needed_memory`), in words, and what there is.

    Raises `ValueError`, with a tile size to try, where that is more than there is. A network that cannot be counted
    is none of these: the words then say why.
    """
    rows, columns = _largest_tile(inference, h, w)
    first = _weight(net)
    free = available_memory("cpu" if first is None else first.device)
    try:
        need = needed_memory(net, inference, h, w, channels=channels)
    except UncountableError as error:
        return f"{error}; {in_words(free)} free"
    found = f"{in_words(need)} of tensors at {rows} x {columns} pixels (counted without running), {in_words(free)} free"
    if need > free:
        room = max(0, free - (BYTES_TILED + BYTES_TURNED * (inference.ensemble != "none")) * h * w)
        edge = int((room * rows * columns / (1.2 * need)) ** 0.5) // 32 * 32
        tiles = f"try --tile {edge} --overlap {min(inference.overlap, edge // 4)}"
        raise ValueError(f"not enough memory: {found}; {tiles if edge >= 64 else 'cut the image into parts'}")
    if SLACK * need > free:
        found += f"; a process may take {SLACK} times that, which is too much: consider --tile"
    return found


def _weight(net: Callable[..., Any]) -> Tensor | None:
    return next(net.parameters(), None) if isinstance(net, nn.Module) else None


def _largest_tile(inference: Inference, h: int, w: int) -> tuple[int, int]:
    sizes = [(h, w)] if inference.tile is None else tiles_of(h, w, inference.tile, inference.overlap)
    return max(sizes, key=lambda size: size[0] * size[1])
