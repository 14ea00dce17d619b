"""NAFNet: a U-Net of blocks without activation functions (Chen et al. 2022, `megvii-research/NAFNet`).

A product of two halves of the channels stands for the activation, one mean over the map for attention. At
test time the mean may be a local one, as wide as the crops that the network was trained on: TLC (Chu et al.
2022, "Improving Image Restoration by Revisiting Global Information Aggregation").
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import LayerNorm2d, pad_to_multiple
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.precision import at_least_float32
from evssm.shapes import Image

Window = tuple[int, int]
"""Rows and columns of a window, in feature pixels."""


class NAFNet(nn.Module):
    """Deblurs `b 3 h w`; levels of blocks, joined by sums, whose output is added to the input.

    `encoder_depths` and `decoder_depths` are blocks per level, in the order of the forward pass; each level
    halves the map and doubles `width`. `local` makes the means of the blocks' attention local: `True` for a
    network trained on crops of `crop x crop` pixels, `(h, w)` for crops of that size. The window is 1.5 times as
    long as the crop, and images that it covers come out as with `local=False`. Raises `ValueError` where the
    depths do not pair up.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        encoder_depths: tuple[int, ...] = (1, 1, 1, 28),
        middle_depth: int = 1,
        decoder_depths: tuple[int, ...] = (1, 1, 1, 1),
        local: bool | tuple[int, int] = False,
        crop: int = 256,
    ) -> None:
        super().__init__()
        levels = len(encoder_depths)
        if len(decoder_depths) != levels:
            raise ValueError(
                f"each level has an encoder and a decoder, not encoder_depths={encoder_depths} with "
                f"decoder_depths={decoder_depths}; give both the same length"
            )
        widths = [width << level for level in range(levels + 1)]
        windows = attention_windows((crop, crop) if local is True else local, levels)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoder = nn.ModuleList(map(blocks, widths[:-1], encoder_depths, windows[:-1]))
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.middle = blocks(widths[-1], middle_depth, windows[-1])
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in widths[:0:-1]
        )
        self.decoder = nn.ModuleList(map(blocks, widths[-2::-1], decoder_depths, windows[-2::-1]))
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.stages = tuple(self._stages(widths, encoder_depths, middle_depth, decoder_depths))

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, 2 ** len(self.encoder), mode="constant")
        padded = padded.contiguous(memory_format=torch.channels_last)  # as the norms need it: a third faster
        y, skips = self.intro(padded), []
        for level, down in zip(self.encoder, self.down, strict=True):
            y = level(y)
            skips.append(y)
            y = down(y)
        y = self.middle(y)
        for level, up in zip(self.decoder, self.up, strict=True):
            y = level(up(y) + skips.pop())
        return (self.ending(y) + padded)[..., :h, :w]

    @staticmethod
    def _stages(
        widths: list[int], encoder_depths: tuple[int, ...], middle_depth: int, decoder_depths: tuple[int, ...]
    ) -> list[Stage]:
        found, deepest = [Stage("intro", widths[0], 1)], len(widths) - 1

        def add(level: int, *names: str) -> None:
            found.extend(Stage(name, widths[level], 2**level) for name in names)

        for i, depth in enumerate(encoder_depths):
            add(i, *(f"encoder.{i}.{block}" for block in range(depth)))
            add(i + 1, f"down.{i}")
        add(deepest, *(f"middle.{block}" for block in range(middle_depth)))
        for i, depth in enumerate(decoder_depths):
            add(deepest - 1 - i, f"up.{i}", *(f"decoder.{i}.{block}" for block in range(depth)))
        return [*found, Stage("ending", 3, 1)]


def blocks(width: int, depth: int, window: Window | None) -> nn.Sequential:
    """One level of the network."""
    return nn.Sequential(*(Block(width, window) for _ in range(depth)))


class Block(nn.Module):
    """Depth-wise convolution with channel attention, then a mixing of channels, each gated and added.

    `beta` and `gamma` scale what is added; they start at 0, so a fresh block is the identity.
    """

    def __init__(self, width: int, window: Window | None = None) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.project = nn.Conv2d(width, width, 1)
        self.attention = ChannelAttention(width, window)
        self.ffn_expand = nn.Conv2d(width, 2 * width, 1)
        self.ffn_project = nn.Conv2d(width, width, 1)
        self.norm = LayerNorm2d(width, eps=1e-6)
        self.ffn_norm = LayerNorm2d(width, eps=1e-6)

    def forward(self, x: Image) -> Image:
        mixed = gate(self.depthwise(self.expand(self.norm(x))))
        x = x + self.beta * self.project(self.attention(mixed))
        return x + self.gamma * self.ffn_project(gate(self.ffn_expand(self.ffn_norm(x))))


def gate(x: Float[Tensor, "b c_twice h w"]) -> Image:
    """The product of the two halves of the channels (the paper's SimpleGate)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class ChannelAttention(nn.Module):
    """The map, each channel scaled by a linear function of all channels' means (the paper's SCA).

    The means are those of the whole map, or of a window of the given size around each pixel.
    """

    def __init__(self, width: int, window: Window | None = None) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 1)
        self.window = window

    def forward(self, x: Image) -> Image:
        means = x.mean(dim=(-2, -1), keepdim=True) if self.window is None else box_mean(x, self.window)
        return x * self.mix(means)


def attention_windows(local: Literal[False] | tuple[int, int], levels: int) -> list[Window | None]:
    """The window of the attention at each level and in the middle; `None` is the whole map.

    The window is 1.5 times what a training crop, padded as `forward` pads it, measures at that level (TLC).
    """
    if local is False:
        return [None] * (levels + 1)
    train = tuple(local)
    if len(train) != 2 or min(train) < 1:
        raise ValueError(f"local=(h, w) is the size of the training crops in pixels, not {local}; try (256, 256)")

    def edge(pixels: int, level: int) -> int:
        padded = -(-pixels // 2**levels) * 2**levels
        return (padded >> level) * (3 * pixels // 2) // pixels

    return [(edge(train[0], level), edge(train[1], level)) for level in range(levels + 1)]


def box_mean(x: Image, window: Window) -> Float[Tensor, "b c h1 w1"]:
    """Mean of `x` over the window around each pixel; a single mean where the window covers the whole map.

    Windows stay inside the map, so pixels near a border share the mean of the outermost window; where the
    margins add up to an odd number, the longer one is below and to the right. Source: TLC (Chu et al. 2022).
    """
    h, w = x.shape[-2:]
    if window[0] >= h and window[1] >= w:
        return x.mean(dim=(-2, -1), keepdim=True)
    means = at_least_float32(x)
    for axis, edge in zip((-2, -1), window, strict=True):
        means = running_mean(means, min(edge, x.shape[axis]), axis)
    above, left = (h - means.shape[-2]) // 2, (w - means.shape[-1]) // 2
    below, right = h - means.shape[-2] - above, w - means.shape[-1] - left
    return F.pad(means, (left, right, above, below), mode="replicate").to(x.dtype)


def running_mean(x: Image, length: int, axis: int) -> Float[Tensor, "b c h1 w1"]:
    """Mean over every `length` neighbours along `axis`, from cumulative sums: a longer one costs no more.

    One axis at a time rounds far less than a table of sums over both, whose entries grow with the map's area.
    """
    sums = torch.cat((torch.zeros_like(x.narrow(axis, 0, 1)), x.cumsum(axis)), dim=axis)
    count = x.shape[axis] - length + 1
    return (sums.narrow(axis, length, count) - sums.narrow(axis, 0, count)) / length


NAMING = Naming(
    renames=(
        (r"^(encoder|decoder|up|down)\.", r"\1s."),
        (r"^middle\.", "middle_blks."),
        (r"\.expand\.", ".conv1."),
        (r"\.depthwise\.", ".conv2."),
        (r"\.project\.", ".conv3."),
        (r"\.attention\.mix\.", ".sca.1."),
        (r"\.ffn_expand\.", ".conv4."),
        (r"\.ffn_project\.", ".conv5."),
        (r"\.norm\.", ".norm1."),
        (r"\.ffn_norm\.", ".norm2."),
    ),
    order=("intro", "ending", "encoders", "decoders", "middle_blks", "ups", "downs"),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The width and the depths of the NAFNet whose official state dict has these shapes."""
    levels = sum(key.startswith("downs.") and key.endswith(".weight") for key in shapes)

    def depth(level: str) -> int:
        return sum(key.startswith(f"{level}.") and key.endswith(".beta") for key in shapes)

    return {
        "width": shapes["intro.weight"][0],
        "encoder_depths": tuple(depth(f"encoders.{level}") for level in range(levels)),
        "middle_depth": depth("middle_blks"),
        "decoder_depths": tuple(depth(f"decoders.{level}") for level in range(levels)),
    }
