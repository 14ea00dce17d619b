"""Defocus from depth: what a lens, or the two halves of a dual-pixel sensor, make of a sharp view with disparity."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np

from evssm.data.kernels import splat

STEP = 0.5
"""Difference in pixels between the blur circles of neighbouring depth layers."""

EDGE = 2.0
"""Difference in pixels between blur circles that is the edge of an object, not the slope of a surface."""


def circles_of_confusion(disparity: np.ndarray, focus: float | int, aperture: float | int) -> np.ndarray:
    """Signed diameter in pixels of each point's blur circle, positive for points nearer than the focus.

        diameter = aperture (disparity - focus)

    A thin lens `aperture` times as wide as the baseline of the stereo pair, focused on the depth of the disparity
    `focus`, sees just that: two pinholes at its rim differ by this parallax, with the picture shifted to agree on the
    focus. `disparity` is in pixels and finite.
    """
    if not aperture >= 0:
        raise ValueError(f"an aperture of {aperture} baselines is none; give 0 or more")
    return aperture * (disparity - focus)


@lru_cache(maxsize=512)
def half_aperture_kernels(diameter: float | int) -> tuple[np.ndarray, np.ndarray]:
    """The point spreads of a point nearer than the focus in the left and in the right view, each summing to 1.

    They are half discs of the given diameter in pixels, each the other's mirror image. Seen through the left half of
    the lens, what is nearer than the focus lies to the right, as in a stereo pair: the half discs' centroids lie
    4 / (3 pi) radii from the centre, here to within a thousandth. Their mean is the disc of the whole lens.
    """
    n = 96
    at = (2 * np.arange(n) + 1) / n - 1
    y, x = np.meshgrid(at, at, indexing="ij")
    points = np.stack([y, x], -1)[(x > 0) & (x**2 + y**2 <= 1)] * diameter / 2
    kernel = splat(points, np.full(len(points), 1 / len(points)), max(1, ceil(diameter / 2))).numpy()
    return kernel, kernel[:, ::-1].copy()


def dual_pixel_views(light: np.ndarray, circles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right view in linear light, `h w 3` float32; their mean is the photograph of the whole lens.

    `light` is the sharp view in linear light, `circles` each point's signed blur circle (`circles_of_confusion`).
    Points are sorted into layers of equal blur (`STEP`), which spread their light from near to far; at each pixel a
    layer takes what coverage the nearer ones left. So sharp foregrounds stay sharp before blurred backgrounds, and
    blurred foregrounds are translucent at their edges. What shows through there but is hidden in the sharp view is
    made up (`hidden_behind`). Where the depth is uniform this is the convolution with the kernel. Borders are
    reflected.

    Raises `ValueError` for circles of another size or not finite.
    """
    import cv2

    if circles.shape != light.shape[:2] or not np.isfinite(circles).all():
        raise ValueError(f"blur circles {circles.shape} for {light.shape[:2]} pixels: give one finite number for each")
    rows, columns, hidden = hidden_behind(circles)
    layer, far_layer = (np.rint(x / STEP).astype(int) for x in (circles, circles[rows, columns]))
    far_light = light[rows, columns]
    colour, free = np.zeros((2, *light.shape), np.float32), np.ones((2, *layer.shape), np.float32)
    for k in np.unique(layer)[::-1]:
        seen = layer == k
        mask = (seen | (hidden & (far_layer == k))).astype(np.float32)
        lit = np.where(seen[..., None], light, far_light) * mask[..., None]
        kernels = half_aperture_kernels(float(abs(k) * STEP))[:: 1 if k > 0 else -1]
        for view, kernel in enumerate(kernels):
            # OpenCV correlates: the kernel is turned so that a point becomes the kernel as it stands.
            spread = cv2.filter2D(np.dstack([lit, mask]), -1, kernel[::-1, ::-1], borderType=cv2.BORDER_REFLECT_101)
            cover = np.maximum(spread[..., 3], 1e-6)
            share = np.where(cover > 1e-5, np.minimum(cover, free[view]) / cover, 0)  # less is the transform's rounding
            colour[view] += share[..., None] * spread[..., :3]
            free[view] -= share * cover
    left, right = np.maximum(colour, 0) / np.maximum(1 - free, 1e-6)[..., None]
    return left, right


def hidden_behind(circles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the points taken to continue behind each pixel, and where there are such: three `h w`.

    A pixel hides something where the largest blur of the picture reaches a point that is farther by more than `EDGE`;
    what it hides is the nearest point that does not. Elsewhere rows and columns are the pixel's own.
    """
    import cv2
    from scipy.ndimage import distance_transform_edt

    reach = ceil(np.abs(circles).max() / 2)
    farthest = cv2.erode(circles.astype(np.float32), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    hidden = circles > farthest + EDGE
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return rows, columns, hidden
