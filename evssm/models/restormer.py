"""Restormer (Zamir et al. 2022, `swz30/Restormer`): a U-shaped network whose channels attend to each other.

A channel is the whole map, so the cost grows only with the number of pixels, and each pixel of the result
depends on every pixel of the image.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import LayerNorm2d, gated_gelu, pad_to_multiple, pointwise
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.precision import at_least_float32
from evssm.shapes import Image

USUAL_EXPANSION = 2.66


class Restormer(nn.Module):
    """Restores `b 3 h w`, or `b 6 h w` (left, right view) with `dual_pixel`; four levels, concatenated.

    `depths` and `heads` are blocks and attention heads at strides 1, 2, 4 and 8; `refinement` counts the
    blocks after the decoder. `bias` reaches the blocks and the convolutions that reduce, skip or end, never
    those that embed or resize. `norm` is "with_bias" or "bias_free". The image is added to the output, except
    to that of a dual-pixel network. Raises `ValueError` for another `norm`, for other than four levels, for
    an odd `width` and for heads that do not divide a level's channels.
    """

    def __init__(
        self,
        *,
        width: int = 48,
        depths: Sequence[int] = (4, 6, 6, 8),
        refinement: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: int | float = USUAL_EXPANSION,
        bias: bool = False,
        norm: str = "with_bias",
        dual_pixel: bool = False,
    ) -> None:
        super().__init__()
        _check(width, depths, heads, norm)
        self.adds_input = not dual_pixel

        def blocks(width: int, depth: int, heads: int) -> nn.Sequential:
            return nn.Sequential(*(Block(width, heads, ffn_expansion, bias, norm) for _ in range(depth)))

        widths = [width << level for level in range(4)]
        decoder_widths = [widths[2], widths[1], 2 * width]  # at stride 1 the concatenation is not reduced
        self.embed = nn.Conv2d(6 if dual_pixel else 3, width, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(map(blocks, widths[:3], depths, heads))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)) for c in widths[:3]
        )
        self.latent = blocks(widths[3], depths[3], heads[3])
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 3, padding=1, bias=False), nn.PixelShuffle(2)) for c in widths[:0:-1]
        )
        self.reduce = nn.ModuleList([*(nn.Conv2d(2 * c, c, 1, bias=bias) for c in widths[2:0:-1]), nn.Identity()])
        self.decoder = nn.ModuleList(map(blocks, decoder_widths, depths[2::-1], heads[2::-1]))
        self.refinement = blocks(2 * width, refinement, heads[0])
        self.skip = nn.Conv2d(width, 2 * width, 1, bias=bias) if dual_pixel else None
        self.output = nn.Conv2d(2 * width, 3, 3, padding=1, bias=bias)
        self.stages = _stages(widths, decoder_widths, depths, refinement)

    def forward(self, x: Float[Tensor, "b views h w"]) -> Float[Tensor, "b 3 h w"]:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, 8)
        y = embedded = self.embed(padded)
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            y = blocks(y)
            skips.append(y)
            y = down(y)
        y = self.latent(y)
        for up, reduce, blocks in zip(self.up, self.reduce, self.decoder, strict=True):
            y = blocks(reduce(torch.cat((up(y), skips.pop()), dim=1)))
        y = self.refinement(y)
        y = self.output(y) + padded if self.skip is None else self.output(y + self.skip(embedded))
        return y[..., :h, :w]


def _stages(
    widths: Sequence[int], decoder_widths: Sequence[int], depths: Sequence[int], refinement: int
) -> tuple[Stage, ...]:
    """Every resizing, every block with its two parts, and every level (whose map is its last block's)."""

    def level(name: str, depth: int, channels: int, stride: int) -> list[Stage]:
        parts = [f"{name}.{i}{part}" for i in range(depth) for part in (".mixer", ".ffn", "")]
        return [Stage(path, channels, stride) for path in (*parts, name)]

    found = [Stage("embed", widths[0], 1)]
    for i in range(3):
        found += level(f"encoder.{i}", depths[i], widths[i], 1 << i)
        found.append(Stage(f"down.{i}", widths[i + 1], 2 << i))
    found += level("latent", depths[3], widths[3], 8)
    for i in range(3):
        found.append(Stage(f"up.{i}", widths[2 - i], 4 >> i))
        found.append(Stage(f"reduce.{i}", decoder_widths[i], 4 >> i))
        found += level(f"decoder.{i}", depths[2 - i], decoder_widths[i], 4 >> i)
    return (*found, *level("refinement", refinement, decoder_widths[2], 1), Stage("output", 3, 1))


def _check(width: int, depths: Sequence[int], heads: Sequence[int], norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(map(repr, NORMS))}")
    if len(depths) != 4 or len(heads) != 4:
        raise ValueError(f"Restormer has four levels; give four numbers each, not depths={depths} and heads={heads}")
    if width % 2:
        raise ValueError(f"the resizing convolutions halve the width, and {width} is odd; give an even one")
    for level, number in enumerate(heads):
        if (width << level) % number:
            raise ValueError(f"{number} heads do not divide the {width << level} channels of level {level + 1}")


class Block(nn.Module):
    """Attention between channels, then the feed-forward part, each on the normalised map and added to it."""

    def __init__(self, width: int, heads: int, ffn_expansion: int | float, bias: bool, norm: str) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](width)
        self.mixer = ChannelAttention(width, heads, bias)
        self.norm2 = NORMS[norm](width)
        self.ffn = GatedFFN(width, ffn_expansion, bias)

    def forward(self, x: Image) -> Image:
        x = x + self.mixer(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ChannelAttention(nn.Module):
    """Each channel a mean over the channels of its head, weighted by likeness (MDTA, Sec. 3.1).

        weights[i, j] = softmax_j(temperature cos(q[i], k[j])),   y[i] = sum_j weights[i, j] v[j]

    A channel counts as one vector of h w numbers.
    """

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=bias)
        self.project_out = nn.Conv2d(width, width, 1, bias=bias)

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        qkv = self.qkv_dwconv(pointwise(x, self.qkv))
        q, k, v = rearrange(qkv, "b (three heads c) h w -> three b heads c (h w)", three=3, heads=self.heads)
        # Dividing the few products by the lengths spares copies of q and k with every channel at length 1.
        q, k = at_least_float32(q), at_least_float32(k)  # a product sums over the whole map
        length_q, length_k = (torch.linalg.vector_norm(t, dim=-1).clamp_min(1e-12) for t in (q, k))
        products = einsum(q, k, "b heads i l, b heads j l -> b heads i j")
        cosines = products / length_q[..., :, None] / length_k[..., None, :]
        weights = torch.softmax(cosines * self.temperature, dim=-1).to(v.dtype)
        y = einsum(weights, v, "b heads i j, b heads j l -> b heads i l")
        return pointwise(rearrange(y, "b heads c (h w) -> b (heads c) h w", h=h, w=w), self.project_out)


class GatedFFN(nn.Module):
    """One half of the hidden channels, passed through GELU, times the other half (GDFN, Sec. 3.2)."""

    def __init__(self, width: int, expansion: int | float, bias: bool) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.project_in = nn.Conv2d(width, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, width, 1, bias=bias)

    def forward(self, x: Image) -> Image:
        gate, value = self.dwconv(pointwise(x, self.project_in)).chunk(2, dim=1)
        return pointwise(gated_gelu(gate, value), self.project_out)


class BiasFreeNorm2d(nn.Module):
    """Each pixel's channels divided by their standard deviation and scaled; their mean is not subtracted."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Image) -> Image:
        variance = x.var(dim=1, correction=0, keepdim=True)
        return x * torch.rsqrt(variance + self.eps) * self.weight[:, None, None]


NORMS = {"with_bias": LayerNorm2d, "bias_free": BiasFreeNorm2d}

NAMING = Naming(
    renames=(
        (r"^embed\.", "patch_embed.proj."),
        (r"^encoder\.(\d)\.", lambda found: f"encoder_level{int(found[1]) + 1}."),
        (r"^decoder\.(\d)\.", lambda found: f"decoder_level{3 - int(found[1])}."),
        (r"^down\.(\d)\.", lambda found: f"down{int(found[1]) + 1}_{int(found[1]) + 2}.body."),
        (r"^up\.(\d)\.", lambda found: f"up{4 - int(found[1])}_{3 - int(found[1])}.body."),
        (r"^reduce\.(\d)\.", lambda found: f"reduce_chan_level{3 - int(found[1])}."),
        (r"^skip\.", "skip_conv."),
        (r"\.norm([12])\.", r".norm\1.body."),
        (r"\.mixer\.", ".attn."),
    ),
    order=(
        "patch_embed",
        "encoder_level1",
        "down1_2",
        "encoder_level2",
        "down2_3",
        "encoder_level3",
        "down3_4",
        "latent",
        "up4_3",
        "reduce_chan_level3",
        "decoder_level3",
        "up3_2",
        "reduce_chan_level2",
        "decoder_level2",
        "up2_1",
        "decoder_level1",
        "refinement",
        "skip_conv",
        "output",
    ),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict."""

    def length(pattern: str, axis: int, usual: int) -> int:
        found = (shape for key, shape in shapes.items() if re.fullmatch(pattern, key) and len(shape) > axis)
        return next((shape[axis] for shape in found), usual)

    def depth(level: str) -> int:
        return 1 + max((int(found[1]) for key in shapes if (found := re.match(rf"{level}\.(\d+)\.", key))), default=0)

    levels = (*(f"(?:en|de)coder_level{level}" for level in (1, 2, 3)), "latent")
    width = length(r"patch_embed\.proj\.weight", 0, 48)
    hidden = length(r"latent\.\d+\.ffn\.project_out\.weight", 1, int(8 * width * USUAL_EXPANSION))
    return {
        "width": width,
        "depths": tuple(map(depth, levels)),
        "refinement": depth("refinement"),
        "heads": tuple(length(rf"{level}\.\d+\.attn\.temperature", 0, 1) for level in levels),
        "ffn_expansion": _expansion(8 * width, hidden),
        "bias": "output.bias" in shapes,
        "norm": "with_bias" if any(key.endswith(".norm1.body.bias") for key in shapes) else "bias_free",
        "dual_pixel": "skip_conv.weight" in shapes or length(r"patch_embed\.proj\.weight", 1, 3) == 6,
    }


def _expansion(width: int, hidden: int) -> float:
    """A factor that gives `hidden` at the widest level, and so at all: the others halve it and round down."""
    candidates = (USUAL_EXPANSION, hidden / width, (hidden + 0.5) / width)
    return next(factor for factor in candidates if int(factor * width) == hidden)
