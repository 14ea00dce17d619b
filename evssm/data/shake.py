"""Camera shake: one photograph seen along a smooth path of the camera and averaged in linear light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evssm.data.kernels import GAMMA, splat

MODES = 5
"""Half-cosines of a random path, beside its drift; their size falls as 1 / k^2, as that of a smooth curve does."""

FEWEST_POSES = 33


@dataclass(frozen=True, eq=False)
class CameraPath:
    """How the picture moves during the exposure, of which time runs from 0 to 1.

        (x, y, roll)(t) = drift (t - 1/2) + sum_k modes[k] cos(pi k t),  k = 1, 2, ...

    x pixels to the right, y pixels down, roll in radians, clockwise as seen, about the middle of the photograph. A
    point at `(row, column)` from that middle travels by (x - roll row, y + roll column): the roll is taken to first
    order, which is off by roll^2 / 2 of the distance, so that every point of the picture has mean displacement 0.
    `drift` has the shape `3`, `modes` the shape `k 3`.
    """

    drift: np.ndarray
    modes: np.ndarray

    def poses(self, n: int) -> np.ndarray:
        """The path at the middles of `n` equal times, `n 3`; each column has mean 0."""
        t = (np.arange(n) + 0.5) / n
        k = np.arange(1, len(self.modes) + 1)
        return np.outer(t - 0.5, self.drift) + np.cos(pi * np.outer(t, k)) @ self.modes

    def displacements(self, n: int, row: float | int, column: float | int) -> np.ndarray:
        """Of the point at `(row, column)` from the photograph's middle: `n 2` pixels, (down, right)."""
        x, y, roll = self.poses(n).T
        return np.stack([y + roll * column, x - roll * row], axis=1)

    def enough_poses(self, rows: Sequence[float | int], columns: Sequence[float | int]) -> int:
        """How many poses keep neighbours within one pixel of each other, everywhere in a box about the middle."""
        fine = 512
        steps = [np.diff(self.displacements(fine, r, c), axis=0) for r in rows for c in columns]
        return max(FEWEST_POSES, ceil(fine * max(np.hypot(*step.T).max() for step in steps)))

    def reach(self, row: float | int, column: float | int) -> float:
        """No point within `row` and `column` of the middle strays further than this along an axis, in pixels."""
        x, y, roll = np.abs(self.poses(512)).max(0)
        return float(max(x + roll * row, y + roll * column))

    def kernel(self, row: float | int, column: float | int, poses: int | None = None) -> Float[Tensor, "k k"]:
        """The weights that the pixel at `(row, column)` from the photograph's middle averages with.

            light of the blurred pixel = sum_d kernel[d] light of the photograph at (pixel - d)

        float64, of odd side, sum 1 and centroid 0. Without roll it is the point spread; with roll, to first order.
        From four times the poses that `enough_poses` names, where no number is given.
        """
        n = poses or 4 * self.enough_poses((row,), (column,))
        moved = self.displacements(n, row, column)
        return splat(moved, np.full(n, 1 / n), ceil(np.abs(moved).max()))


def straight_path(length_px: float | int, angle_deg: float | int) -> CameraPath:
    """A uniform straight motion; the blur is that of `motion_kernel` with the same arguments."""
    angle = np.deg2rad(angle_deg)
    return CameraPath(length_px * np.array([np.cos(angle), -np.sin(angle), 0]), np.zeros((0, 3)))


def random_path(
    rng: np.random.Generator, extent: float | int, *, roll: float | int = 0, reach: float | int = 1
) -> CameraPath:
    """A smooth random path whose two most distant positions are `extent` pixels apart.

    That holds in the middle of the photograph. The roll adds travel elsewhere: `roll` times `extent` at the distance
    of `reach` pixels. Raises `ValueError` where one of them is negative or `reach` is 0.
    """
    if not (extent >= 0 and roll >= 0 and reach > 0):
        raise ValueError(f"no path has extent {extent}, roll {roll} and reach {reach}; give 0 or more, and a reach")
    falling = np.arange(1, MODES + 1)[:, None] ** -2.0
    drift, modes = rng.standard_normal(3) * 2, rng.standard_normal((MODES, 3)) * falling
    poses = CameraPath(drift, modes).poses(256)
    apart = np.hypot(*(poses[:, None, :2] - poses[None, :, :2]).transpose(2, 0, 1)).max()
    scale = np.array([extent / apart, extent / apart, roll * extent / reach / np.ptp(poses[:, 2])])
    return CameraPath(drift * scale, modes * scale)


def average(light: np.ndarray, path: CameraPath, top: int, left: int, h: int, w: int) -> np.ndarray:
    """The crop of a photograph in linear light, `h w c` float32, as an exposure along the path gives it.

    Positions between pixels are interpolated linearly; beyond the border the photograph is reflected.
    """
    import cv2

    rows, columns = light.shape[:2]
    above, before = top - (rows - 1) / 2, left - (columns - 1) / 2
    n = path.enough_poses((above, above + h - 1), (before, before + w - 1))
    total = np.zeros((h, w, light.shape[2]), np.float32)
    for x, y, roll in path.poses(n):
        to_source = np.array([[1, roll, left - x + roll * above], [-roll, 1, top - y - roll * before]])
        total += cv2.warpAffine(
            light, to_source, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
        )
    return total / n


def shaken(
    photo: Float[Tensor, "3 H W"], path: CameraPath, top: int, left: int, h: int, w: int
) -> tuple[Float[Tensor, "3 {h} {w}"], Float[Tensor, "3 {h} {w}"]]:
    """The crop blurred along the path, and the same crop of the photograph, untouched: (blurred, sharp).

    They are aligned, since each point's mean displacement is 0. Averaged in linear light from poses at most one pixel
    apart. A crop less than `path.reach` away from the border also shows the photograph's reflection there.

    Raises `ValueError` where the crop does not lie in the photograph.
    """
    rows, columns = photo.shape[-2:]
    if not (0 <= top <= top + h <= rows and 0 <= left <= left + w <= columns and h > 0 and w > 0):
        raise ValueError(f"no crop of {h} x {w} at row {top}, column {left} lies in {rows} x {columns} pixels")
    light = np.ascontiguousarray(photo.permute(1, 2, 0).numpy().astype(np.float32) ** np.float32(GAMMA))
    blurred = average(light, path, top, left, h, w) ** np.float32(1 / GAMMA)
    return torch.from_numpy(blurred).permute(2, 0, 1).contiguous(), photo[:, top : top + h, left : left + w].clone()
