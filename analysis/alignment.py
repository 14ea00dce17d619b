"""Whether a deblurrer's receptive field turns with the blur: its long axis and its reach along and across the motion.

Sharp images are blurred by a straight uniform motion of known length and direction; undoing it asks for pixels along
the motion, far away where it is long, and for few across it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.erf import effective_receptive_field
from analysis.field_statistics import Number, mass, spread
from analysis.inputs import single_images
from analysis.making import made_of
from analysis.sensitivity import Network
from evssm.data.kernels import blur, motion_kernel

LENGTHS = (8.0, 16.0, 24.0)
"""Pixels of motion."""

ANGLES = (0.0, 45.0, 90.0, 135.0)
"""Degrees, anticlockwise from the row to the right. They lie evenly: a field that never turns has a mean score of 0."""


@dataclass(frozen=True)
class Alignment:
    """The field of images blurred by one motion, of the mean map over images.

    `axis` is the field's long axis in degrees as `angle` is, `off` the angle between them, 0 to 90, and `score`
    cos(2 off): 1 along the motion, -1 across it. `elongation` is the ratio of the standard deviations along the two
    axes. `along` and `across` are the distances in px, measured along and across the motion, within which 90 % of the
    mass lies; `low` and `high` the least and the largest score of single images. All within the largest disc around
    the query, so that the form of the image gives no direction.
    """

    length: float
    angle: float
    axis: float
    off: float
    score: float
    low: float
    high: float
    elongation: float
    along: float
    across: float


@dataclass(frozen=True, eq=False)
class Alignments:
    """A line for each motion, and how they were made."""

    motions: tuple[Alignment, ...]
    provenance: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line of a table for each motion."""
        return [asdict(motion) for motion in self.motions]

    def scores(self) -> dict[float, float]:
        """Blur length -> mean score over its angles: 0 for a field that does not turn, 1 for one that always lies along
        the motion. The angles must lie evenly in 180 degrees."""
        lengths = dict.fromkeys(motion.length for motion in self.motions)
        return {l: float(np.mean([m.score for m in self.motions if m.length == l])) for l in lengths}


def blur_alignment(
    net: Network,
    sharp: Tensor | Sequence[Tensor],
    *,
    lengths: Sequence[Number] = LENGTHS,
    angles: Sequence[Number] = ANGLES,
    linear: bool = True,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Alignments:
    """How the field of `net` lies for images under straight motions of these lengths and angles.

    `sharp` are `b c h w` or a list of `c h w` of one size; they are blurred as `evssm.data.kernels.blur` does, in
    linear light unless `linear` is false. `options` are those of `effective_receptive_field`. `progress` is called with
    (done, total) motions. A field that is round has no axis: its angle then means little, as `elongation` tells.
    """
    inputs = single_images(sharp)
    found, provenance = [], None
    motions = [(float(length), float(angle)) for length in lengths for angle in angles]
    if not motions:
        raise ValueError("no motions; give one length and one angle or more")
    for done, (length, angle) in enumerate(motions, start=1):
        kernel = motion_kernel(length, angle)
        blurred = [blur(image, kernel, linear=linear) for image in inputs]
        field = effective_receptive_field(net, blurred, **options)
        found.append(aligned(field.map, length, angle, field.per_image))
        provenance = provenance or field.provenance
        if progress is not None:
            progress(done, len(motions))
    asked = {"lengths": [float(l) for l in lengths], "angles": [float(a) for a in angles], "linear": linear}
    made = made_of(net, inputs, trained=options.get("trained"), **asked)
    assert provenance is not None
    return Alignments(tuple(found), {**made, "queries": provenance["queries"], "estimator": provenance["estimator"]})


def aligned(
    field: Float[np.ndarray, "h w"], length: Number, angle: Number, single: Float[np.ndarray, "n h w"] | None = None
) -> Alignment:
    """How one field lies to a motion; `single` are the maps of single images."""
    scores = [_score(one, angle)[2] for one in (field[None] if single is None else single)]
    axis, off, score = _score(field, angle)
    wide = spread(in_disc(field))
    along, across = (reach_along(in_disc(field), angle + turn) for turn in (0.0, 90.0))
    elongation = float(np.sqrt(wide.ratio))
    return Alignment(float(length), float(angle), axis, off, score, min(scores), max(scores), elongation, along, across)


def _score(field: Float[np.ndarray, "h w"], angle: Number) -> tuple[float, float, float]:
    """The long axis, its angle to the motion, and the cosine of twice that."""
    axis = spread(in_disc(field)).angle
    off = abs((axis - angle + 90) % 180 - 90)
    return axis, off, float(np.cos(2 * np.radians(off)))


def in_disc(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The field within the largest disc around the query that lies in the image, zero outside."""
    h, w = field.shape
    y, x = np.ogrid[-(h // 2) : h - h // 2, -(w // 2) : w - w // 2]
    return np.where(np.hypot(y, x) <= (min(h, w) - 1) // 2, field, 0)


def reach_along(field: Float[np.ndarray, "h w"], angle: Number, share: Number = 0.9) -> float:
    """The distance from the query, along a direction and its opposite, within which a share of the mass lies, in px.

    `angle` is in degrees, anticlockwise from the row to the right.
    """
    h, w = field.shape
    y, x = np.mgrid[-(h // 2) : h - h // 2, -(w // 2) : w - w // 2]
    way = np.radians(angle)
    distance = np.abs(x * np.cos(way) - y * np.sin(way)).ravel()  # rows run downwards
    order = np.argsort(distance, kind="stable")
    within = np.cumsum(mass(field).ravel()[order])
    first = int(np.searchsorted(within, share - 1e-12))
    return float(distance[order[min(first, len(order) - 1)]])
