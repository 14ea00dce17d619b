"""EVSSM: a U-shaped network whose blocks turn the map before every scan (Kong et al. 2025, `kkkls/EVSSM`).

The turns are never undone one by one: the residual stream itself lies turned, and comes home because each decoder
level repeats its encoder level's turns. Each stage says in which frame its map lies.
"""

import re
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from evssm.fused import depthwise
from evssm.geometry import D4, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.heap import hand_back
from evssm.layers import Resize, RMSNorm2d, pad_to_multiple, pointwise
from evssm.mixer import SS2D
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image, Map
from evssm.spectral import PATCH, PatchSpectrum

RELEASED_WINDOWS = (384, 192, 96)
"""Edges of the released test-time windows at levels 1-3, in feature pixels: 384 image pixels at each level."""

LEAN_EVERY = 3
"""Blocks from one time that free memory is handed back to the next, where blocks are computed again in the backward
pass: at 256 x 256 px this leaves 1.3 GB instead of 2.3 and takes no time worth speaking of; after every block, a fifth
more time."""


class EVSSM(nn.Module):
    """Deblurs `b 3 h w`; three levels of blocks, joined by sums, whose output is added to the input.

    `depths` are the blocks of levels 1-3, the decoder repeating the encoder, or of all six stages in the order of the
    forward pass; where different counts leave a map turned against its skip or the input, it is turned back there.
    `transforms` are the turns before successive blocks of a stage. `local` is `False` (scan the whole map, as in
    training), `True` (test-time windows with the edges `windows`, in feature pixels of levels 1-3; by default the
    released ones) or such edges. `mixer` makes the token
    mixer of a block from its width and keyword `window`. With `checkpoint` set, blocks are recomputed in the backward
    pass: far less memory, about a third more time.
    """

    def __init__(
        self,
        *,
        width: int = 48,
        depths: tuple[int, ...] = (6, 6, 12),
        ffn_expansion: int | float = 3,
        bias: bool = False,
        local: bool | tuple[int, int, int] = False,
        windows: tuple[int, int, int] = RELEASED_WINDOWS,
        transforms: tuple[D4, ...] = (TRANSPOSE, HALF_TURN),
        mixer: Callable[..., nn.Module] = SS2D,
    ) -> None:
        super().__init__()
        if len(depths) not in (3, 6):
            raise ValueError(f"depths needs three numbers (levels 1-3) or six (all stages in order), not {depths}")
        depths = tuple(depths) if len(depths) == 6 else (*depths, *reversed(depths))
        edges = windows if local is True else local or (None, None, None)
        levels = (0, 1, 2, 2, 1, 0)
        widths = [width << level for level in levels]
        self.checkpoint = False
        self.multiple = 4 if local else 4 * PATCH
        self.embed = nn.Conv2d(3, width, 3, padding=1, bias=False)
        blocks = [
            nn.ModuleList(
                Block(widths[i], turn, mixer, edges[level], ffn_expansion, bias)
                for _, turn in zip(range(depths[i]), cycle(transforms), strict=False)
            )
            for i, level in enumerate(levels)
        ]
        self.encoder, self.decoder = nn.ModuleList(blocks[:3]), nn.ModuleList(blocks[3:])
        self.down = nn.ModuleList(Resize(width << i, width << (i + 1), 0.5) for i in range(2))
        self.up = nn.ModuleList(Resize(width << (i + 1), width << i, 2) for i in reversed(range(2)))
        self.output = nn.Conv2d(width, 3, 3, padding=1, bias=bias)
        self.stages = self._stages(width, edges)

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        padded = pad_to_multiple(x, self.multiple).contiguous(memory_format=torch.channels_last)
        y, frame, skips = self.embed(padded), IDENTITY, []
        for level, blocks in enumerate(self.encoder):
            y, frame = self._run(blocks, y, frame)
            if level < 2:
                skips.append((y, frame))
                y = self.down[level](y)
        for level, blocks in enumerate(self.decoder):
            if level:
                y = self.up[level - 1](y)
                skip, home = skips.pop()
                y, frame = (home @ frame.inverse)(y) + skip, home
            y, frame = self._run(blocks, y, frame)
        return (self.output(frame.inverse(y)) + padded)[..., :h, :w]

    def _run(self, blocks: Any, y: Image, frame: D4) -> tuple[Map, D4]:
        recompute = self.checkpoint and torch.is_grad_enabled()
        for number, block in enumerate(blocks):
            lean = number % LEAN_EVERY == 0 and y.device.type == "cpu"
            y = checkpoint(_afresh, block, y, lean, use_reentrant=False) if recompute else block(y)
            frame = block.turn @ frame
        return y, frame

    def _stages(self, width: int, edges: tuple[int | None, ...]) -> tuple[Stage, ...]:
        """Every place of the forward pass, with the frame that the turns up to there have left the map in."""
        found, frame = [Stage("embed", width, 1)], IDENTITY
        homes: list[D4] = []
        for side, levels in (("encoder", (0, 1, 2)), ("decoder", (2, 1, 0))):
            for i, level in enumerate(levels):
                channels, stride = width << level, 1 << level
                if side == "decoder" and i:
                    found.append(Stage(f"up.{i - 1}", channels, stride, frame))
                    frame = homes.pop()
                for j, block in enumerate(getattr(self, side)[i]):
                    frame = block.turn @ frame
                    place = f"{side}.{i}.{j}"
                    found.append(Stage(f"{place}.mixer", channels, stride, frame, edges[level]))
                    found.append(Stage(f"{place}.ffn", channels, stride, frame))
                    found.append(Stage(place, channels, stride, frame, edges[level]))
                if side == "encoder" and level < 2:
                    homes.append(frame)
                    found.append(Stage(f"down.{level}", 2 * channels, 2 * stride, frame))
        return (*found, Stage("output", 3, 1))


class Block(nn.Module):
    """An EVS block: turn the map, mix its pixels by a scan, then its channels; the map stays turned (Kong et al.
    2025)."""

    def __init__(
        self,
        width: int,
        turn: D4,
        mixer: Callable[..., nn.Module],
        window: int | None,
        ffn_expansion: int | float,
        bias: bool,
    ) -> None:
        super().__init__()
        self.turn = turn
        self.norm1 = RMSNorm2d(width)
        self.mixer = mixer(width, window=window)
        self.norm2 = RMSNorm2d(width)
        self.ffn = FrequencyFFN(width, ffn_expansion, bias)

    def forward(self, x: Image) -> Map:
        x = self.turn(x).contiguous(memory_format=torch.channels_last)
        x = _with_part(x, self.norm1, self.mixer)
        return _with_part(x, self.norm2, self.ffn)


def _with_part(x: Map, norm: nn.Module, part: nn.Module) -> Map:
    """x, and added to it what a part of a block makes of the normalised x."""
    again: list[Map] = []
    y = part(norm(x, again))
    return again[0] + y


def _afresh(block: Block, x: Map, lean: bool) -> Map:
    """The answer of a block that is computed again for every backward pass."""
    if lean:
        hand_back()
    return block(x)


class FrequencyFFN(nn.Module):
    """EDFFN: a gated feed-forward part whose result is filtered in 8 x 8 patches (Kong et al. 2025, Sec. 3.1).

    Maps whose sides are no multiples of 8 are reflected at the right and the bottom for the filter, as at test time.
    """

    def __init__(self, width: int, expansion: int | float, bias: bool) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.spectrum = PatchSpectrum(width)
        self.project_in = nn.Conv2d(width, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, width, 1, bias=bias)

    def forward(self, x: Image) -> Image:
        h, w = x.shape[-2:]
        weight, bias = self.dwconv.weight, self.dwconv.bias
        if self.project_in.bias is None:
            before, after = (conv.weight.flatten(1) for conv in (self.project_in, self.project_out))
            y = depthwise(x, weight, bias, "gated gelu", projection=before, output=after)
        else:
            y = pointwise(depthwise(pointwise(x, self.project_in), weight, bias, "gated gelu"), self.project_out)
        y = self.spectrum(pad_to_multiple(y, PATCH))
        return y if y.shape[-2:] == (h, w) else y[..., :h, :w]


NAMING = Naming(
    renames=(
        (r"^embed\.", "patch_embed.proj."),
        (r"^encoder\.(\d)\.(\d+)\.", lambda found: f"encoder_level{int(found[1]) + 1}.block{found[2]}."),
        (r"^decoder\.(\d)\.(\d+)\.", lambda found: f"decoder_level{3 - int(found[1])}.block{found[2]}."),
        (r"^down\.(\d)\.conv", lambda found: f"down{int(found[1]) + 1}_{int(found[1]) + 2}.body.1"),
        (r"^up\.(\d)\.conv", lambda found: f"up{3 - int(found[1])}_{2 - int(found[1])}.body.1"),
        (r"\.norm([12])\.", r".norm\1.body."),
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
        "decoder_level2",
        "up2_1",
        "decoder_level1",
        "output",
    ),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict."""
    stages = [*(f"encoder_level{i}" for i in (1, 2, 3)), *(f"decoder_level{i}" for i in (3, 2, 1))]
    depths = tuple(
        1
        + max(
            (int(found[1]) for key in shapes if (found := re.match(rf"{stage}\.block(\d+)\.", key))),
            default=-1,
        )
        for stage in stages
    )
    arguments: dict[str, Any] = {"depths": depths[:3] if depths[:3] == depths[:2:-1] else depths}
    if embed := shapes.get("patch_embed.proj.weight"):
        arguments["width"] = width = embed[0]
        if widest := shapes.get("encoder_level3.block0.ffn.project_out.weight"):
            hidden = widest[1]  # int(4 width expansion): where rounding has lost a part, half a channel stands for it
            ratios = (hidden / (4 * width), (hidden + 0.5) / (4 * width))
            arguments["ffn_expansion"] = next(ratio for ratio in ratios if int(ratio * 4 * width) == hidden)
    arguments["bias"] = "output.bias" in shapes
    return arguments
