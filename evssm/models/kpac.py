"""KPAC (Son et al. 2021, `HyeongseokSon1/KPAC`): one kernel, applied at five dilations and weighted at every pixel.

"Single Image Defocus Deblurring Using Kernel-Sharing Parallel Atrous Convolutions". Where blurs differ in size alone,
so do the filters that undo them: one kernel serves for all dilations, and attention says how much of each a pixel
takes. A gate from the mean over the whole map is the only thing that is not local.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import initialise_convolutions, pad_to_multiple, views_and_picture
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image, Map
from evssm.tf_layers import same

SLOPE = 0.2
"""Of the leaky ReLU for negative numbers."""

DILATIONS = (1, 2, 3, 4, 5)
BLOCKS = 2


class KPAC(nn.Module):
    """Deblurs `b 3 h w`, or with `dual_pixel` the views `b 6 h w` (left, right); the image is added to the output.

    The blocks work after `levels` halvings, 2 or 3; `width` is the channels at full size and at half, of each
    dilation too. Dual-pixel networks restore the picture of the whole lens: the mean of the views, or what `b 9 h w`
    holds after them; the published one has 3 levels. The network sees images between -1 and 1. Raises `ValueError` for
    other levels.
    """

    adds_input = True
    """Also with two views: then their picture."""

    def __init__(self, *, width: int = 48, levels: int = 3, dual_pixel: bool = False) -> None:
        super().__init__()
        if levels not in (2, 3):
            raise ValueError(f"KPAC halves its maps 2 or 3 times, not {levels}")
        widths = [width, width, 2 * width, 2 * width][: levels + 1]
        coarse = widths[-1]
        self.encoder = nn.ModuleList([activated(6 if dual_pixel else 3, width, 5, then=3)])
        self.encoder.extend(activated(widths[i], c, 3, stride=2, then=3) for i, c in enumerate(widths[1:]))
        self.blocks = nn.ModuleList(SharedKernel(coarse, width) for _ in range(BLOCKS))
        self.fuse = activated((BLOCKS + 1) * coarse, coarse, 3, then=3)
        upward = widths[-2::-1]
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(c_in, c, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE))
            for c_in, c in zip(widths[:0:-1], upward, strict=True)
        )
        self.merge = nn.ModuleList(activated(2 * c, c, 3) for c in upward[:-1])
        self.output = nn.Conv2d(2 * width, 3, 5, padding=2)
        self.stages = _stages(widths, width)
        initialise_convolutions(self, partial(nn.init.normal_, std=0.04))

    def forward(self, x: Float[Tensor, "b views h w"]) -> Float[Tensor, "b 3 h w"]:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, 1 << len(self.up))
        views, picture = views_and_picture(padded)
        y, skips = 2 * (torch.cat(views, dim=1) if views else picture) - 1, []
        for level in self.encoder:
            y = level(y)
            skips.append(y)
        maps = [skips.pop()]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        y = self.fuse(torch.cat(maps, dim=1))
        for i, up in enumerate(self.up):
            y = torch.cat((up(y), skips.pop()), dim=1)
            y = self.merge[i](y) if i < len(self.merge) else self.output(y)
        return (picture + y / 2)[..., :h, :w]


def activated(c_in: int, c_out: int, kernel: int, *, stride: int = 1, then: int = 0) -> nn.Sequential:
    """A convolution with the leaky ReLU; with `then`, another of that kernel after it."""
    second = (*same(c_out, c_out, then), nn.LeakyReLU(SLOPE)) if then else ()
    return nn.Sequential(*same(c_in, c_out, kernel, stride), nn.LeakyReLU(SLOPE), *second)


def _stages(widths: list[int], width: int) -> tuple[Stage, ...]:
    levels, coarse = len(widths) - 1, widths[-1]
    upward = list(enumerate(widths[-2::-1]))
    return (
        *(Stage(f"encoder.{i}", c, 1 << i) for i, c in enumerate(widths)),
        *(
            Stage(f"blocks.{i}{part}", channels, 1 << levels)
            for i in range(BLOCKS)
            for part, channels in ((".attention", len(DILATIONS)), (".dilated", len(DILATIONS) * width), ("", coarse))
        ),
        Stage("fuse", coarse, 1 << levels),
        *(
            Stage(f"{name}.{i}", c, 1 << (levels - 1 - i))
            for i, c in upward
            for name in (("up", "merge") if i < levels - 1 else ("up",))
        ),
        Stage("output", 3, 1),
    )


class SharedKernel(nn.Module):
    """One kernel at all dilations, each pixel's answers weighted by `attention`, each channel's by `gate`, and mixed.

    The weights of the dilations lie between 0 and 1 each; they need not sum to 1.
    """

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        wide, narrow, hidden = 2 * width // 3, width // 3, width // 4
        self.dilated = Dilated(c_in, width)
        self.attention = nn.Sequential(
            *(
                layer
                for c, out in ((c_in, wide), (wide, wide), (wide, narrow), (narrow, narrow))
                for layer in (*same(c, out, 5, dilation=2), nn.LeakyReLU(SLOPE))
            ),
            *same(narrow, len(DILATIONS), 5),
            nn.Sigmoid(),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c_in, hidden, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, width, 1),
            nn.Sigmoid(),
        )
        self.mix = activated(len(DILATIONS) * width, c_in, 3)

    def forward(self, x: Image) -> Map:
        attention, gate = self.attention(x), self.gate(x)
        answers = rearrange(self.dilated(x), "b (dilation c) h w -> b dilation c h w", dilation=len(DILATIONS))
        weighted = answers * attention[:, :, None] * gate[:, None]
        return self.mix(rearrange(weighted, "b dilation c h w -> b (dilation c) h w"))


class Dilated(nn.Module):
    """The answers of one 5 x 5 kernel without bias at each dilation, one dilation after the other."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, width, 5, bias=False)

    def forward(self, x: Image) -> Map:
        answers = [F.conv2d(x, self.conv.weight, padding=2 * step, dilation=step) for step in DILATIONS]
        return F.leaky_relu(torch.cat(answers, dim=1), SLOPE)


NAMING = Naming(
    order=("encoder", "blocks", "fuse", "up.0", "merge.0", "up.1", "merge.1", "up.2", "output"),
    numbered="arr_{}",  # the published file is a list; `numpy.savez(path, *arrays)` gives these names
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official list of weights."""
    width, views = shapes["arr_0"][:2]
    return {"width": width, "levels": 2 if len(shapes) < 62 else 3, "dual_pixel": views == 6}  # 58 or 66 arrays
