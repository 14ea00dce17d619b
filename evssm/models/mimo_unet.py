"""MIMO-UNet: one U-Net for three scales of the image (Cho et al. 2021, `chosj95/MIMO-UNet`).

"Rethinking Coarse-to-Fine Approach in Single Image Deblurring": the blurred image goes in at three scales and
comes out restored at three scales. MIMO-UNet has 8 residual blocks per level; MIMO-UNet+ has 20, and leaves
out channels of the fused maps in training.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import pad_to_multiple
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image

LEVELS = 3


class MIMOUNet(nn.Module):
    """Deblurs `b 3 h w`; `pyramid` gives the restored image at a quarter and at half the size too.

    `residual_blocks` are those of each encoder and each decoder, `dropout` is the share of the fused maps'
    channels that training leaves out (0 in MIMO-UNet), `width` the channels at full size, doubled at each
    halving. Raises `ValueError` for an odd width.
    """

    def __init__(self, *, residual_blocks: int = 20, dropout: float = 0.1, width: int = 32) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"MIMO-UNet needs an even number of channels as its width, not {width}; try 32")
        widths = [width << level for level in range(LEVELS)]
        coarser, upward = widths[1:], widths[::-1]
        self.down = nn.ModuleList([convolution(3, width, 3), *(convolution(c // 2, c, 3, stride=2) for c in coarser)])
        self.context = nn.ModuleList(map(Context, coarser))
        self.attend = nn.ModuleList(map(Attend, coarser))
        self.encoder = nn.ModuleList(residual_level(c, residual_blocks) for c in widths)
        self.fuse = nn.ModuleList(Fuse(sum(widths), c) for c in widths[:-1])
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1), nn.ReLU()) for c in upward[:-1]
        )
        self.merge = nn.ModuleList(convolution(2 * c, c, 1) for c in upward[1:])
        self.decoder = nn.ModuleList(residual_level(c, residual_blocks) for c in upward)
        self.output = nn.ModuleList(nn.Conv2d(c, 3, 3, padding=1) for c in upward)
        self.stages = tuple(self._stages(widths, residual_blocks))

    def forward(self, x: Image) -> Image:
        return self.pyramid(x)[-1]

    def pyramid(
        self, x: Image
    ) -> tuple[Float[Tensor, "b c h_quarter w_quarter"], Float[Tensor, "b c h_half w_half"], Image]:
        """The restored image at a quarter, at half and at full size, sides rounded up; all are trained."""
        h, w = x.shape[-2:]
        images = [pad_to_multiple(x, 2 ** (LEVELS - 1))]
        while len(images) < LEVELS:
            images.append(nearest(images[-1], 0.5))
        quarter, half, full = self._decode(self._encode(images), images)
        return (
            quarter[..., : -(-h // 4), : -(-w // 4)],
            half[..., : -(-h // 2), : -(-w // 2)],
            full[..., :h, :w],
        )

    def _encode(self, images: list[Tensor]) -> list[Tensor]:
        """The encoders' maps, finest first; all but the first see their own scale of the image too."""
        maps: list[Tensor] = []
        for level, image in enumerate(images):
            y = self.down[level](maps[-1] if maps else image)
            if level:
                y = self.attend[level - 1](y, self.context[level - 1](image))
            maps.append(self.encoder[level](y))
        return maps

    def _decode(self, maps: list[Tensor], images: list[Tensor]) -> list[Tensor]:
        """The restored images, coarsest first; all but the first see the encoders of all levels."""
        y, restored = maps[-1], []
        for step, level in enumerate(reversed(range(LEVELS))):
            if step:
                scaled = [nearest(skip, 2.0 ** (own - level)) for own, skip in enumerate(maps)]
                fused = self.dropout(self.fuse[level](*scaled))
                y = self.merge[step - 1](torch.cat((self.up[step - 1](y), fused), dim=1))
            y = self.decoder[step](y)
            restored.append(self.output[step](y) + images[level])
        return restored

    @staticmethod
    def _stages(widths: list[int], depth: int) -> list[Stage]:
        found: list[Stage] = []

        def add(level: int, *names: str) -> None:
            found.extend(Stage(name, widths[level], 2**level) for name in names)

        for level in range(LEVELS):
            add(level, f"down.{level}")
            if level:
                add(level, f"context.{level - 1}", f"attend.{level - 1}")
            add(level, *(f"encoder.{level}.{block}" for block in range(depth)))
        for step, level in enumerate(reversed(range(LEVELS))):
            if step:
                add(level, f"fuse.{level}", f"up.{step - 1}", f"merge.{step - 1}")
            add(level, *(f"decoder.{step}.{block}" for block in range(depth)))
            found.append(Stage(f"output.{step}", 3, 2**level))
        return found


def nearest(x: Image, scale: float) -> Float[Tensor, "b c h1 w1"]:
    """The map resized by a power of two: half keeps the even rows and columns, double repeats pixels."""
    return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="nearest")


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (but for the stride), and ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2), nn.ReLU())


def residual_level(width: int, depth: int) -> nn.Sequential:
    """One encoder or decoder."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, added to their input; nothing cuts off the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width, 3)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Image) -> Image:
        return x + self.second(self.first(x))


class Context(nn.Module):
    """Shallow features of a smaller image, the image among them (the paper's SCM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, width // 4, 3),
            convolution(width // 4, width // 2, 1),
            convolution(width // 2, width // 2, 3),
            convolution(width // 2, width - 3, 1),
        )
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Image:
        return self.project(torch.cat((image, self.features(image)), dim=1))


class Attend(nn.Module):
    """The features, corrected by their product with the context (the paper's FAM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Image, context: Image) -> Image:
        return features + self.merge(features * context)


class Fuse(nn.Module):
    """One map from the maps of all levels, brought to one size (the paper's AFF)."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.mix = convolution(c_in, width, 1)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, *maps: Float[Tensor, "b _ h w"]) -> Image:
        return self.smooth(self.mix(torch.cat(maps, dim=1)))


NAMING = Naming(
    renames=(
        (r"^encoder\.", "Encoder."),
        (r"^decoder\.", "Decoder."),
        (r"^(Encoder|Decoder)\.(\d)\.(\d+)\.first\.0\.", r"\1.\2.layers.\3.main.0.main.0."),
        (r"^(Encoder|Decoder)\.(\d)\.(\d+)\.second\.", r"\1.\2.layers.\3.main.1.main.0."),
        (r"^down\.(\d)\.0\.", r"feat_extract.\1.main.0."),
        (r"^up\.0\.0\.", "feat_extract.3.main.0."),
        (r"^up\.1\.0\.", "feat_extract.4.main.0."),
        (r"^output\.2\.", "feat_extract.5.main.0."),
        (r"^output\.(\d)\.", r"ConvsOut.\1.main.0."),
        (r"^merge\.(\d)\.0\.", r"Convs.\1.main.0."),
        (r"^fuse\.(\d)\.mix\.0\.", r"AFFs.\1.conv.0.main.0."),
        (r"^fuse\.(\d)\.smooth\.", r"AFFs.\1.conv.1.main.0."),
        # FAM and SCM are counted from the coarsest level there.
        (r"^attend\.0\.merge\.", "FAM2.merge.main.0."),
        (r"^attend\.1\.merge\.", "FAM1.merge.main.0."),
        (r"^context\.0\.", "SCM2."),
        (r"^context\.1\.", "SCM1."),
        (r"^(SCM\d)\.features\.(\d)\.0\.", r"\1.main.\2.main.0."),
        (r"^(SCM\d)\.project\.", r"\1.conv.main.0."),
    ),
    order=("Encoder", "feat_extract", "Decoder", "Convs", "ConvsOut", "AFFs", "FAM1", "SCM1", "FAM2", "SCM2"),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The width and the residual blocks of the MIMO-UNet whose official state dict has these shapes."""
    first = "Encoder.0.layers."
    return {
        "residual_blocks": sum(key.startswith(first) and key.endswith(".main.0.main.0.bias") for key in shapes),
        "width": shapes["feat_extract.0.main.0.weight"][0],
    }
