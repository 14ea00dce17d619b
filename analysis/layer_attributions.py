"""What a region of the output owes to the feature maps inside a network, as the image lies."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.archive import protect, read_archive, write_archive
from analysis.attributions import region_of, single_image
from analysis.borrow import borrowed
from analysis.regions import Box, RegionScalar
from analysis.sensitivity import INCLUDE, Select, selector_name
from evssm.hooks import matching
from evssm.models.stages import Stage
from evssm.stamp import image_sha256, network_stamp

KINDS: dict[str, str] = {
    "activation": "the feature map itself",
    "gradient": "gradient of the region's number with respect to the feature map",
    "gradient_x_activation": "that gradient times the feature map",
}


@dataclass(frozen=True, eq=False, repr=False)
class LayerMap:
    """One module's map for a region of the output, upright, a pixel being `stride` image px wide; read-only.

    `per_channel` keeps every sign. `box` is the region in the image.
    """

    per_channel: Float[np.ndarray, "c h w"]
    kind: str
    stage: str
    stride: int
    box: Box
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        protect(self, "per_channel")

    def __repr__(self) -> str:
        c, h, w = self.per_channel.shape
        return f"LayerMap({self.stage}, {self.kind}, {c} x {h} x {w}, stride {self.stride})"

    @property
    def map(self) -> Float[np.ndarray, "h w"]:
        """One map of all channels: the sum, sign kept, of contributions; of others the root of the mean square."""
        if self.kind == "gradient_x_activation":
            return self.per_channel.sum(axis=0)
        return np.sqrt(np.square(self.per_channel).mean(axis=0))

    @property
    def untrained(self) -> bool:
        """Whether the network is known to have untrained weights; a picture must say so."""
        return self.provenance.get("trained") is False


def layer_attribution(
    net: nn.Module,
    image: Tensor,
    box: Sequence[int] | str = "centre",
    stages: str | Sequence[str] = "*",
    *,
    kind: str = "gradient_x_activation",
    reduce: str = "grad",
    residual: str = INCLUDE,
    select: Select | None = None,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, LayerMap]:
    """A map for each stage of `net` that matches a pattern (`evssm.hooks.record`), by name, of one `KINDS`.

    By captum's LayerActivation and LayerGradientXActivation, one pass per stage. The region's number is that of
    `RegionScalar`; other arguments are those of `local_attribution`. In a network without biases that scales with its
    input, "gradient_x_activation" sums to the number at every cut through the network (Euler's theorem).

    Raises `LookupError` where no stage matches or a module is not known to be a stage, and `ValueError` for another
    kind and for maps that are not finite.
    """
    from captum.attr import LayerActivation, LayerGradientXActivation  # takes two seconds to import

    if kind not in KINDS:
        raise ValueError(f'no kind "{kind}" of layer map; choose from {", ".join(KINDS)}')
    x = single_image(net, image)
    region = region_of(box, x.shape[-2], x.shape[-1])
    scalar = RegionScalar(net, region, reduce, select, residual)
    chosen = _chosen(net, [stages] if isinstance(stages, str) else stages)
    stamp = {**network_stamp(net), "image": image_sha256(x), "size": list(x.shape[-2:]), "box": list(region)}
    made = {
        **stamp,
        "trained": stamp["trained"] if trained is None else trained,
        "reduce": reduce,
        "residual": residual,
        "select": selector_name(select),
    }
    found = {}
    with borrowed(net):
        for done, stage in enumerate(chosen, start=1):
            module = net.get_submodule(stage.name)
            if kind == "activation":
                method: Any = LayerActivation(scalar, module)
            else:
                method = LayerGradientXActivation(scalar, module, multiply_by_inputs=kind != "gradient")
            values = method.attribute(x.clone().requires_grad_())
            found[stage.name] = _upright(values, stage, kind, region, {**made, "stage": stage.name, "kind": kind})
            if progress is not None:
                progress(done, len(chosen))
    return found


def _chosen(net: nn.Module, patterns: Sequence[str]) -> list[Stage]:
    """The stages that match, in the order of the forward pass."""
    known = {stage.name: stage for stage in getattr(net, "stages", None) or ()}
    names = {name for pattern in patterns for name in matching(net, pattern)}
    if strange := sorted(names - set(known)):
        raise LookupError(
            f"how the output of {strange[0]} lies is not known, since it is no stage of this {type(net).__name__}; "
            "give the network `stages`, a list of evssm.Stage(name, channels, stride)"
        )
    return [stage for name, stage in known.items() if name in names]


def _upright(values: Any, stage: Stage, kind: str, box: Box, made: dict[str, Any]) -> LayerMap:
    """The map as the image lies."""
    if not isinstance(values, Tensor) or values.ndim != 4:
        raise ValueError(f"{stage.name} returns no feature map b c h w, so it has no {kind}")
    if len(values) != 1:
        raise ValueError(f"{stage.name} ran on {len(values)} images, not one; choose a stage around it")
    if not torch.isfinite(values).all():
        raise ValueError(f"the {kind} of {stage.name} is not finite; `evssm trace` finds where that begins")
    upright = stage.frame.inverse(values.detach())[0].contiguous().cpu().double().numpy()
    return LayerMap(upright, kind, stage.name, stage.stride, box, made)


def save_layers(path: str | Path, found: Mapping[str, LayerMap]) -> Path:
    """Write the maps by stage to `path`, an npz without pickles; whole or not at all."""
    facts = {
        name: {"kind": one.kind, "stage": one.stage, "stride": one.stride, "box": one.box, "provenance": one.provenance}
        for name, one in found.items()
    }
    return write_archive(path, "layers", facts, {name: one.per_channel for name, one in found.items()})


def load_layers(path: str | Path) -> dict[str, LayerMap]:
    """The maps that `save_layers` wrote.

    `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content.
    """
    with read_archive(path, "layer maps", "save_layers") as entries:
        facts = json.loads(str(entries["layers"]))
        return {name: LayerMap(entries[name], **{**fact, "box": tuple(fact["box"])}) for name, fact in facts.items()}
