"""Questions put to an image-to-image network: arrays in, arrays out; drawing takes arrays and axes.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.costs import Cost, cost
    from analysis.erf import effective_receptive_field
    from analysis.field import ERF
    from analysis.panels import erf_panels, save_figure
    from analysis.plots import draw_colorbar, draw_erf, draw_radial_profile, draw_signed_erf
    from analysis.summary import summarise
    from analysis.timing import Runtime, runtime

__all__ = [
    "ERF",
    "Cost",
    "Runtime",
    "cost",
    "draw_colorbar",
    "draw_erf",
    "draw_radial_profile",
    "draw_signed_erf",
    "effective_receptive_field",
    "erf_panels",
    "runtime",
    "save_figure",
    "summarise",
]

_HOMES = {
    "analysis.costs": ("Cost", "cost"),
    "analysis.erf": ("effective_receptive_field",),
    "analysis.field": ("ERF",),
    "analysis.panels": ("erf_panels", "save_figure"),
    "analysis.plots": ("draw_colorbar", "draw_erf", "draw_radial_profile", "draw_signed_erf"),
    "analysis.timing": ("Runtime", "runtime"),
    "analysis.summary": ("summarise",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
