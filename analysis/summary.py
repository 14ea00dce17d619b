"""The numbers of a receptive field that stand beside its picture."""

from collections.abc import Callable
from typing import Any

from analysis.field import ERF

SHARES = (0.5, 0.9, 0.99)
AREAS = (0.2, 0.3, 0.5, 0.99)  # the thresholds that RepLKNet prints (Ding et al. 2022, Table 11)


def summarise(field: ERF, *, beyond: int = 8) -> dict[str, Any]:
    """Radii in px, RepLKNet's area ratios, effective pixels, and asymmetry beyond `beyond` px of the query.

    With two images or more, all with mass out there, `interval` holds the 95 % bootstrap intervals over images of the
    radii and the asymmetry.
    """
    asymmetry = field.asymmetry(beyond)
    numbers: dict[str, Any] = {
        "radius": {f"{share:g}": field.radius(share) for share in SHARES},
        "area_ratio": {f"{t:g}": field.area_ratio(t) for t in AREAS},
        "effective_pixels": field.effective_pixels(),
        f"share_beyond_{beyond}px": field.share_beyond(beyond),
        f"asymmetry_beyond_{beyond}px": asymmetry._asdict(),
    }
    reaching = [field.subset([i]).share_beyond(beyond, "chebyshev") > 0 for i in range(len(field.mass))]
    if len(reaching) > 1 and all(reaching):
        numbers["interval"] = {
            **{f"radius_{share:g}": field.interval("radius", share=share) for share in SHARES},
            **{name: field.interval(_asymmetry(name, beyond)) for name in asymmetry._fields},
        }
    return numbers


def _asymmetry(name: str, beyond: int) -> Callable[[ERF], float]:
    return lambda erf: getattr(erf.asymmetry(beyond), name)
