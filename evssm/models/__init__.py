"""The networks by name: `MODELS` says what each is, `build` makes one."""

from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mixer import SS2D
from evssm.models import evssm
from evssm.models.description import Model, Recipe

_FOUR = partial(SS2D, directions=(IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE))
_STILL = (IDENTITY,)

_EVSSM_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "evssm": ("a scan per block, the map transposed and half-turned in alternation", {}),
    "evssm-no-geot": ("EVSSM w/o F&T: the map is never turned", {"transforms": _STILL}),
    "evssm-no-transpose": ("EVSSM w/o T: half turns only", {"transforms": (IDENTITY, HALF_TURN)}),
    "evssm-no-flip": ("EVSSM w/o F: transposes only", {"transforms": (TRANSPOSE, IDENTITY)}),
    "evssm-four-direction": (
        "EVSSM with four scans per block, summed, in place of the turns",
        {"transforms": _STILL, "mixer": _FOUR},
    ),
    **{
        f"evssm-k{k}": (
            f"EVSSM with a {k} x {k} convolution on the SSM parameters, as the paper describes it",
            {"mixer": partial(SS2D, kernel=(k, k))},
        )
        for k in (3, 5, 7, 9)
    },
}


def _evssm_models() -> dict[str, Model]:
    paper = "Kong et al., Efficient Visual State Space Model for Image Deblurring, CVPR 2025; github.com/kkkls/EVSSM"
    compact = {"width": 16, "depths": (2, 2, 4)}
    return {
        name + suffix: Model(summary + label, paper, evssm.EVSSM, arguments | size, evssm.NAMING, evssm.infer)
        for name, (summary, arguments) in _EVSSM_VARIANTS.items()
        for suffix, label, size in (("", "", {}), ("-compact", "; small, for one machine", compact))
    }


MODELS: dict[str, Model] = _evssm_models()


def build(name: str, **overrides: Any) -> nn.Module:
    """A fresh, untrained network; `forward` takes `b c h w` in [0, 1] with any h, w >= 16 and returns the same size.

    `overrides` replace the arguments of the entry in `MODELS`. The network remembers both in `.recipe`. Raises `ValueError`
    for an unknown name, with the nearest known ones, and for an argument that the network does not have.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3, cutoff=0.4) or sorted(MODELS)[:3]
        raise ValueError(
            f"no network is called {name!r}; near it: {', '.join(near)} (`evssm list` shows all)"
        )
    model = MODELS[name]
    known = set(signature(model.network).parameters)
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    net = model.network(**{**model.arguments, **overrides})
    net.recipe = Recipe(name, overrides)
    net.provenance = None
    return net
