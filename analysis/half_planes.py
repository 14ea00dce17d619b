"""On which sides of the query a network sees beyond its local zone: the four half-planes that its scans reach.

Convolutions see a little of every side. Two ways leave them out: pixels up to some distance from the query, or what the
same network sees with every scan replaced by its skip (Kong et al. 2025, Figs. 5 and 6, show fields of the whole).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.knock_outs import knocked_out, parts_of
from analysis.sensitivity import Network

SIDES = ("up", "down", "left", "right", "vertical", "horizontal", "raster")


@dataclass(frozen=True, eq=False)
class HalfPlaneShares:
    """The fields whose sides are compared, by name, and the half-width of the local zone in px.

    "whole field" is the network's, "beyond N px" the same outside its local zone, and "added by scans", where the scans
    are known, what is left of it when the field without scans is taken off.
    """

    fields: dict[str, ERF]
    beyond: int

    @property
    def provenance(self) -> dict[str, Any]:
        """How the field of the whole network was made."""
        return self.fields["whole field"].provenance

    def rows(self) -> list[dict[str, Any]]:
        """A line for each field: the shares of its mass, contrasts, and their 95 % intervals over images.

        "mass" is how much of the whole field it has. Without mass on the sides of some image, or with a single image,
        an interval is not-a-number.
        """
        whole = self.fields["whole field"].mass.mean()
        rows = []
        for name, field in self.fields.items():
            zone = self._zone(name)
            mass = field.share_beyond(zone, "chebyshev") if zone else float(field.mass.mean() / whole)
            row: dict[str, Any] = {"field": name, "mass": mass}
            for side in SIDES:
                measure = _measure(side, zone)
                row[side] = measure(field)
                row[f"{side} low"], row[f"{side} high"] = _interval(field, measure)
            rows.append(row)
        return rows

    def _zone(self, name: str) -> int:
        return self.beyond if name.startswith("beyond") else 0


def half_plane_shares(
    net: Network,
    images: Tensor | Sequence[Tensor],
    *,
    beyond: int = 8,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> HalfPlaneShares:
    """The four half-plane shares of a network's receptive field, with nothing and with its local zone left out.

    The local zone is the pixels up to `beyond` px away in row and column; where the network's scans are known also, in
    another line, the field that is left without them. `options` are those of `effective_receptive_field`; the estimator
    may not be "signed". `progress` is called with (done, total) vector-Jacobian products.
    """
    if options.get("estimator") == "signed":
        raise ValueError('half-plane shares are shares of mass; choose an estimator without signs, such as "rss"')
    scans = "scan" in parts_of(net)
    tick = _halved(progress) if scans and progress is not None else (progress, progress)
    field = effective_receptive_field(net, images, progress=tick[0], **options)
    fields = {"whole field": field, f"beyond {beyond} px": field}
    if scans:
        with knocked_out(net, "scan"):
            local = effective_receptive_field(net, images, progress=tick[1], **options)
        fields["added by scans"] = beyond_local(field, local)
    return HalfPlaneShares(fields, beyond)


def beyond_local(field: ERF, local: ERF) -> ERF:
    """The part of `field` that `local`, a field of the same images in the same units, does not have.

    Pixel by pixel in units of output per input; where `local` is larger, nothing is left. Raises `ValueError` for
    fields of different images or queries, and where nothing at all is left of an image.
    """
    for key in ("images", "queries", "estimator", "residual", "size"):
        if field.provenance.get(key) != local.provenance.get(key):
            raise ValueError(f"fields that differ in {key} cannot be subtracted; compute both from the same question")
    raw, near = (f.per_image * f.mass[:, None, None] for f in (field, local))
    left = np.maximum(np.abs(raw) - np.abs(near), 0)
    mass = left.sum(axis=(1, 2))
    if not mass.all():
        raise ValueError("nothing is left of an image's field: without scans the network sees as much as with them")
    made = {
        **field.provenance,
        "left out": local.provenance.get("network"),
        "left out weights": local.provenance.get("weights"),
    }
    return replace(field, per_image=left / mass[:, None, None], mass=mass, provenance=made)


def _measure(side: str, beyond: int) -> Callable[[ERF], float]:
    def measure(field: ERF) -> float:
        shares = {**field.half_planes(beyond)._asdict(), **field.asymmetry(beyond)._asdict()}
        return float(shares[side])

    return measure


def _interval(field: ERF, measure: Callable[[ERF], float]) -> tuple[float, float]:
    numbers = [measure(field.subset([i])) for i in range(len(field.mass))]
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        return float("nan"), float("nan")
    return field.interval(measure, n=200)


def _halved(
    progress: Callable[[int, int], object],
) -> tuple[Callable[[int, int], object], Callable[[int, int], object]]:
    """Progress of the first and of the second of two equal tasks."""
    return lambda done, total: progress(done, 2 * total), lambda done, total: progress(total + done, 2 * total)
