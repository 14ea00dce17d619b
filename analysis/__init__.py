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
    from analysis.costs import Cost, cost
    from analysis.erf import effective_receptive_field
    from analysis.field import ERF
    from analysis.growth import Growth, growth_curve
    from analysis.half_planes import HalfPlaneShares, half_plane_shares
    from analysis.horizons import Horizons, horizon_maps
    from analysis.knock_out_table import KnockOuts, knock_out_effects
    from analysis.knock_outs import knocked_out
    from analysis.modes import ModeDifference, mode_difference
    from analysis.panels import erf_panels, save_figure
    from analysis.plots import draw_colorbar, draw_erf, draw_radial_profile, draw_signed_erf
    from analysis.row_map import ScanRow
    from analysis.selection_share import Selection, selection_shares
    from analysis.structural import StructuralField, structural_field
    from analysis.summary import summarise
    from analysis.timing import Runtime, runtime
    from analysis.transfer import Transfer, blur_transfer, transfer_function

__all__ = [
    "ERF",
    "Alignments",
    "Cost",
    "Growth",
    "HalfPlaneShares",
    "Horizons",
    "KnockOuts",
    "ModeDifference",
    "Runtime",
    "ScanCache",
    "ScanRow",
    "Selection",
    "StructuralField",
    "Transfer",
    "activation_maps",
    "activation_panels",
    "blur_alignment",
    "blur_transfer",
    "cost",
    "draw_activation",
    "draw_colorbar",
    "draw_erf",
    "draw_query",
    "draw_radial_profile",
    "draw_signed_erf",
    "effective_receptive_field",
    "erf_panels",
    "growth_curve",
    "half_plane_shares",
    "horizon_maps",
    "knock_out_effects",
    "knocked_out",
    "mode_difference",
    "runtime",
    "save_figure",
    "scan_column",
    "scan_row",
    "selection_shares",
    "structural_field",
    "summarise",
    "transfer_function",
]

_HOMES = {
    "analysis.alignment": (
        "Alignments",
        "blur_alignment",
    ),
    "analysis.growth": (
        "Growth",
        "growth_curve",
    ),
    "analysis.half_planes": (
        "HalfPlaneShares",
        "half_plane_shares",
    ),
    "analysis.horizons": (
        "Horizons",
        "horizon_maps",
    ),
    "analysis.knock_out_table": (
        "KnockOuts",
        "knock_out_effects",
    ),
    "analysis.knock_outs": ("knocked_out",),
    "analysis.modes": (
        "ModeDifference",
        "mode_difference",
    ),
    "analysis.selection_share": (
        "Selection",
        "selection_shares",
    ),
    "analysis.structural": (
        "StructuralField",
        "structural_field",
    ),
    "analysis.transfer": (
        "Transfer",
        "blur_transfer",
        "transfer_function",
    ),
    "analysis.activation_figure": ("activation_panels",),
    "analysis.activation_plots": ("draw_activation", "draw_query"),
    "analysis.activations": ("ScanCache", "activation_maps", "scan_column", "scan_row"),
    "analysis.costs": ("Cost", "cost"),
    "analysis.erf": ("effective_receptive_field",),
    "analysis.field": ("ERF",),
    "analysis.panels": ("erf_panels", "save_figure"),
    "analysis.plots": ("draw_colorbar", "draw_erf", "draw_radial_profile", "draw_signed_erf"),
    "analysis.row_map": ("ScanRow",),
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
