"""DPDNet (Abuolaim and Brown 2020, `Abdullah-Abuolaim/defocus-deblurring-dual-pixel`): a plain U-Net.

"Defocus Deblurring Using Dual-Pixel Data". Nothing is normalised, nothing is global and the image is not added to the
output: what a pixel depends on ends sharply at the U-Net's field.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import initialise_convolutions, pad_to_multiple
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image
from evssm.tf_layers import same

LEVELS = 5


class DPDNet(nn.Module):
    """Restores `b 6 h w` (left, right view) with `dual_pixel`, or `b 3 h w`; the output lies between 0 and 1.

    `width` is the channels at full size, doubled at each of four halvings; `dropout` the share of numbers that training
    leaves out of the two coarsest encoders' maps. Images are RGB here; the published network works on BGR, so that
    channels are turned round on the way in and out. The authors' code has the two views only; for a single image the
    first layer differs.
    """

    adds_input = False
    """Whether the image is added to the output, for those who want to leave it out of a receptive field."""

    def __init__(self, *, width: int = 64, dropout: float = 0.4, dual_pixel: bool = False) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        channels = [6 if dual_pixel else 3, *widths]
        self.encoder = nn.ModuleList(
            nn.Sequential(*pair(channels[i], c), *([nn.Dropout(dropout)] if i >= LEVELS - 2 else []))
            for i, c in enumerate(widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *same(c, c // 2, 2), nn.ReLU()) for c in widths[:0:-1]
        )
        self.decoder = nn.ModuleList(nn.Sequential(*pair(2 * c, c)) for c in widths[-2::-1])
        self.output = nn.Sequential(nn.Conv2d(width, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Sigmoid())
        self.stages = _stages(widths)
        initialise_convolutions(self, partial(nn.init.kaiming_normal_, nonlinearity="relu"))
        initialise_convolutions(self.output[2], nn.init.xavier_uniform_)

    def forward(self, x: Float[Tensor, "b views h w"]) -> Float[Tensor, "b 3 h w"]:
        h, w = x.shape[-2:]
        y = torch.cat([view.flip(1) for view in pad_to_multiple(x, 1 << (LEVELS - 1)).split(3, 1)], 1)
        skips: list[Image] = []
        for i, level in enumerate(self.encoder):
            y = level(self.pool(y) if i else y)
            skips.append(y)
        skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            y = level(torch.cat((skips.pop(), up(y)), 1))
        return self.output(y).flip(1)[..., :h, :w]


def pair(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
    """Two 3 x 3 convolutions, each with ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU()


def _stages(widths: list[int]) -> tuple[Stage, ...]:
    upward = [
        Stage(f"{name}.{i}", c, 1 << (LEVELS - 2 - i))
        for i, c in enumerate(widths[-2::-1])
        for name in ("up", "decoder")
    ]
    return (*(Stage(f"encoder.{i}", c, 1 << i) for i, c in enumerate(widths)), *upward, Stage("output", 3, 1))


_NUMBERED = (
    *(f"encoder.{i}.{layer}" for i in range(LEVELS) for layer in (0, 2)),
    *(name for i in range(LEVELS - 1) for name in (f"up.{i}.2", f"decoder.{i}.0", f"decoder.{i}.2")),
    *("output.0", "output.2"),
)
"""The convolutions in the order in which the authors' code makes them, which Keras numbers from 1."""

NAMING = Naming(
    renames=(
        (r"^(.+)\.(weight|bias)$", lambda found: f"conv2d_{_NUMBERED.index(found[1]) + 1}/{found[2]}"),
        (r"/weight$", "/kernel"),
    ),
    order=tuple(f"conv2d_{i + 1}/{kind}" for i in range(len(_NUMBERED)) for kind in ("kernel", "bias")),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict."""
    width, views = shapes["conv2d_1/kernel"][:2]
    return {"width": width, "dual_pixel": views == 6}
