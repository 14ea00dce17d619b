"""Parts that two or more networks share. Feature maps are `b c h w`; networks that store them channels-last pay no
copy here."""

from collections.abc import Callable
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evssm.enlarge import enlarge
from evssm.fused import linear, normalise, normalise_beside
from evssm.shapes import Image, Map


def pad_to_multiple(x: Image, multiple: int, mode: str = "reflect") -> Float[Tensor, "b c _ _"]:
    """`x`, extended to the right and at the bottom until both sides are multiples of `multiple`.

    `mode` is "reflect", "constant" (zeros) or "replicate" (the last row and column). A reflection longer than the map
    bounces between its two edges, as `numpy.pad` does, where `torch.nn.functional.pad` would refuse.
    """
    for axis in (-2, -1):
        missing = -x.shape[axis] % multiple
        while missing:
            step = min(missing, x.shape[axis] - 1) if mode == "reflect" else missing
            if step == 0:
                raise ValueError(
                    f"cannot reflect a map of {tuple(x.shape[-2:])} pixels: give both sides two pixels or more"
                )
            x = F.pad(x, (0, step, 0, 0) if axis == -1 else (0, 0, 0, step), mode=mode)
            missing -= step
    return x


def views_and_picture(x: Float[Tensor, "b views h w"]) -> tuple[tuple[Tensor, ...], Float[Tensor, "b 3 h w"]]:
    """The two views of a dual-pixel sensor, none where `x` is a plain image, and the picture that the whole lens takes.

    `x` has 3 channels, 6 (left, right) or 9 (the picture after them). Without it the picture is the mean of the views.
    """
    if x.shape[1] == 3:
        return (), x
    if x.shape[1] not in (6, 9):
        raise ValueError(f"an image has 3 channels and two views 6, or 9 with the picture; not {x.shape[1]}")
    left, right, *picture = x.split(3, dim=1)
    return (left, right), picture[0] if picture else (left + right) / 2


def pointwise(x: Image, conv: nn.Conv2d) -> Float[Tensor, "b _ h w"]:
    """`conv(x)` for a 1 x 1 convolution, as one matrix product over the channels of a channels-last map."""
    return linear(x, conv.weight.flatten(1), conv.bias)


def gated_gelu(gate: Tensor, value: Tensor) -> Tensor:
    """`gelu(gate) * value` with the exact (erf) GELU; only its two inputs are kept for the backward pass."""
    return _GatedGELU.apply(gate, value)


class _GatedGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, value):
        ctx.save_for_backward(gate, value)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gate, value = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad * value, gate), F.gelu(gate).mul_(grad)


class RMSNorm2d(nn.Module):
    """Each pixel's channels divided by their root mean square, then scaled and shifted; no mean is subtracted.

    EVSSM's released code names this layer after a LayerNorm with bias; it is none.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Image, again: list[Tensor] | None = None) -> Image:
        """The normalised map. `again` is given x for all others that want it.

        Their gradients are then added where the norm's own is made, which spares a pass over the map.
        """
        y, x = normalise_beside(x, self.weight, self.bias, self.eps, centred=False)
        if again is not None:
            again.append(x)
        return y


class LayerNorm2d(nn.Module):
    """Each pixel's channels brought to mean 0 and (biased) variance 1, then scaled and shifted (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(
        self,
        x: Image,
        gate: Float[Tensor, "b _ h w"] | None = None,
        *,
        projection: Float[Tensor, "c _"] | None = None,
        output: Float[Tensor, "o c"] | None = None,
    ) -> Map:
        """The normalised map, times the exact GELU of `gate`, or of its product with `projection`, times `output`.

        What is not given is left out.
        """
        return normalise(
            x, self.weight, self.bias, self.eps, centred=True, gate=gate, projection=projection, output=output
        )


class Resize(nn.Module):
    """A map resized bilinearly by `scale` (0.5 or 2), then a 3 x 3 convolution to `out` channels (EVSSM,
    FFTformer)."""

    def __init__(self, width: int, out: int, scale: int | float) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(width, out, 3, padding=1, bias=False)

    def forward(self, x: Image) -> Map:
        if self.scale == 2:
            return enlarge(x, self.conv.weight)
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False))


def initialise_convolutions(net: nn.Module, draw: Callable[[Tensor], object]) -> None:
    """Draws the weights of all convolutions of `net`, transposed ones too, with `draw`; their biases become 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def inverse_softplus_of_log_uniform(*shape: int) -> Tensor:
    """Biases whose softplus is log-uniform in [1e-3, 1e-1], where Mamba starts its steps (Gu & Dao 2023, Sec. 3.6)."""
    step = torch.empty(shape).uniform_(log(1e-3), log(1e-1)).exp().clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))
