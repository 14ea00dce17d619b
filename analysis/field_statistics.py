"""Numbers that say how a field of sensitivity lies around its query: how wide, how lopsided, how evenly
spread.

Every function takes an `h w` array whose query lies at `(h//2, w//2)` and works on its *mass*: absolute
values divided by their sum, so units and signs drop out. Distances are from the query, in px. On an even
side the first row (column) has no partner on the other side of the query; it is counted all the same.
"""

from functools import lru_cache
from math import hypot
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Field = Float[np.ndarray, "h w"]
Number = float | int


class RadialProfile(NamedTuple):
    """Share of the mass within each distance that occurs; both arrays rise."""

    radius: Float[np.ndarray, " k"]  # px
    share: Float[np.ndarray, " k"]


class HalfPlanes(NamedTuple):
    """Shares of the whole mass; the query's own row (column) belongs to neither side."""

    up: float
    down: float
    left: float
    right: float


class Asymmetry(NamedTuple):
    """Contrasts in [-1, 1], positive where the field leans up or left, and the raster-causal share in [0, 1].

    Not-a-number where no mass lies on either side.
    """

    vertical: float  # (up - down) / (up + down)
    horizontal: float  # (left - right) / (left + right)
    raster: float  # share of the mass off the query that precedes it in raster order: 1 for a causal scan


class Spread(NamedTuple):
    """Second moments about the centre of mass.

    The angle is that of the long axis, counter-clockwise from rightwards as a person sees it, in (-90, 90].
    """

    sigma_y: float  # px
    sigma_x: float  # px
    angle: float  # degrees
    ratio: float  # long over short eigenvalue of the covariance: 1 for a round field, infinite for a line


def mass(field: Field) -> Field:
    """Absolute values of `field` divided by their sum, in float64; `ValueError` where there is nothing to
    divide by."""
    magnitude = np.abs(np.asarray(field, dtype=np.float64))
    total = magnitude.sum()
    if not np.isfinite(total) or total == 0:
        raise ValueError(f"statistics need a field of finite values, not all zero; the sum of this one is {total}")
    return magnitude / total


def radial_profile(field: Field, norm: str = "euclidean") -> RadialProfile:
    """The share of mass within each distance of the query; `norm` is "euclidean" or "chebyshev" (squares)."""
    levels, index = _distances(*field.shape, norm)
    within = np.cumsum(np.bincount(index, weights=mass(field).ravel()))
    return RadialProfile(levels, within)


def radius(field: Field, share: Number, norm: str = "euclidean") -> float:
    """The smallest distance from the query, in px, within which at least `share` of the mass lies."""
    if not 0 < share <= 1:
        raise ValueError(f"a radius needs a share of the mass in (0, 1], got {share}; half of it is 0.5")
    levels, within = radial_profile(field, norm)
    first = int(np.searchsorted(within, share - 1e-12))  # sums of a whole image round by less
    return float(levels[min(first, len(levels) - 1)])


def share_beyond(field: Field, distance: Number, norm: str = "euclidean") -> float:
    """The share of mass farther than `distance` px from the query."""
    levels, within = radial_profile(field, norm)
    inside = int(np.searchsorted(levels, distance, side="right"))
    return max(0.0, 1.0 - float(within[inside - 1])) if inside else 1.0


def area_ratio(field: Field, t: Number, *, compress: bool = True) -> float:
    """The area of the smallest centred square that holds more than `t` of the field, over the image's area.

    Squares have sides 2i + 1 for i = 1, 2, .. < min(h, w) // 2; 1.0 where none of them suffices, as for a
    uniform field on small even sides. With `compress` the shares are of `log10(1 + field)`, as published
    (Ding et al. 2022, RepLKNet): then the answer depends on the unit of the gradient and compares only
    between fields of one scale.
    """
    if not 0 < t < 1:
        raise ValueError(f"an area ratio needs a threshold in (0, 1), got {t}; 99 % is 0.99")
    values = np.log10(1 + np.abs(field)) if compress else field
    squares = radial_profile(values, "chebyshev").share  # by half-width
    h, w = field.shape
    for i in range(1, min(h, w) // 2):
        if squares[i] > t:
            return (2 * i + 1) ** 2 / (h * w)
    return 1.0


def half_planes(field: Field, beyond: int = 0) -> HalfPlanes:
    """The shares of mass above, below, left and right of the query; `beyond` as in `asymmetry`."""
    m = _without_centre(mass(field), beyond)
    row, column = _query(m)
    sides = m[:row], m[row + 1 :], m[:, :column], m[:, column + 1 :]
    return HalfPlanes(*(float(side.sum()) for side in sides))


def asymmetry(field: Field, beyond: int = 0) -> Asymmetry:
    """How far the field leans up and left, and how much of it precedes the query in raster order.

    With `beyond` the local zone, pixels up to that many px away in row and column, is left out of all three.
    """
    m = _without_centre(mass(field), beyond)
    up, down, left, right = half_planes(field, beyond)
    row, column = _query(m)
    before = up + m[row, :column].sum()
    after = down + m[row, column + 1 :].sum()
    return Asymmetry(
        _quotient(up - down, up + down),
        _quotient(left - right, left + right),
        _quotient(before, before + after),
    )


def effective_pixels(field: Field) -> float:
    """1 / sum m^2, the inverse participation ratio: the pixels of a uniform field as concentrated as this
    one."""
    return float(1 / np.square(mass(field)).sum())


def perplexity(field: Field) -> float:
    """exp(entropy): the pixels of a uniform field of the same entropy."""
    m = mass(field)
    m = m[m > 0]
    return float(np.exp(-(m * np.log(m)).sum()))


def luo_size(field: Field) -> float:
    """sqrt(number of pixels above 4.55 % of the query's own value), in px (Luo et al. 2016)."""
    m = mass(field)
    return float(np.sqrt(np.count_nonzero(m > 0.0455 * m[_query(m)])))


def spread(field: Field) -> Spread:
    """Standard deviations along rows and columns, and the direction and elongation of the field."""
    m = mass(field)
    y, x = (axis - origin for axis, origin in zip(np.indices(m.shape), _query(m), strict=True))
    y, x = y - (m * y).sum(), x - (m * x).sum()
    yy, xx, xy = (float((m * product).sum()) for product in (y * y, x * x, x * y))
    half_gap, middle = hypot((xx - yy) / 2, xy), (xx + yy) / 2
    short = max(0.0, middle - half_gap)
    ratio = (middle + half_gap) / short if short > 1e-12 * middle else np.inf
    if middle < 1e-12:  # a single point, up to rounding
        ratio = 1.0
    angle = float(np.degrees(np.arctan2(-2 * xy, xx - yy) / 2))  # rows run downwards, hence the sign
    return Spread(float(np.sqrt(yy)), float(np.sqrt(xx)), 90.0 if angle <= -90 else angle, float(ratio))


def floor(field: Field) -> float:
    """Median outside the radius that holds 99 % of the mass, over the maximum: what global operations leave.

    0 where nothing lies outside that radius.
    """
    m = mass(field)
    levels, index = _distances(*m.shape, "euclidean")
    outside = m.ravel()[levels[index] > radius(m, 0.99)]
    return float(np.median(outside) / m.max()) if outside.size else 0.0


def _query(field: Field) -> tuple[int, int]:
    h, w = field.shape
    return h // 2, w // 2


def _quotient(part: Number, whole: Number) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _without_centre(m: Field, beyond: int) -> Field:
    if beyond < 0:
        raise ValueError(f"the local zone to leave out has a half-width of 0 px or more, got beyond={beyond}")
    (row, column), m = _query(m), m.copy()
    m[max(row - beyond, 0) : row + beyond + 1, max(column - beyond, 0) : column + beyond + 1] = 0
    return m


@lru_cache(maxsize=16)
def _distances(h: int, w: int, norm: str) -> tuple[Float[np.ndarray, " k"], Int[np.ndarray, " l"]]:
    """The distances that occur, rising, and for each pixel in raster order the index of its own."""
    y, x = np.ogrid[-(h // 2) : h - h // 2, -(w // 2) : w - w // 2]
    if norm == "euclidean":
        squares, index = np.unique(y * y + x * x, return_inverse=True)  # integers, so equal distances compare equal
        levels = np.sqrt(squares)
    elif norm == "chebyshev":
        integers, index = np.unique(np.maximum(abs(y), abs(x)), return_inverse=True)
        levels = integers.astype(np.float64)
    else:
        raise ValueError(f'no norm "{norm}"; distances are "euclidean" or "chebyshev"')
    return levels, index.ravel()
