"""Networks, scans, weights and hooks for looking inside EVSSM and its deblurring baselines.

Glossary of axes and letters, the same everywhere: images and feature maps are `b c h w`, RGB in [0, 1], pixel
positions `(row, column)`; a scan runs over `l = h w` steps with `d` inner channels of `n` states each, and its
tensors carry the field's letters: values `u`, steps `delta`, transition `A`, input and output weights `B` and `C`,
skip `D`, state `h`, output `y` (Gu & Dao 2023). A *frame* is the symmetry of the square (`D4`) under which a map is
stored.

Names are imported when they are first used, so that `import evssm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evssm.geometry import D4
    from evssm.hooks import edit, record
    from evssm.metrics import Protocol, psnr, ssim
    from evssm.models import MODELS, build
    from evssm.models.stages import Stage, stages
    from evssm.scan import scan_backends, selective_scan
    from evssm.ssd import ssd_scan
    from evssm.weights import from_official, load, save, to_official

__all__ = [
    "D4",
    "MODELS",
    "Protocol",
    "Stage",
    "build",
    "edit",
    "from_official",
    "load",
    "psnr",
    "record",
    "save",
    "scan_backends",
    "selective_scan",
    "ssd_scan",
    "ssim",
    "stages",
    "to_official",
]

_HOMES = {
    "evssm.geometry": ("D4",),
    "evssm.hooks": ("edit", "record"),
    "evssm.metrics": ("Protocol", "psnr", "ssim"),
    "evssm.models": ("MODELS", "build"),
    "evssm.models.stages": ("Stage", "stages"),
    "evssm.scan": ("scan_backends", "selective_scan"),
    "evssm.ssd": ("ssd_scan",),
    "evssm.weights": ("from_official", "load", "save", "to_official"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'evssm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
