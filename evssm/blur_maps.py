"""How blurred each pixel of a photograph is: from the lens where depth is known, and from edges where it is not."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

FINE, COARSE = 1.0, 2.0
"""Standard deviations, in pixels, of the two blurs under which an edge is compared with itself."""

WIDEST = 5.0
"""Largest blur that is believed, in pixels."""


def sigma_of_circles(circles: Float[np.ndarray, "*size"]) -> Float[np.ndarray, "*size"]:
    """Standard deviation along each axis of an even disc of that (signed) diameter: a quarter of it."""
    return np.abs(circles) / 4


def sigma_from_edges(image: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "h w"]:
    """Standard deviation of the blur at each pixel, in pixels: at edges by comparing, elsewhere that of the next edge.

    A step blurred by sigma and blurred again by s has at its edge a gradient as 1 / sqrt(sigma^2 + s^2). So two such
    gradients with the ratio r, for s1 < s2, tell

        sigma^2 = (s2^2 - r^2 s1^2) / (r^2 - 1).

    That is the formula at the core of EBDB (Karaali and Jung 2018); their choice of scales, their filter along contours
    and their fast guided filter are not here, so this is a stand-in for such methods and not theirs. What is no step
    (lines, texture, soft shadows) is taken for one. Values reach from 0 to `WIDEST`; without edges all are 0.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_gradient_magnitude
    from skimage.feature import canny

    grey = image.detach().cpu().double().mean(0).numpy()
    edges = canny(grey, sigma=FINE, low_threshold=0.01, high_threshold=0.03, mode="nearest")
    if not edges.any():
        return np.zeros_like(grey)
    fine, coarse = (gaussian_gradient_magnitude(grey, s, mode="nearest")[edges] for s in (FINE, COARSE))
    ratio = np.maximum(fine / coarse, 1 + 1e-6) ** 2
    squared = (COARSE**2 - ratio * FINE**2) / (ratio - 1)
    sparse = np.zeros_like(grey)
    sparse[edges] = np.sqrt(np.clip(squared, 0, WIDEST**2))
    rows, columns = distance_transform_edt(~edges, return_distances=False, return_indices=True)
    return np.clip(guided(sparse[rows, columns], grey), 0, WIDEST)


def guided(
    values: Float[np.ndarray, "h w"], guide: Float[np.ndarray, "h w"], *, reach: int = 8, eps: float | int = 1e-3
) -> Float[np.ndarray, "h w"]:
    """`values`, smoothed but for where `guide` has edges (He, Sun and Tang 2013, "Guided Image Filtering").

    In each window of 2 `reach` + 1 pixels they are fitted as a line in `guide`, whose slope `eps` holds back; a pixel
    is the mean of the lines of the windows that it lies in.
    """
    from scipy.ndimage import uniform_filter

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, 2 * reach + 1, mode="nearest")

    slope = (mean(guide * values) - mean(guide) * mean(values)) / (mean(guide**2) - mean(guide) ** 2 + eps)
    return mean(slope) * guide + mean(mean(values) - slope * mean(guide))
