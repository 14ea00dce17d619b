"""IFAN (Lee et al. 2021, `codeslake/IFAN`): predicts filters for every pixel and applies them to features.

"Iterative Filter Adaptive Network for Single Image Defocus Deblurring". At an eighth of the size the network predicts a
disparity between the two views of a dual-pixel sensor, and from that and the image a chain of small separable filters
for each pixel and channel, which it runs over its features.
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
from evssm.shapes import Image

SLOPE = 0.1
"""Of the leaky ReLU for negative numbers."""

TAPS = 3
"""Of a filter, along the rows and along the columns."""


class IFAN(nn.Module):
    """Deblurs `b 3 h w`, or with `dual_pixel` the views `b 6 h w` (left, right); the image is added to the output.

    `iterations` filters run one after the other, at an eighth of the size. Each is given two kernels per pixel and
    channel; the published networks apply the first along both axes and never read the second, and with
    `second_kernel` the second runs along the rows, as the paper describes it. `width` is the channels at full size,
    doubled at the first two halvings. Dual-pixel networks restore the picture of the whole lens: the mean of the
    views, or what `b 9 h w` holds after them.
    """

    adds_input = True
    """Also with two views: then their picture."""

    def __init__(
        self, *, width: int = 32, iterations: int = 17, second_kernel: bool = False, dual_pixel: bool = False
    ) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        coarse = widths[-1]
        self.encoder = encoder(3, widths)
        self.join = nn.Sequential(convolution(2 * coarse, coarse), *deeper(coarse, 2, 2), convolution(coarse, coarse))
        self.refine = nn.Sequential(convolution(coarse, coarse), ResidualSteps(coarse, 3), convolution(coarse, coarse))
        self.up = nn.ModuleList(map(Rise, widths[:0:-1], widths[-2::-1]))
        self.output = convolution(width, 3)
        self.blur_encoder = encoder(6 if dual_pixel else 3, widths)
        self.disparity = nn.Sequential(
            convolution(coarse, coarse), *deeper(coarse, 2, 2), nn.Conv2d(coarse, 1, 3, padding=1)
        )
        self.embed_disparity = convolution(1, coarse)
        self.filters = nn.Sequential(
            convolution(coarse, coarse),
            *deeper(coarse, 2, 2),
            nn.Conv2d(coarse, iterations * (2 * TAPS + 1) * coarse, 1),
        )
        self.filtered = FilterChain(second_kernel)
        self.stages = _stages(widths, iterations)
        initialise_convolutions(self, nn.init.xavier_uniform_)
        initialise_convolutions(self.filters, partial(nn.init.xavier_uniform_, gain=1.5))

    def forward(self, x: Float[Tensor, "b views h w"]) -> Float[Tensor, "b 3 h w"]:
        h, w = x.shape[-2:]
        views, picture = views_and_picture(pad_to_multiple(x, 8))
        # The official code takes the right view first.
        k = self.blur_encoder(torch.cat(views[::-1], dim=1) if views else picture)
        t = self.join(torch.cat((k, self.embed_disparity(self.disparity(k))), dim=1))
        y, skips = picture, []
        for level in self.encoder:
            y = level(y)
            skips.append(y)
        y = self.refine(self.filtered(skips.pop(), self.filters(t)))
        for rise in self.up:
            y = rise(y, skips.pop())
        return (self.output(y) + picture)[..., :h, :w]


def _stages(widths: list[int], iterations: int) -> tuple[Stage, ...]:
    """In the order of the forward pass: what blurs, the disparity, the image's features, the filters, the rest."""
    coarse = widths[-1]

    def levels(name: str) -> list[Stage]:
        return [Stage(f"{name}.{level}", c, 1 << level) for level, c in enumerate(widths)]

    return (
        *levels("blur_encoder"),
        Stage("disparity", 1, 8),
        Stage("embed_disparity", coarse, 8),
        Stage("join", coarse, 8),
        *levels("encoder"),
        Stage("filters", iterations * (2 * TAPS + 1) * coarse, 8),
        Stage("filtered", coarse, 8),
        Stage("refine", coarse, 8),
        *(Stage(f"up.{i}", c, 4 >> i) for i, c in enumerate(widths[-2::-1])),
        Stage("output", 3, 1),
    )


def convolution(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution and the leaky ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1), nn.LeakyReLU(SLOPE))


def encoder(c_in: int, widths: list[int]) -> nn.Sequential:
    """Three convolutions per level; all levels but the first halve the map."""
    channels = [c_in, *widths]
    return nn.Sequential(
        *(
            nn.Sequential(convolution(channels[i], c, 2 if i else 1), convolution(c, c), convolution(c, c))
            for i, c in enumerate(widths)
        )
    )


def deeper(width: int, blocks: int, steps: int) -> tuple["ResidualSteps", ...]:
    return tuple(ResidualSteps(width, steps) for _ in range(blocks))


class ResidualSteps(nn.Module):
    """`steps` times x = act(x + conv(act(conv(x)))); after several steps what came in is added once more."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            nn.Sequential(convolution(width, width)[0], nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(steps)
        )

    def forward(self, x: Image) -> Image:
        y = x
        for step in self.stem:
            y = F.leaky_relu(y + step(y), SLOPE)
        return y + x if len(self.stem) > 1 else y


class Rise(nn.Module):
    """A map enlarged by two, the encoder's map added, and two residual steps."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.enlarge = nn.Sequential(nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE))
        self.first, self.second = ResidualSteps(c_out, 1), ResidualSteps(c_out, 1)

    def forward(self, x: Image, skip: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        return self.second(self.first(self.enlarge(x) + skip))


class FilterChain(nn.Module):
    """Separable filters, one per pixel and channel, run one after the other over a map (the paper's IAC).

    Each filters the columns, then the rows, adds a number to each value and passes the leaky ReLU. The first
    2 * 3 * c channels per filter are two kernels of three taps, the taps of a channel next to each other; the numbers
    to add follow after all kernels. Borders are repeated. `second_kernel` as in `IFAN`.
    """

    def __init__(self, second_kernel: bool) -> None:
        super().__init__()
        self.second_kernel = second_kernel

    def forward(self, x: Image, filters: Float[Tensor, "b _ h w"]) -> Image:
        c = x.shape[1]
        chain = filters.shape[1] // (c * (2 * TAPS + 1))
        kernels = rearrange(
            filters[:, : chain * 2 * TAPS * c],
            "b (chain two c taps) h w -> chain two taps b c h w",
            two=2,
            c=c,
            taps=TAPS,
        )
        shifts = rearrange(filters[:, chain * 2 * TAPS * c :], "b (chain c) h w -> chain b c h w", c=c)
        for (first, second), shift in zip(kernels, shifts, strict=True):
            x = filtered(x, first, -2)
            x = filtered(x, second if self.second_kernel else first, -1)
            x = F.leaky_relu(x + shift, SLOPE)
        return x


def filtered(x: Image, taps: Float[Tensor, "taps b c h w"], axis: int) -> Image:
    """Each pixel the sum of its neighbours along `axis`, border pixels repeated, weighted by its own `taps`."""
    size, reach = x.shape[axis], len(taps) // 2
    padded = F.pad(x, (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0), mode="replicate")
    y = taps[0] * padded.narrow(axis, 0, size)
    for t, tap in enumerate(taps[1:], 1):
        y = y + tap * padded.narrow(axis, t, size)
    return y


def warped(x: Image, disparity: Float[Tensor, "b 1 h w"]) -> Image:
    """`x` sampled at column j + disparity[i, j] of each row i, in pixels, bilinearly; zeros outside.

    With the right view, made as small as the disparity, this is what training holds against the left view.
    """
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (h, w))
    at = torch.stack(torch.broadcast_tensors(columns + disparity[:, 0], rows[:, None]), -1)
    edges = torch.tensor((w - 1, h - 1), dtype=x.dtype, device=x.device)  # -1 and 1 are the centres of border pixels
    return F.grid_sample(x, at * 2 / edges - 1, mode="bilinear", padding_mode="zeros", align_corners=True)


NAMING = Naming(
    renames=(
        (r"^encoder\.(\d)\.(\d)\.", lambda found: f"conv{int(found[1]) + 1}_{int(found[2]) + 1}."),
        (r"^blur_encoder\.(\d)\.(\d)\.", lambda found: f"kconv{int(found[1]) + 1}_{int(found[2]) + 1}."),
        (r"^join\.", "conv4_4."),
        (r"^refine\.", "conv_res."),
        (r"^up\.(\d)\.enlarge\.", lambda found: f"upconv{3 - int(found[1])}_u."),
        (r"^up\.(\d)\.first\.", lambda found: f"upconv{3 - int(found[1])}_1."),
        (r"^up\.(\d)\.second\.", lambda found: f"upconv{3 - int(found[1])}_2."),
        (r"^output\.", "out_res."),
        (r"^disparity\.", "DME."),
        (r"^embed_disparity\.", "conv_DME."),
        (r"^filters\.", "F."),
    ),
    prefix="Network.",
    unread=r"reblurNet\..*",  # blurs the sharp image again, in training
)


def infer(shapes: Shapes) -> dict[str, Any]:
    """The constructor arguments that follow from the shapes of an official state dict; `second_kernel` does not."""
    width = shapes["conv1_1.0.weight"][0]
    return {
        "width": width,
        "iterations": shapes["F.3.bias"][0] // (4 * width * (2 * TAPS + 1)),
        "dual_pixel": shapes["kconv1_1.0.weight"][1] == 6,
    }
