"""SRN (Tao et al. 2018, `jiangsutx/SRN-Deblur`): one encoder and decoder, run at three scales, coarse to fine.

"Scale-recurrent Network for Deep Image Deblurring". Each pass sees the blurred image at its scale and what the pass
before made of it. Training stops gradients between the passes, and a field taken through that stop shows the finest
pass only: 365 pixels, where the output depends on 2529.
"""

from functools import partial
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import initialise_convolutions, pad_to_multiple
from evssm.models.description import Naming, Shapes
from evssm.models.stages import Stage
from evssm.shapes import Image, Map
from evssm.tf_layers import doubled, same, subsampled

LEVELS = 3
STEPS = (4, 2, 1)
"""Image pixels per pixel of each pass."""

State = tuple[Tensor, Tensor]
"""Cell and hidden map of the recurrence."""


class SRN(nn.Module):
    """Deblurs `b 3 h w`; `pyramid` gives what the passes make at a quarter and at half the size too.

    `lstm` carries a state from pass to pass at the bottom of the U, as in the paper; without it only the image is
    passed on. `separate` restores red, green and blue each as a grey image with the same weights, as the authors'
    "gray" and "lstm" models do. `width` is the channels at a pass's full size, doubled at each of two halvings.

    `stop_gradient` says when gradients through the image passed on are stopped: in "training", as published, "always"
    or "never". The state's are never. The image is not added to the output. Raises `ValueError` for another word.
    """

    adds_input = False
    """Whether the image is added to the output, for those who want to leave it out of a receptive field."""

    def __init__(
        self,
        *,
        width: int = 32,
        lstm: bool = False,
        separate: bool = False,
        stop_gradient: str = "training",
    ) -> None:
        super().__init__()
        if stop_gradient not in ("training", "always", "never"):
            raise ValueError(f'stop_gradient is "training", "always" or "never", not {stop_gradient!r}')
        self.separate, self.stop_gradient = separate, stop_gradient
        planes, widths = 1 if separate else 3, [width << level for level in range(LEVELS)]
        channels = [2 * planes, *widths]
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Sequential(*same(channels[i], c, 5, 2 if i else 1), nn.ReLU()), *residual(c))
            for i, c in enumerate(widths)
        )
        self.cell = ConvLSTM(widths[-1]) if lstm else None
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(c, c // 2, 4, stride=2, padding=1), nn.ReLU()) for c in widths[:0:-1]
        )
        self.decoder = nn.ModuleList(nn.Sequential(*residual(c)) for c in widths[::-1])
        self.output = nn.Conv2d(width, planes, 5, padding=2)
        self.passes = nn.ModuleList(Pass() for _ in STEPS)
        self.stages = _stages(widths, planes, lstm)
        initialise_convolutions(self, nn.init.xavier_uniform_)
        if self.cell is not None:
            initialise_convolutions(self.cell, partial(nn.init.trunc_normal_, std=1e-3, a=-2e-3, b=2e-3))

    def forward(self, x: Image) -> Image:
        return self.pyramid(x)[-1]

    def pyramid(
        self, x: Image
    ) -> tuple[Float[Tensor, "b c h_quarter w_quarter"], Float[Tensor, "b c h_half w_half"], Image]:
        """The restored image at a quarter, at half and at full size, sides rounded up; all are trained."""
        h, w = x.shape[-2:]
        planes = rearrange(x, "b c h w -> (b c) 1 h w") if self.separate else x
        blurred = pad_to_multiple(planes, STEPS[0] << (LEVELS - 1), mode="replicate")
        restored: list[Tensor] = []
        state: State | None = None
        passed_on = subsampled(blurred, STEPS[0])
        for step, one in zip(STEPS, self.passes, strict=True):
            y, state = self.one_pass(subsampled(blurred, step), self._stopped(passed_on), state, cast("Pass", one))
            cut = y[..., : -(-h // step), : -(-w // step)]
            restored.append(rearrange(cut, "(b c) 1 h w -> b c h w", c=3) if self.separate else cut)
            if step > 1:
                passed_on = doubled(y)
                state = state and (doubled(state[0]), doubled(state[1]))
        quarter, half, full = restored
        return quarter, half, full

    def one_pass(
        self, blurred: Image, passed_on: Image, state: State | None, one: "Pass"
    ) -> tuple[Image, State | None]:
        """The image restored at one scale from the blurred one and the one passed on, and the state; sides that are
        multiples of 4. What is inside goes through `one`, where it can be looked at."""
        y, skips = torch.cat((blurred, passed_on), dim=1), []
        for level, seen in zip(self.encoder, one.encoder, strict=True):
            y = seen(level(y))
            skips.append(y)
        skips.pop()
        if self.cell is not None:
            y, state = self.cell(y, state)
            y = one.cell(y)
        for i, (level, seen) in enumerate(zip(self.decoder, one.decoder, strict=True)):
            y = seen(level(self.up[i - 1](y) + skips.pop() if i else y))
        return one.output(self.output(y)), state

    def _stopped(self, x: Image) -> Image:
        stops = self.training if self.stop_gradient == "training" else self.stop_gradient == "always"
        return x.detach() if stops else x


def _stages(widths: list[int], planes: int, lstm: bool) -> tuple[Stage, ...]:
    """The three passes one after the other; their modules are shared, so that each has places of its own."""
    return tuple(
        Stage(f"passes.{i}.{name}", channels, step << level)
        for i, step in enumerate(STEPS)
        for name, channels, level in (
            *((f"encoder.{level}", c, level) for level, c in enumerate(widths)),
            *([("cell", widths[-1], LEVELS - 1)] if lstm else []),
            *((f"decoder.{LEVELS - 1 - level}", widths[level], level) for level in reversed(range(LEVELS))),
            ("output", planes, 0),
        )
    )


class Pass(nn.Module):
    """Where the maps of one pass can be seen and changed; each place returns what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Identity() for _ in range(LEVELS))
        self.cell = nn.Identity()
        self.decoder = nn.ModuleList(nn.Identity() for _ in range(LEVELS))
        self.output = nn.Identity()


def residual(width: int) -> tuple["ResidualBlock", ...]:
    """The three blocks of an encoder or decoder."""
    return tuple(ResidualBlock(width) for _ in range(3))


class ResidualBlock(nn.Module):
    """Two 5 x 5 convolutions with ReLU between, added to their input; nothing cuts off the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width, width, 5, padding=2), nn.ReLU())
        self.second = nn.Conv2d(width, width, 5, padding=2)

    def forward(self, x: Image) -> Image:
        return x + self.second(self.first(x))


class ConvLSTM(nn.Module):
    """A recurrence whose gates are one 3 x 3 convolution of the map and the hidden map.

        c = sigmoid(f + 1) c + sigmoid(i) tanh(j),   h = sigmoid(o) tanh(c)

    The new hidden map goes on; both maps start at zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * width, 4 * width, 3, padding=1)

    def forward(self, x: Image, state: State | None) -> tuple[Map, State]:
        cell, hidden = state or (torch.zeros_like(x), torch.zeros_like(x))
        i, j, f, o = self.conv(torch.cat((x, hidden), dim=1)).chunk(4, dim=1)
        cell = cell * torch.sigmoid(f + 1) + torch.sigmoid(i) * torch.tanh(j)
        hidden = torch.tanh(cell) * torch.sigmoid(o)
        return hidden, (cell, hidden)


NAMING = Naming(
    renames=(
        (r"\.weight$", "/weights"),
        (r"\.bias$", "/biases"),
        (r"^encoder\.(\d)\.0\.\d/", lambda found: f"g_net/enc{int(found[1]) + 1}_1/"),
        (r"^encoder\.(\d)\.(\d)\.", lambda found: f"g_net/enc{int(found[1]) + 1}_{int(found[2]) + 1}/"),
        (r"^cell\.conv/", "g_net/convLSTM/LSTM_conv/"),
        (r"^up\.(\d)\.0/", lambda found: f"g_net/dec{2 - int(found[1])}_4/"),
        (r"^decoder\.(\d)\.(\d)\.", lambda found: f"g_net/dec{3 - int(found[1])}_{3 - int(found[2])}/"),
        (r"^output/", "g_net/dec1_0/"),
        (r"/first\.0/", "/conv1/"),
        (r"/second/", "/conv2/"),
    ),
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict."""
    width, seen = shapes["g_net/enc1_1/weights"][:2]
    return {"width": width, "separate": seen == 2, "lstm": "g_net/convLSTM/LSTM_conv/weights" in shapes}
