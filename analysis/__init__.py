"""Questions put to an image-to-image network: arrays in, arrays out; drawing takes arrays and axes.

Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.activation_figure import activation_panels
    from analysis.activation_plots import draw_activation, draw_query
    from analysis.activations import ScanCache, activation_maps, scan_column, scan_row
    from analysis.alignment import Alignments, blur_alignment
    from analysis.artefact_figure import artefact_panels
    from analysis.artefacts import Trace, trace
    from analysis.attribution import Attribution
    from analysis.attribution_figure import attribution_panels, draw_attribution, draw_region
    from analysis.attribution_verdict import check_attributions, check_layers
    from analysis.attributions import local_attribution
    from analysis.comparison import Comparison, restore
    from analysis.comparison_figure import comparison_panels
    from analysis.costs import Cost, cost
    from analysis.erf import effective_receptive_field
    from analysis.explorer import Explorer
    from analysis.field import ERF
    from analysis.growth import Growth, growth_curve
    from analysis.half_planes import HalfPlaneShares, half_plane_shares
    from analysis.horizons import Horizons, horizon_maps
    from analysis.image_count import Convergence, convergence
    from analysis.interventions import CausalEffects, causal_effects
    from analysis.knock_out_table import KnockOuts, knock_out_effects
    from analysis.knock_outs import knocked_out
    from analysis.layer_attributions import layer_attribution
    from analysis.layer_figure import layer_panels
    from analysis.map_verdict import MapVerdict, check_field, check_rows
    from analysis.modes import ModeDifference, mode_difference
    from analysis.order_check import Faithfulness, faithfulness
    from analysis.panels import erf_panels, save_figure
    from analysis.plots import draw_colorbar, draw_erf, draw_radial_profile, draw_signed_erf
    from analysis.randomisation import Randomisation, weight_randomisation
    from analysis.regions import RegionScalar
    from analysis.row_map import ScanRow
    from analysis.selection_share import Selection, selection_shares
    from analysis.structural import StructuralField, structural_field
    from analysis.summary import summarise
    from analysis.timing import Runtime, runtime
    from analysis.transfer import Transfer, blur_transfer, transfer_function

__all__ = [
    "ERF",
    "Alignments",
    "Attribution",
    "CausalEffects",
    "Comparison",
    "Convergence",
    "Cost",
    "Explorer",
    "Faithfulness",
    "Growth",
    "HalfPlaneShares",
    "Horizons",
    "KnockOuts",
    "MapVerdict",
    "ModeDifference",
    "Randomisation",
    "RegionScalar",
    "Runtime",
    "ScanCache",
    "ScanRow",
    "Selection",
    "StructuralField",
    "Trace",
    "Transfer",
    "activation_maps",
    "activation_panels",
    "artefact_panels",
    "attribution_panels",
    "blur_alignment",
    "blur_transfer",
    "causal_effects",
    "check_attributions",
    "check_field",
    "check_layers",
    "check_rows",
    "comparison_panels",
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
    "growth_curve",
    "half_plane_shares",
    "horizon_maps",
    "knock_out_effects",
    "knocked_out",
    "layer_attribution",
    "layer_panels",
    "local_attribution",
    "mode_difference",
    "restore",
    "runtime",
    "save_figure",
    "scan_column",
    "scan_row",
    "selection_shares",
    "structural_field",
    "summarise",
    "trace",
    "transfer_function",
    "weight_randomisation",
]

_HOMES = {
    "analysis.activation_figure": ("activation_panels",),
    "analysis.activation_plots": ("draw_activation", "draw_query"),
    "analysis.activations": ("ScanCache", "activation_maps", "scan_column", "scan_row"),
    "analysis.alignment": ("Alignments", "blur_alignment"),
    "analysis.artefact_figure": ("artefact_panels",),
    "analysis.artefacts": ("Trace", "trace"),
    "analysis.attribution": ("Attribution",),
    "analysis.attribution_figure": ("attribution_panels", "draw_attribution", "draw_region"),
    "analysis.attribution_verdict": ("check_attributions", "check_layers"),
    "analysis.attributions": ("local_attribution",),
    "analysis.comparison": ("Comparison", "restore"),
    "analysis.comparison_figure": ("comparison_panels",),
    "analysis.costs": ("Cost", "cost"),
    "analysis.erf": ("effective_receptive_field",),
    "analysis.explorer": ("Explorer",),
    "analysis.field": ("ERF",),
    "analysis.growth": ("Growth", "growth_curve"),
    "analysis.half_planes": ("HalfPlaneShares", "half_plane_shares"),
    "analysis.horizons": ("Horizons", "horizon_maps"),
    "analysis.image_count": ("Convergence", "convergence"),
    "analysis.interventions": ("CausalEffects", "causal_effects"),
    "analysis.knock_out_table": ("KnockOuts", "knock_out_effects"),
    "analysis.knock_outs": ("knocked_out",),
    "analysis.layer_attributions": ("layer_attribution",),
    "analysis.layer_figure": ("layer_panels",),
    "analysis.map_verdict": ("MapVerdict", "check_field", "check_rows"),
    "analysis.modes": ("ModeDifference", "mode_difference"),
    "analysis.order_check": ("Faithfulness", "faithfulness"),
    "analysis.panels": ("erf_panels", "save_figure"),
    "analysis.plots": ("draw_colorbar", "draw_erf", "draw_radial_profile", "draw_signed_erf"),
    "analysis.randomisation": ("Randomisation", "weight_randomisation"),
    "analysis.regions": ("RegionScalar",),
    "analysis.row_map": ("ScanRow",),
    "analysis.selection_share": ("Selection", "selection_shares"),
    "analysis.structural": ("StructuralField", "structural_field"),
    "analysis.summary": ("summarise",),
    "analysis.timing": ("Runtime", "runtime"),
    "analysis.transfer": ("Transfer", "blur_transfer", "transfer_function"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
