"""Questions put to an image-to-image network: arrays in, arrays out; drawing takes arrays and axes.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.activation_figure import activation_panels
    from analysis.activation_plots import draw_activation, draw_query
    from analysis.activations import ScanCache, activation_maps, scan_column, scan_row
    from analysis.artefact_figure import artefact_panels
    from analysis.artefacts import Trace, trace
    from analysis.attribution import Attribution
    from analysis.attribution_figure import attribution_panels, draw_attribution, draw_region
    from analysis.attributions import local_attribution
    from analysis.costs import Cost, cost
    from analysis.erf import effective_receptive_field
    from analysis.field import ERF
    from analysis.image_count import Convergence, convergence
    from analysis.layer_attributions import layer_attribution
    from analysis.order_check import Faithfulness, faithfulness
    from analysis.panels import erf_panels, save_figure
    from analysis.plots import draw_colorbar, draw_erf, draw_radial_profile, draw_signed_erf
    from analysis.randomisation import Randomisation, weight_randomisation
    from analysis.regions import RegionScalar
    from analysis.row_map import ScanRow
    from analysis.summary import summarise
    from analysis.timing import Runtime, runtime

__all__ = [
    "ERF",
    "Attribution",
    "Convergence",
    "Cost",
    "Faithfulness",
    "Randomisation",
    "RegionScalar",
    "Runtime",
    "ScanCache",
    "ScanRow",
    "Trace",
    "activation_maps",
    "activation_panels",
    "artefact_panels",
    "attribution_panels",
    "convergence",
    "cost",
    "draw_activation",
    "draw_attribution",
    "draw_colorbar",
    "draw_erf",
    "draw_query",
    "draw_radial_profile",
    "draw_region",
    "draw_signed_erf",
    "effective_receptive_field",
    "erf_panels",
    "faithfulness",
    "layer_attribution",
    "local_attribution",
    "runtime",
    "save_figure",
    "scan_column",
    "scan_row",
    "summarise",
    "trace",
    "weight_randomisation",
]

_HOMES = {
    "analysis.activation_figure": ("activation_panels",),
    "analysis.activation_plots": ("draw_activation", "draw_query"),
    "analysis.activations": ("ScanCache", "activation_maps", "scan_column", "scan_row"),
    "analysis.artefact_figure": ("artefact_panels",),
    "analysis.artefacts": ("Trace", "trace"),
    "analysis.attribution": ("Attribution",),
    "analysis.attribution_figure": ("attribution_panels", "draw_attribution", "draw_region"),
    "analysis.attributions": ("local_attribution",),
    "analysis.costs": ("Cost", "cost"),
    "analysis.erf": ("effective_receptive_field",),
    "analysis.image_count": ("Convergence", "convergence"),
    "analysis.order_check": ("Faithfulness", "faithfulness"),
    "analysis.field": ("ERF",),
    "analysis.layer_attributions": ("layer_attribution",),
    "analysis.panels": ("erf_panels", "save_figure"),
    "analysis.plots": ("draw_colorbar", "draw_erf", "draw_radial_profile", "draw_signed_erf"),
    "analysis.regions": ("RegionScalar",),
    "analysis.row_map": ("ScanRow",),
    "analysis.randomisation": ("Randomisation", "weight_randomisation"),
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
