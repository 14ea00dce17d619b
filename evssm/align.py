"""RealBlur's way of scoring: the restored image is first laid over the sharp one, which another lens took.

Source: Rim et al., ECCV 2020, and their evaluation script: one scale of intensity, then the homography that maximises
the enhanced correlation coefficient (Evangelidis and Psarakis, 2008), 100 iterations without a tolerance, both images
smoothed by a 5 x 5 Gaussian. Only pixels that the moved image covers are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ITERATIONS = 100
SMOOTHING = 5


class AlignmentError(ValueError):
    """The images could not be laid over each other; the message says why."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """`image` is the restored image as it lies on the sharp one, scaled in intensity and not clamped; `mask` is 1
    where it covers that; `homography` takes pixels (x, y, 1) of the sharp image to those of the restored one;
    `correlation` is the coefficient that was maximised."""

    image: Float[Tensor, "3 h w"]
    mask: Float[Tensor, "1 h w"]
    homography: Float[np.ndarray, "3 3"]
    correlation: float

    @property
    def covered(self) -> float:
        """Share of the sharp image's pixels that are scored."""
        return float(self.mask.mean())


def align(restored: Float[Tensor, "3 h w"], sharp: Float[Tensor, "3 h w"]) -> Aligned:
    """`restored`, laid over `sharp` of the same size.

    Raises `AlignmentError` where OpenCV finds no homography, as happens with images that have little in common or no
    detail, with NaN, and where what it finds covers nothing.
    """
    import cv2

    z, x = (image.detach().cpu().float().permute(1, 2, 0).contiguous().numpy() for image in (restored, sharp))
    h, w = x.shape[:2]
    energy = float((z.astype(np.float64) ** 2).sum())
    if not (np.isfinite(energy) and np.isfinite(x).all()) or energy == 0:
        raise AlignmentError(f"an image is black or has values that are not finite (energy {energy:g})")
    z = z * np.float32((x.astype(np.float64) * z).sum() / energy)
    maximise: Any = cv2.findTransformECC  # its stubs know no `None` for the mask
    try:
        correlation, found = maximise(
            cv2.cvtColor(x, cv2.COLOR_RGB2GRAY),
            cv2.cvtColor(z, cv2.COLOR_RGB2GRAY),
            np.eye(3, dtype=np.float32),
            cv2.MOTION_HOMOGRAPHY,
            (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0),
            None,
            SMOOTHING,
        )
    except cv2.error as error:
        raise AlignmentError(f"no homography: {' '.join(str(error.err or error).split())[:120]}") from None
    if not np.isfinite(found).all() or not np.isfinite(correlation):
        raise AlignmentError("the homography has values that are not finite")
    inverse = cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(z, found, (w, h), flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REFLECT)
    ones = np.ones((h, w), np.float32)
    mask = cv2.warpPerspective(ones, found, (w, h), flags=cv2.INTER_NEAREST | inverse, borderMode=cv2.BORDER_CONSTANT)
    if not mask.any():
        raise AlignmentError("the homography moves the whole image away")
    return Aligned(
        torch.from_numpy(moved).permute(2, 0, 1),
        torch.from_numpy(mask)[None],
        found.astype(np.float64),
        float(correlation),
    )
