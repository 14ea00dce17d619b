"""How far the two views of a dual-pixel sensor are shifted against each other, patch by patch, and what depth says."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

CLEAR = 0.5
"""A shift is sure where its mean square difference is below this share of the median over all shifts."""


@dataclass(frozen=True, eq=False)
class ViewShifts:
    """For each patch, how many pixels to the right the left view shows what the right one shows, and whether that is
    sure: a patch without texture across columns, or with a match at the end of the search, says nothing."""

    shift: Float[np.ndarray, "rows columns"]
    sure: Bool[np.ndarray, "rows columns"]
    patch: int
    reach: int

    def predicted(self, circles: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "rows columns"]:
        """What the lens says: 4 / (3 pi) of the signed blur circle, the distance of the half discs' centroids, as the
        mean over each patch (`evssm.data.defocus.half_aperture_kernels`)."""
        mean = _patches(torch.from_numpy(np.ascontiguousarray(circles)).double(), self.patch, self.reach)
        return 4 / (3 * pi) * mean.numpy()


def view_shifts(
    left: Float[Tensor, "3 h w"], right: Float[Tensor, "3 _ _"], *, patch: int = 32, reach: int = 14
) -> ViewShifts:
    """The shift between two views in squares of `patch` px, by the least mean square difference among shifts of up to
    `reach` px along rows, refined by a parabola. Columns within `reach` of the border are left out.

    Raises `ValueError` for views of two sizes, and for images in which no patch fits.
    """
    if left.shape != right.shape:
        raise ValueError(
            f"two views of one scene are alike in size; these are {tuple(left.shape)}, {tuple(right.shape)}"
        )
    h, w = left.shape[-2:]
    if reach < 1 or not 0 < patch <= min(h, w - 2 * reach):
        raise ValueError(f"no patch of {patch} px, {reach} px from the border, fits {h} x {w} px; ask for smaller ones")
    a, b = left.double().mean(dim=0), right.double().mean(dim=0)
    middle = b[:, reach : w - reach]
    cost = torch.stack(
        [_pooled((a[:, reach + s : w - reach + s] - middle).square(), patch) for s in range(-reach, reach + 1)]
    )
    best = cost.argmin(dim=0).clamp(1, 2 * reach - 1)
    before, at, after = (cost.gather(0, (best + k)[None])[0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    fine = torch.where(bend > 0, (before - after) / (2 * bend), 0).clamp(-0.5, 0.5)
    inside = (at <= before) & (at <= after) & (bend > 0)
    sure = inside & (at < CLEAR * cost.median(dim=0).values)
    return ViewShifts((best - reach + fine).numpy(), sure.numpy(), patch, reach)


def _patches(x: Float[Tensor, "h w"], patch: int, reach: int) -> Float[Tensor, "rows columns"]:
    return _pooled(x[:, reach : x.shape[1] - reach], patch)


def _pooled(x: Float[Tensor, "h _"], patch: int) -> Float[Tensor, "rows columns"]:
    return avg_pool2d(x[None], patch)[0]
