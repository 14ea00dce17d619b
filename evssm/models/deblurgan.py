"""DeblurGAN's generator (Kupyn et al. 2018, `KupynOrest/DeblurGAN`): residual blocks and instance norms.

The norms bring each channel to its own mean and variance over the whole image, here as in the released code in
evaluation too. So every pixel of the result depends on every pixel of the image, if only a little: a local field on
a low floor.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from evssm.layers import initialise_convolutions, pad_to_multiple
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image

BLOCKS = 9
"""Residual blocks at a quarter of the size; the official keys count them in."""


class DeblurGAN(nn.Module):
    """Deblurs `b 3 h w` in [0, 1]: the image plus half a tanh, cut off at 0 and 1.

    `width` is the channels at full size, doubled at each halving. `convolutions` is 2 per residual block, as in the
    paper and the released weights, or 1, what a refactoring in March 2019 left of them in the official repository.
    `dropout` is the share of numbers left out between the two, in training only: the authors' test script leaves it
    on, so that its results are random. Sides that are no multiples of 4 are reflected first, and the norms count what
    that adds. Raises `ValueError` for other numbers of convolutions.
    """

    def __init__(self, *, width: int = 64, convolutions: int = 2, dropout: float = 0.5) -> None:
        super().__init__()
        if convolutions not in (1, 2):
            raise ValueError(f"a block of DeblurGAN has two convolutions, or one as reduced, not {convolutions}")
        widths = [width, 2 * width, 4 * width]
        self.embed = nn.Sequential(nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, width, 7)))
        self.down = nn.ModuleList(normed(nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)) for c in widths[:2])
        self.trunk = nn.Sequential(*(ResidualBlock(widths[2], convolutions, dropout) for _ in range(BLOCKS)))
        self.up = nn.ModuleList(
            normed(nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)) for c in widths[:0:-1]
        )
        self.output = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())
        self.stages = _stages(widths)
        initialise_convolutions(self, partial(nn.init.normal_, std=0.02))

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        y = image = 2 * pad_to_multiple(x, 4) - 1
        for step in (self.embed, *self.down, self.trunk, *self.up, self.output):
            y = step(y)
        restored = torch.clamp(image + y, -1, 1)
        return (restored[..., :h, :w] + 1) / 2


def _stages(widths: list[int]) -> tuple[Stage, ...]:
    fine, middle, coarse = widths
    return (
        Stage("embed", fine, 1),
        Stage("down.0", middle, 2),
        Stage("down.1", coarse, 4),
        *(Stage(f"trunk.{i}{part}", coarse, 4) for i in range(BLOCKS) for part in (".body", "")),
        Stage("trunk", coarse, 4),
        Stage("up.0", middle, 2),
        Stage("up.1", fine, 1),
        Stage("output", 3, 1),
    )


def normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """A convolution, each channel brought to mean 0 and variance 1 over the map, and ReLU."""
    return nn.Sequential(conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with instance norms, or only the first, added to their input; no ReLU after the sum."""

    def __init__(self, width: int, convolutions: int, dropout: float) -> None:
        super().__init__()

        def convolution() -> tuple[nn.Module, ...]:
            return nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)

        # Without dropout there is no layer of it: the official keys count the layers.
        between = (nn.ReLU(), nn.Dropout(dropout)) if dropout else (nn.ReLU(),)
        if convolutions == 2:
            self.body = nn.Sequential(*convolution(), *between, *convolution())
        else:  # with dropout the second convolution went missing, without it the first with all behind it
            self.body = nn.Sequential(*convolution(), *(between if dropout else ()))

    def forward(self, x: Image) -> Image:
        return x + self.body(x)


NAMING = Naming(
    renames=(
        (r"^embed\.", "model."),
        (r"^down\.0\.0\.", "model.4."),
        (r"^down\.1\.0\.", "model.7."),
        (r"^trunk\.(\d)\.body\.", lambda found: f"model.{int(found[1]) + 10}.conv_block."),
        (r"^up\.0\.0\.", "model.19."),
        (r"^up\.1\.0\.", "model.22."),
        (r"^output\.1\.", "model.26."),
    ),
    # Statistics that old norm layers kept along the way; the official test does not read them.
    unread=r"model\.(\d+|\d+\.conv_block\.\d+)\.(running_mean|running_var|num_batches_tracked)",
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from an official state dict.

    Of the reduced form this is without the share of its dropout, which has no weights.
    """
    second = {key.split(".")[3] for key in shapes if ".conv_block." in key and key.endswith(".bias")} - {"1"}
    return {
        "width": shapes["model.1.weight"][0],
        "convolutions": 2 if second else 1,
        **({"dropout": 0.0} if second == {"5"} else {}),
    }
