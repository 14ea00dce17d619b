"""The Mamba-2 block as a token mixer of feature maps: project, convolve, scan, gate, project back."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.layers import inverse_softplus_of_log_uniform
from evssm.precision import at_least_float32
from evssm.shapes import Image
from evssm.ssd import ssd_scan
from evssm.windows import in_windows


class SSDInputs(NamedTuple):
    """What the scan of a Mamba-2 block runs on; `dt` is the positive step, already passed through softplus."""

    x: Float[Tensor, "b l heads p"]
    dt: Float[Tensor, "b l heads"]
    A: Float[Tensor, " heads"]
    B: Float[Tensor, "b l groups n"]
    C: Float[Tensor, "b l groups n"]
    D: Float[Tensor, " heads"] | Float[Tensor, "heads p"]


class Mamba2(nn.Module):
    """The Mamba-2 block (Dao & Gu 2024, Sec. 7) on the pixels of a map, row by row as it lies.

    `state` numbers per channel, `head` channels that share one decay, `groups` of heads that share B and C, `kernel`
    steps that the causal convolution sees, the present one included. `d_per_channel` gives each channel, not each head,
    its own skip weight; `window` is that of `SS2D`. With the defaults EVSSM2 has the published 24 M parameters; a head
    of 64 channels is Mamba-2's own default too. Raises `ValueError` where heads or groups do not come out even.
    """

    def __init__(
        self,
        width: int,
        *,
        state: int = 96,
        head: int = 64,
        expand: int = 4,
        groups: int = 1,
        kernel: int = 4,
        d_per_channel: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        inner = expand * width
        heads = _heads(inner, head, groups)
        self.state, self.head, self.groups, self.inner, self.window = state, head, groups, inner, window
        convolved = inner + 2 * groups * state
        self.dt_bias = nn.Parameter(inverse_softplus_of_log_uniform(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(inner if d_per_channel else heads))
        self.in_proj = nn.Linear(width, inner + convolved + heads, bias=False)
        self.conv1d = nn.Conv1d(convolved, convolved, kernel, groups=convolved)
        self.norm = GatedRMSNorm(inner, groups)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Image) -> Image:
        return in_windows(self._mix, x, self.window)

    def _mix(self, x: Image) -> Image:
        y = rearrange(ssd_scan(*self.scan_inputs(x)), "b l heads p -> b l (heads p)")
        mixed = self.out_proj(self.norm(y, self._gate(x)))
        return rearrange(mixed, "b (h w) c -> b c h w", h=x.shape[2])

    def scan_inputs(self, x: Image) -> SSDInputs:
        """What the scan runs on for the block's input `x`; its steps are the pixels, row by row."""
        _, to_xBC, to_dt = self._projections()
        tokens = rearrange(x, "b c h w -> b (h w) c")
        xBC = self._convolve(tokens, to_xBC)
        values, B, C = xBC.split([self.inner, *[self.groups * self.state] * 2], dim=-1)
        B, C = (rearrange(t, "b l (groups n) -> b l groups n", groups=self.groups) for t in (B, C))
        dt = F.softplus(at_least_float32(F.linear(tokens, to_dt)) + at_least_float32(self.dt_bias))
        D = self.D if self.D.shape == self.dt_bias.shape else rearrange(self.D, "(heads p) -> heads p", p=self.head)
        A = -at_least_float32(self.A_log).exp()
        return SSDInputs(rearrange(values, "b l (heads p) -> b l heads p", p=self.head), dt, A, B, C, D)

    def _gate(self, x: Image) -> Float[Tensor, "b l inner"]:
        return F.linear(rearrange(x, "b c h w -> b (h w) c"), self._projections()[0])

    def _projections(self) -> tuple[Tensor, ...]:
        """The rows of `in_proj` that make the gate, the convolved x, B and C, and the raw step."""
        return self.in_proj.weight.split([self.inner, self.conv1d.out_channels, len(self.dt_bias)])

    def _convolve(self, tokens: Float[Tensor, "b l c"], to_xBC: Tensor) -> Float[Tensor, "b l convolved"]:
        """The causal convolution over the steps, then SiLU.

        Zeros go before the narrow tokens, not before their wide projection, which has no bias and keeps them zero. As a
        two-dimensional convolution of a channels-last map it runs several times faster than as a one-dimensional one.
        """
        past = self.conv1d.kernel_size[0] - 1
        line = rearrange(F.linear(F.pad(tokens, (0, 0, past, 0)), to_xBC), "b l c -> b c 1 l")
        convolved = F.conv2d(line, self.conv1d.weight[:, :, None], self.conv1d.bias, groups=line.shape[1])
        return rearrange(F.silu(convolved), "b c 1 l -> b l c")


class GatedRMSNorm(nn.Module):
    """`y SiLU(z)`, divided by its root mean square over each of `groups` equal runs of channels, then scaled."""

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups, self.eps = groups, eps

    def forward(self, y: Float[Tensor, "b l d"], z: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        gated = rearrange(y * F.silu(z), "b l (g d) -> b l g d", g=self.groups)
        scale = torch.rsqrt(gated.square().mean(dim=-1, keepdim=True) + self.eps)
        return rearrange(gated * scale, "b l g d -> b l (g d)") * self.weight


def _heads(inner: int, head: int, groups: int) -> int:
    """How many heads of `head` channels make `inner`; raises `ValueError` where they, or their groups, are uneven."""
    if inner % head:
        fit = [size for size in range(1, inner + 1) if inner % size == 0]
        raise ValueError(f"head={head} does not divide expand * width = {inner} channels; sizes that do: {fit}")
    if (inner // head) % groups:
        raise ValueError(f"groups={groups} does not divide the {inner // head} heads of {head} of {inner} channels")
    return inner // head
