"""Stripformer (Tsai et al. 2022, `pp00704831/Stripformer-ECCV-2022-`): attention along rows and columns.

A convolutional encoder and decoder around blocks of attention: among the pixels of a row or column, and in
the next block among whole rows or columns.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import LayerNorm2d, pad_to_multiple, pointwise
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image

SLOPE = 0.2
"""Of the leaky ReLU for negative numbers."""


class Stripformer(nn.Module):
    """Deblurs `b 3 h w` in [0, 1]; three levels whose output is added to the input.

    `widths` are the channels at strides 1, 2 and 4; `trunk` blocks of strip attention work at stride 4 and
    `decoder` blocks, of `decoder_width` channels, at stride 2; half of a block's channels are split into
    heads of `head` channels. The network sees the image minus 0.5. Raises `ValueError` where the heads do not
    divide half of a block's channels.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (64, 128, 320),
        decoder_width: int = 192,
        trunk: int = 12,
        decoder: int = 6,
        head: int = 32,
    ) -> None:
        super().__init__()
        for width in (widths[2], decoder_width):
            if width % (2 * head):
                raise ValueError(
                    f"heads of {head} channels do not divide half of {width}; give a multiple of {2 * head}"
                )
        fine, middle, coarse = widths
        self.embed = activated(nn.Conv2d(3, fine, 3, padding=1))
        self.encoder = nn.ModuleList(
            nn.Sequential(*(ResidualStep(nn.Conv2d(c, c, 3, padding=1)) for _ in range(3))) for c in (fine, middle)
        )
        self.down = nn.ModuleList(
            activated(nn.Conv2d(c, out, 3, stride=2, padding=1)) for c, out in ((fine, middle), (middle, coarse))
        )
        self.trunk = strip_blocks(coarse, trunk, head)
        self.up = nn.ModuleList(
            activated(nn.ConvTranspose2d(c, out, 4, stride=2, padding=1))
            for c, out in ((coarse, decoder_width), (decoder_width, fine))
        )
        self.reduce = activated(nn.Conv2d(decoder_width + middle, decoder_width, 1))
        self.decoder = strip_blocks(decoder_width, decoder, head)
        self.join = ResidualStep(nn.Conv2d(2 * fine, fine, 1))
        self.refinement = ResidualStep(nn.Conv2d(fine, fine, 3, padding=1))
        self.output = activated(nn.Conv2d(fine, 3, 3, padding=1))
        self.stages = _stages(widths, decoder_width, trunk, decoder)

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, 4)
        y = self.embed(padded - 0.5)
        skips = []
        for steps, down in zip(self.encoder, self.down, strict=True):
            y = steps(y)
            skips.append(y)
            y = down(y)
        y = self.up[0](self.trunk(y))
        y = self.reduce(torch.cat((y, skips.pop()), dim=1))
        y = self.up[1](self.decoder(y))
        y = self.refinement(self.join(y, skips.pop()))
        return (self.output(y) + padded)[..., :h, :w]


def _stages(widths: tuple[int, int, int], decoder_width: int, trunk: int, decoder: int) -> tuple[Stage, ...]:
    """Every resizing, every step or block and its parts, every level (whose map is its last block's)."""

    def level(name: str, parts: tuple[str, ...], depth: int, channels: int, stride: int) -> list[Stage]:
        places = (*(f"{name}.{i}{part}" for i in range(depth) for part in parts), name)
        return [Stage(place, channels, stride) for place in places]

    block = (".mixer", ".ffn", ".position", "")
    found = [Stage("embed", widths[0], 1)]
    for i in range(2):
        found += level(f"encoder.{i}", ("",), 3, widths[i], 1 << i)
        found.append(Stage(f"down.{i}", widths[i + 1], 2 << i))
    found += level("trunk", block, trunk, widths[2], 4)
    found += [Stage("up.0", decoder_width, 2), Stage("reduce", decoder_width, 2)]
    found += level("decoder", block, decoder, decoder_width, 2)
    found += [Stage(name, widths[0], 1) for name in ("up.1", "join", "refinement")]
    return (*found, Stage("output", 3, 1))


def activated(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(SLOPE))


class ResidualStep(nn.Module):
    """act(conv(act(first(x))) + x); where `skip` is given, `first` takes `x` and `skip` concatenated."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.first = first
        self.second = nn.Conv2d(first.out_channels, first.out_channels, 3, padding=1)

    def forward(self, x: Image, skip: Image | None = None) -> Image:
        y = self.first(x if skip is None else torch.cat((x, skip), dim=1))
        return F.leaky_relu(self.second(F.leaky_relu(y, SLOPE)) + x, SLOPE)


def strip_blocks(width: int, depth: int, head: int) -> nn.Sequential:
    """Blocks that look within strips and between strips in turn."""
    mixers = (IntraStripAttention, InterStripAttention)
    return nn.Sequential(*(StripBlock(width, mixers[i % 2](width, head)) for i in range(depth)))


class StripBlock(nn.Module):
    """Strip attention, a feed-forward part and a depth-wise convolution (the position), each added."""

    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(width)
        self.mixer = mixer
        self.norm2 = LayerNorm2d(width)
        self.ffn = FFN(width)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Image) -> Image:
        x = x + self.mixer(self.norm1(x))
        x = x + self.ffn(self.norm2(x))
        return x + self.position(x)


class IntraStripAttention(nn.Module):
    """Pixels attend to their row with the first half of the channels, to their column with the second."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.project_in = nn.Conv2d(width, width, 1)
        self.within_rows = nn.Linear(width // 2, 3 * (width // 2))
        self.within_columns = nn.Linear(width // 2, 3 * (width // 2))
        self.project_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Image) -> Image:
        first, second = rearrange(pointwise(x, self.project_in), "b (half c) h w -> half b h w c", half=2)
        rows = attend(self.within_rows(first), "(b h) heads w c", self.head)
        columns = attend(self.within_columns(second), "(b w) heads h c", self.head)
        return pointwise(torch.cat((rows, columns), dim=1), self.project_out)


class InterStripAttention(nn.Module):
    """Rows attend to each other with the first half of the channels, columns with the second."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.project_in = nn.Conv2d(width, width, 1)
        self.between_rows = nn.Conv2d(width // 2, 3 * (width // 2), 1)
        self.between_columns = nn.Conv2d(width // 2, 3 * (width // 2), 1)
        self.project_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Image) -> Image:
        first, second = pointwise(x, self.project_in).chunk(2, dim=1)
        rows = rearrange(pointwise(first, self.between_rows), "b c h w -> b h w c")
        columns = rearrange(pointwise(second, self.between_columns), "b c h w -> b h w c")
        y = (attend(rows, "b heads h (c w)", self.head), attend(columns, "b heads w (c h)", self.head))
        return pointwise(torch.cat(y, dim=1), self.project_out)


def attend(qkv: Float[Tensor, "b h w qkv"], tokens: str, head: int) -> Float[Tensor, "b c h w"]:
    """Softmax attention among the tokens that an einops pattern makes of the map, scaled by a token's size.

    `tokens` ends with the two axes (token, its numbers); a head has `head` of the channels. The matrix of
    weights is not kept: at stride 2 of a 720 x 1280 image those of all rows would fill 1.8 GB.
    """
    b, h, w, _ = qkv.shape
    q, k, v = rearrange(qkv, f"b h w (three heads c) -> three {tokens}", three=3, c=head)
    y = F.scaled_dot_product_attention(q, k, v)
    return rearrange(y, f"{tokens} -> b (heads c) h w", b=b, h=h, w=w, c=head)


class FFN(nn.Module):
    """Two linear layers over each pixel's channels, GELU between; Xavier weights, biases almost 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Image) -> Image:
        y = self.fc2(F.gelu(self.fc1(rearrange(x, "b c h w -> b h w c"))))
        return rearrange(y, "b h w c -> b c h w")


def _order(name: str, blocks: int) -> list[str]:
    """The official order of strip blocks: every second one, between strips, has `fuse_out` after its FFN."""
    inter = ("attention_norm", "conv_input", "conv_h", "conv_v", "ffn_norm", "ffn", "fuse_out", "PEG")
    return [
        f"{name}_{i}.{part}" if part else f"{name}_{i}" for i in range(1, blocks + 1) for part in (inter, ("",))[i % 2]
    ]


NAMING = Naming(
    renames=(
        (r"^embed\.", "encoder.en_layer1_1."),
        (
            r"^encoder\.(\d)\.(\d)\.",
            lambda found: f"encoder.en_layer{int(found[1]) + 1}_{int(found[2]) + 2}.",
        ),
        (r"^down\.(\d)\.", lambda found: f"encoder.en_layer{int(found[1]) + 2}_1."),
        (r"^trunk\.(\d+)\.", lambda found: f"Trans_block_{int(found[1]) + 1}."),
        (r"^decoder\.(\d+)\.", lambda found: f"decoder.de_block_{int(found[1]) + 1}."),
        (r"^up\.(\d)\.", lambda found: f"decoder.de_layer{3 - int(found[1])}_1."),
        (r"^reduce\.", "decoder.de_layer2_2."),
        (r"^join\.", "decoder.de_layer1_3."),
        (r"^refinement\.", "decoder.de_layer1_2."),
        (r"^output\.", "decoder.de_layer1_1."),
        (r"\.first\.", ".0."),
        (r"\.second\.", ".2."),
        (r"\.norm1\.", ".attention_norm."),
        (r"\.norm2\.", ".ffn_norm."),
        (r"\.mixer\.project_in\.", ".conv_input."),
        (r"\.mixer\.within_rows\.", ".qkv_local_h."),
        (r"\.mixer\.within_columns\.", ".qkv_local_v."),
        (r"\.mixer\.between_rows\.", ".conv_h."),
        (r"\.mixer\.between_columns\.", ".conv_v."),
        (r"\.mixer\.project_out\.", ".fuse_out."),
        (r"\.position\.", ".PEG.PEG."),
    ),
    order=(
        *(f"encoder.en_layer{level}_{i}" for level in (1, 2) for i in (1, 2, 3, 4)),
        "encoder.en_layer3_1",
        *_order("Trans_block", 12),
        "decoder.de_layer3_1",
        "decoder.de_layer2_2",
        *_order("decoder.de_block", 6),
        "decoder.de_layer2_1",
        "decoder.de_layer1_3",
        "decoder.de_layer1_2",
        "decoder.de_layer1_1",
    ),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict; `head` does not."""

    def channels(layer: str, usual: int) -> int:
        return next(iter(shapes.get(f"{layer}.bias", ())), usual)

    def depth(blocks: str) -> int:
        return max((int(found[1]) for key in shapes if (found := re.match(rf"{blocks}_(\d+)\.", key))), default=1)

    layers = ("encoder.en_layer1_1.0", "encoder.en_layer2_1.0", "encoder.en_layer3_1.0")
    return {
        "widths": tuple(map(channels, layers, (64, 128, 320))),
        "decoder_width": channels("decoder.de_layer3_1.0", 192),
        "trunk": depth("Trans_block"),
        "decoder": depth(r"decoder\.de_block"),
    }
