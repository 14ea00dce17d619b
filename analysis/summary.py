"""The numbers of a receptive field that stand beside its picture."""

from typing import Any

from analysis.field import ERF

SHARES = (0.5, 0.9, 0.99)
AREAS = (0.2, 0.3, 0.5, 0.99)  # the thresholds that RepLKNet prints (Ding et al. 2022, Table 11)


def summarise(field: ERF, *, beyond: int = 8) -> dict[str, Any]:
    """Radii in px, RepLKNet's area ratios, effective pixels, and asymmetry beyond `beyond` px of the query.

    With two images or more, `interval` holds the 95 % bootstrap intervals over images of the radii and the asymmetry.
    """
    asymmetry = field.asymmetry(beyond)
    numbers: dict[str, Any] = {
        "radius": {f"{share:g}": field.radius(share) for share in SHARES},
        "area_ratio": {f"{t:g}": field.area_ratio(t) for t in AREAS},
        "effective_pixels": field.effective_pixels(),
        f"share_beyond_{beyond}px": field.share_beyond(beyond),
        f"asymmetry_beyond_{beyond}px": asymmetry._asdict(),
    }
    if len(field.mass) > 1:
        numbers["interval"] = {
            **{f"radius_{share:g}": field.interval("radius", share=share) for share in SHARES},
            **{
                name: field.interval(lambda erf, name=name: getattr(erf.asymmetry(beyond), name))
                for name in asymmetry._fields
            },
        }
    return numbers
