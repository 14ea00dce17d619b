"""FFTformer (Kong et al. 2023, `kkkls/FFTformer`): attention as a product of the spectra of 8 x 8 patches.

A U-shaped network of which only the decoder has attention: the encoder's features still contain the blur.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import nn

from evssm.layers import LayerNorm2d, Resize, gated_gelu, pad_to_multiple, pointwise
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.precision import at_least_float32
from evssm.shapes import Image
from evssm.spectral import PATCH, PatchSpectrum

FUSE_EXPANSION = 2.66
"""The released code gives `ffn_expansion` to all blocks but the two that fuse encoder and decoder."""


class FFTformer(nn.Module):
    """Deblurs `b 3 h w`; three levels whose output is added to the input.

    `depths` are the blocks of levels 1-3, in the encoder and again in the decoder; `refinement` counts the
    blocks after the decoder. `bias` reaches the blocks and the last convolution; the two that fuse encoder
    and decoder always have biases, the ones that embed and resize never. Raises `ValueError` for other than
    three levels.
    """

    def __init__(
        self,
        *,
        width: int = 48,
        depths: Sequence[int] = (6, 6, 12),
        refinement: int = 4,
        ffn_expansion: int | float = 3,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if len(depths) != 3:
            raise ValueError(f"FFTformer has three levels; give three depths, not {depths}")

        def blocks(block: type[nn.Module], width: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(block(width, ffn_expansion, bias) for _ in range(depth)))

        widths = [width << level for level in range(3)]
        self.embed = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(blocks(EncoderBlock, c, depth) for c, depth in zip(widths, depths, strict=True))
        self.down = nn.ModuleList(Resize(c, 2 * c, 0.5) for c in widths[:2])
        self.decoder = nn.ModuleList(
            blocks(DecoderBlock, c, depth) for c, depth in zip(widths[::-1], depths[::-1], strict=True)
        )
        self.up = nn.ModuleList(Resize(2 * c, c, 2) for c in widths[1::-1])
        self.fuse = nn.ModuleList(map(Fuse, widths[1::-1]))
        self.refinement = blocks(DecoderBlock, width, refinement)
        self.output = nn.Conv2d(width, 3, 3, padding=1, bias=bias)
        # Left from a concatenation that `fuse` replaced: the forward pass has no use for it, the official
        # weights contain it.
        self.unused = nn.Conv2d(4 * width, 2 * width, 1, bias=bias)
        self.stages = _stages(widths, depths, refinement)

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, 4 * PATCH)
        y = self.embed(padded)
        skips = []
        for level, blocks in enumerate(self.encoder):
            y = blocks(y)
            if level < 2:
                skips.append(y)
                y = self.down[level](y)
        for level, blocks in enumerate(self.decoder):
            if level:
                y = self.fuse[level - 1](self.up[level - 1](y), skips.pop())
            y = blocks(y)
        return (self.output(self.refinement(y)) + padded)[..., :h, :w]


def _stages(widths: Sequence[int], depths: Sequence[int], refinement: int) -> tuple[Stage, ...]:
    """Every resizing and fusion, every block and its parts, every level (whose map is its last block's)."""

    def level(name: str, depth: int, i: int) -> list[Stage]:
        parts = (".ffn", "") if name.startswith("encoder") else (".mixer", ".ffn", "")
        places = (*(f"{name}.{block}{part}" for block in range(depth) for part in parts), name)
        return [Stage(place, widths[i], 1 << i) for place in places]

    found = [Stage("embed", widths[0], 1)]
    for i in range(3):
        found += level(f"encoder.{i}", depths[i], i)
        if i < 2:
            found.append(Stage(f"down.{i}", widths[i + 1], 2 << i))
    for i in (2, 1, 0):
        if i < 2:
            found += [Stage(f"{part}.{1 - i}", widths[i], 1 << i) for part in ("up", "fuse")]
        found += level(f"decoder.{2 - i}", depths[i], i)
    return (*found, *level("refinement", refinement, 0), Stage("output", 3, 1))


class EncoderBlock(nn.Module):
    """The feed-forward part on the normalised map, added to it; no attention (Sec. 3.3)."""

    def __init__(self, width: int, ffn_expansion: int | float, bias: bool) -> None:
        super().__init__()
        self.norm2 = LayerNorm2d(width)
        self.ffn = FrequencyFFN(width, ffn_expansion, bias)

    def forward(self, x: Image) -> Image:
        return x + self.ffn(self.norm2(x))


class DecoderBlock(nn.Module):
    """Attention, then the feed-forward part, each on the normalised map and added to it."""

    def __init__(self, width: int, ffn_expansion: int | float, bias: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(width)
        self.mixer = SpectralAttention(width, bias)
        self.norm2 = LayerNorm2d(width)
        self.ffn = FrequencyFFN(width, ffn_expansion, bias)

    def forward(self, x: Image) -> Image:
        x = x + self.mixer(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class SpectralAttention(nn.Module):
    """Each pixel's `v`, scaled by what `q` and `k` say of its 8 x 8 patch together (FSAS, Sec. 3.1).

        y = norm(convolve(q, k)) v

    The released code multiplies the spectra without conjugating one, so that this is a convolution within
    each patch where the paper speaks of correlation.
    """

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.to_hidden = nn.Conv2d(width, 6 * width, 1, bias=bias)
        self.to_hidden_dw = nn.Conv2d(6 * width, 6 * width, 3, padding=1, groups=6 * width, bias=bias)
        self.project_out = nn.Conv2d(2 * width, width, 1, bias=bias)
        self.norm = LayerNorm2d(2 * width)

    def forward(self, x: Image) -> Image:
        q, k, v = self.to_hidden_dw(pointwise(x, self.to_hidden)).chunk(3, dim=1)
        return pointwise(v * self.norm(convolve_patches(q, k)), self.project_out)


def convolve_patches(q: Image, k: Image) -> Image:
    """The circular convolution of `q` and `k` in each 8 x 8 patch of each channel, from the top left.

    y[p, s] = sum_{m, n} q[m, n] k[(p - m) mod 8, (s - n) mod 8]
    """
    q_hat, k_hat = (
        torch.fft.rfft2(rearrange(at_least_float32(t), "b c (i p) (j s) -> b c i j p s", p=PATCH, s=PATCH))
        for t in (q, k)
    )
    patches = torch.fft.irfft2(q_hat * k_hat, s=(PATCH, PATCH))
    return rearrange(patches, "b c i j p s -> b c (i p) (j s)").to(q.dtype)


class FrequencyFFN(nn.Module):
    """A gated feed-forward part whose hidden channels are filtered in 8 x 8 patches (DFFN, Sec. 3.2)."""

    def __init__(self, width: int, expansion: int | float, bias: bool) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.spectrum = PatchSpectrum(2 * hidden)
        self.project_in = nn.Conv2d(width, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, width, 1, bias=bias)

    def forward(self, x: Image) -> Image:
        gate, value = self.dwconv(self.spectrum(pointwise(x, self.project_in))).chunk(2, dim=1)
        return pointwise(gated_gelu(gate, value), self.project_out)


class Fuse(nn.Module):
    """Decoder and encoder maps, mixed in one block of twice their width, then summed half to half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = EncoderBlock(2 * width, FUSE_EXPANSION, bias=False)
        self.conv = nn.Conv2d(2 * width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 1)

    def forward(self, decoded: Image, encoded: Image) -> Image:
        y = self.block(pointwise(torch.cat((decoded, encoded), dim=1), self.conv))
        first, second = pointwise(y, self.conv2).chunk(2, dim=1)
        return first + second


NAMING = Naming(
    renames=(
        (r"^embed\.", "patch_embed.proj."),
        (r"^encoder\.(\d)\.", lambda found: f"encoder_level{int(found[1]) + 1}."),
        (r"^decoder\.(\d)\.", lambda found: f"decoder_level{3 - int(found[1])}."),
        (r"^down\.(\d)\.conv\.", lambda found: f"down{int(found[1]) + 1}_{int(found[1]) + 2}.body.1."),
        (r"^up\.(\d)\.conv\.", lambda found: f"up{3 - int(found[1])}_{2 - int(found[1])}.body.1."),
        (r"^fuse\.(\d)\.", lambda found: f"fuse{2 - int(found[1])}."),
        (r"^unused\.", "reduce_chan_level2."),
        (r"\.block\.", ".att_channel."),
        (r"\.(norm[12]?)\.", r".\1.body."),
        (r"\.mixer\.", ".attn."),
        (r"\.spectrum\.gain", ".fft"),
    ),
    order=(
        "patch_embed",
        "encoder_level1",
        "down1_2",
        "encoder_level2",
        "down2_3",
        "encoder_level3",
        "decoder_level3",
        "up3_2",
        "reduce_chan_level2",
        "decoder_level2",
        "up2_1",
        "decoder_level1",
        "refinement",
        "fuse2",
        "fuse1",
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

    width = length(r"patch_embed\.proj\.weight", 0, 48)
    hidden = length(r"(?:en|de)coder_level3\.\d+\.ffn\.project_out\.weight", 1, 12 * width)
    # Level 3 settles the others, whose hidden channels are a half and a quarter of its, rounded down.
    ratios = (hidden / (4 * width), (hidden + 0.5) / (4 * width))
    return {
        "width": width,
        "depths": tuple(depth(f"(?:en|de)coder_level{level}") for level in (1, 2, 3)),
        "refinement": depth("refinement"),
        "ffn_expansion": next(ratio for ratio in ratios if int(ratio * 4 * width) == hidden),
        "bias": "output.bias" in shapes,
    }
