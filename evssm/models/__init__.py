"""The networks by name: `MODELS` says what each is, `build` makes one."""

from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.models import deblurgan, dpdnet, evssm, fftformer, ifan, kpac, mimo_unet, nafnet, restormer, srn, stripformer
from evssm.models.description import Model, Recipe

_RELEASED = ("evssm", "evssm-no-geot", "evssm-no-transpose", "evssm-no-flip")
"""The variants that have the parameters of the released network."""

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


_MAMBA2: dict[str, tuple[str, dict[str, Any]]] = {
    "evssm2": ("EVSSM with Mamba-2 in place of its SSM branch", {"mixer": Mamba2}),
    "evssm2-no-geot": ("EVSSM2 w/o GeoT: the map is never turned", {"mixer": Mamba2, "transforms": _STILL}),
}
"""The paper's Table 9 gives EVSSM2 24 M parameters and 148 G operations, and no settings. Mamba2's defaults (expand 4,
96 states, heads of 64 channels, one group; the EDFFN stays) make 24,000,516 parameters. At 256 x 256 its convolutions
and linear layers take 180.2 G multiply-adds; without Mamba-2's own convolution and output projection, which a counter
would miss if it could not look into a fused kernel (a guess), 149.2 G. No setting has both published numbers when
everything is counted: 24 M parameters, each used at every pixel of its level, take at least 174 G."""

_NAFNET = "Chen et al., Simple Baselines for Image Restoration, ECCV 2022; github.com/megvii-research/NAFNet"
_MIMO = "Cho et al., Rethinking Coarse-to-Fine Approach in Image Deblurring, ICCV 2021; github.com/chosj95/MIMO-UNet"

_RESTORMER = (
    "Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration, CVPR 2022; "
    "github.com/swz30/Restormer"
)
_FFTFORMER = (
    "Kong et al., Efficient Frequency Domain-based Transformers for High-Quality Image Deblurring, CVPR 2023; "
    "github.com/kkkls/FFTformer"
)
_STRIPFORMER = (
    "Tsai et al., Stripformer: Strip Transformer for Fast Image Deblurring, ECCV 2022; "
    "github.com/pp00704831/Stripformer-ECCV-2022-"
)

_DEBLURGAN = (
    "Kupyn et al., DeblurGAN: Blind Motion Deblurring Using Conditional Adversarial Networks, CVPR 2018; "
    "github.com/KupynOrest/DeblurGAN"
)
_IFAN = (
    "Lee et al., Iterative Filter Adaptive Network for Single Image Defocus Deblurring, CVPR 2021; "
    "github.com/codeslake/IFAN"
)
_DPDNET = (
    "Abuolaim and Brown, Defocus Deblurring Using Dual-Pixel Data, ECCV 2020; "
    "github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel"
)
_SRN = "Tao et al., Scale-recurrent Network for Deep Image Deblurring, CVPR 2018; github.com/jiangsutx/SRN-Deblur"
_KPAC = (
    "Son et al., Single Image Defocus Deblurring Using Kernel-Sharing Parallel Atrous Convolutions, ICCV 2021; "
    "github.com/HyeongseokSon1/KPAC"
)

_BASELINES: dict[str, Model] = {
    "nafnet": Model("gated convolutions without activations", _NAFNET, nafnet.NAFNet, {}, nafnet.NAMING, nafnet.infer),
    "nafnet-32": Model("NAFNet of half the width", _NAFNET, nafnet.NAFNet, {"width": 32}, nafnet.NAMING, nafnet.infer),
    "mimo-unet": Model(
        "residual blocks at three scales, each with its own input and output",
        _MIMO,
        mimo_unet.MIMOUNet,
        {"residual_blocks": 8, "dropout": 0.0},
        mimo_unet.NAMING,
        mimo_unet.infer,
    ),
    "mimo-unet-plus": Model(
        "MIMO-UNet with 20 residual blocks a stage", _MIMO, mimo_unet.MIMOUNet, {}, mimo_unet.NAMING, mimo_unet.infer
    ),
    "restormer": Model(
        "attention between channels, over the whole image",
        _RESTORMER,
        restormer.Restormer,
        {},
        restormer.NAMING,
        restormer.infer,
    ),
    "restormer-dual-pixel": Model(
        "Restormer for the two views of a dual-pixel sensor (takes b 6 h w)",
        _RESTORMER,
        restormer.Restormer,
        {"dual_pixel": True},
        restormer.NAMING,
        restormer.infer,
    ),
    "fftformer": Model(
        "attention as a product of patch spectra, in the decoder",
        _FFTFORMER,
        fftformer.FFTformer,
        {},
        fftformer.NAMING,
        fftformer.infer,
    ),
    "stripformer": Model(
        "attention within and between rows and columns",
        _STRIPFORMER,
        stripformer.Stripformer,
        {},
        stripformer.NAMING,
        stripformer.infer,
    ),
    "deblurgan": Model(
        "residual blocks with instance norms, trained against a critic",
        _DEBLURGAN,
        deblurgan.DeblurGAN,
        {},
        deblurgan.NAMING,
        deblurgan.infer,
    ),
    "srn": Model("one network at three scales, coarse to fine", _SRN, srn.SRN, {}, srn.NAMING, srn.infer),
    "srn-lstm": Model(
        "SRN with a state passed from scale to scale, each color alone, as in the paper",
        _SRN,
        srn.SRN,
        {"lstm": True, "separate": True},
        srn.NAMING,
        srn.infer,
    ),
    "ifan": Model(
        "a chain of filters predicted for every pixel, for defocus", _IFAN, ifan.IFAN, {}, ifan.NAMING, ifan.infer
    ),
    "ifan-dual-pixel": Model(
        "IFAN for the two views of a dual-pixel sensor (takes b 6 h w)",
        _IFAN,
        ifan.IFAN,
        {"dual_pixel": True},
        ifan.NAMING,
        ifan.infer,
    ),
    **{
        name: Model(summary, _KPAC, kpac.KPAC, arguments, kpac.NAMING, kpac.infer)
        for name, summary, arguments in (
            ("kpac", "one kernel at five dilations, weighted at every pixel, for defocus; three levels", {}),
            ("kpac-two-level", "KPAC at a quarter of the size instead of an eighth", {"levels": 2}),
            (
                "kpac-dual-pixel",
                "KPAC for the two views of a dual-pixel sensor (takes b 6 h w)",
                {"dual_pixel": True},
            ),
        )
    },
    "dpdnet": Model(
        "a plain U-Net, for defocus in a single image", _DPDNET, dpdnet.DPDNet, {}, dpdnet.NAMING, dpdnet.infer
    ),
    "dpdnet-dual-pixel": Model(
        "DPDNet for the two views of a dual-pixel sensor (takes b 6 h w), as it was published",
        _DPDNET,
        dpdnet.DPDNet,
        {"dual_pixel": True},
        dpdnet.NAMING,
        dpdnet.infer,
    ),
}

_SMALL_MAMBA2 = partial(Mamba2, state=16, head=16, expand=2)

_CROP = 64
"""Edge, in pixels, of the crops that the small versions are trained on; test-time windows are as wide."""

_SMALL_EVSSM = {"width": 16, "depths": (2, 2, 2), "ffn_expansion": 2, "windows": (_CROP, _CROP // 2, _CROP // 4)}

_COMPACT: dict[str, dict[str, Any]] = {
    "evssm": _SMALL_EVSSM,
    "evssm-four-direction": {**_SMALL_EVSSM, "depths": (1, 1, 2)},  # four scans cost more: fewer blocks
    "evssm-k9": {**_SMALL_EVSSM, "ffn_expansion": 1.75},  # ... and so do 81 taps
    "evssm2": {**_SMALL_EVSSM, "mixer": _SMALL_MAMBA2},
    "evssm2-no-geot": {**_SMALL_EVSSM, "mixer": _SMALL_MAMBA2},
    "nafnet": {"width": 8, "encoder_depths": (12, 8, 4, 2), "decoder_depths": (1, 1, 8, 12), "crop": _CROP},
    "nafnet-32": {"width": 6, "encoder_depths": (1, 1, 1, 6), "crop": _CROP},
    "mimo-unet": {"width": 10, "residual_blocks": 4},
    "mimo-unet-plus": {"width": 8, "residual_blocks": 7},
    "restormer": {"width": 10, "depths": (1, 2, 1, 1), "refinement": 4},
    "restormer-dual-pixel": {"width": 10, "depths": (1, 2, 1, 1), "refinement": 4},
    "fftformer": {"width": 14, "depths": (1, 2, 2), "refinement": 1, "ffn_expansion": 2.5},
    "stripformer": {"widths": (12, 32, 80), "decoder_width": 32, "trunk": 3, "decoder": 1, "head": 8},
    "deblurgan": {"width": 12},
    "srn": {"width": 7},
    "srn-lstm": {"width": 5},  # three times the work: red, green and blue go through one by one
    "ifan": {"width": 6},
    "ifan-dual-pixel": {"width": 6},
    "kpac": {"width": 21},
    "kpac-two-level": {"width": 24},
    "kpac-dual-pixel": {"width": 21},
    "dpdnet": {"width": 7},
    "dpdnet-dual-pixel": {"width": 7},
}
"""What the small versions have otherwise. Inside an ablation of EVSSM, parameters and operations are within 10 % of
each other. The baselines' parameters are within 10 % of EVSSM's and their multiply-adds in convolutions and linear
layers within 20 %, but for NAFNet: five levels at 0.4 million parameters leave it with less than half of them, although
most blocks were moved to the upper levels. The older systems have EVSSM's parameters within 10 % and the multiply-adds
that follow from them; SRN, which runs its weights three times, has EVSSM's multiply-adds and fewer parameters."""


def _evssm_models() -> dict[str, Model]:
    paper = "Kong et al., Efficient Visual State Space Model for Image Deblurring, CVPR 2025; github.com/kkkls/EVSSM"
    return {
        name: Model(summary, paper, evssm.EVSSM, arguments, evssm.NAMING if name in _RELEASED else None, evssm.infer)
        for name, (summary, arguments) in {**_EVSSM_VARIANTS, **_MAMBA2}.items()
    }


def _with_compact(models: dict[str, Model]) -> dict[str, Model]:
    """The networks, each followed by its small version."""
    return {
        name + suffix: replace(
            model, summary=model.summary + label, arguments={**model.arguments, **(_compact(name) if suffix else {})}
        )
        for name, model in models.items()
        for suffix, label in (("", ""), ("-compact", "; small, for one machine"))
    }


def _compact(name: str) -> dict[str, Any]:
    """The arguments of the small version: every level and kind of layer, about half a million parameters."""
    return _COMPACT[name] if name in _COMPACT else _COMPACT["evssm"]


MODELS: dict[str, Model] = _with_compact({**_evssm_models(), **_BASELINES})


def build(name: str, **overrides: Any) -> nn.Module:
    """A fresh, untrained network: `b c h w` in [0, 1], with any h, w >= 16, to an image of the same size.

    `overrides` replace the arguments of the entry in `MODELS`. The network remembers both in `.recipe`. Raises
    `ValueError` for an unknown name, with the nearest known ones, and for an argument that the network does not have.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3, cutoff=0.4) or sorted(MODELS)[:3]
        raise ValueError(f"no network is called {name!r}; near it: {', '.join(near)} (`evssm list` shows all)")
    model = MODELS[name]
    known = set(signature(model.network).parameters)
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{name} has no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    net: Any = model.network(**{**model.arguments, **overrides})
    net.recipe = Recipe(name, overrides)
    net.provenance = None
    return net
