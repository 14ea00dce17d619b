"""A token mixer taken apart around its scans, for one window of the map: what rows at every level are made of.

Before the scan a mixer projects its input to `d` values, convolves them with one kernel per channel and bends them by
an activation; after it, it gates, normalises and projects back. Held fixed, an activation is a factor per pixel,
f(v) / v, a gate is a factor per channel, and a norm is a factor for all channels of the pixel.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis.scan_rows import Scan
from evssm.geometry import D4, IDENTITY
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D

Channels = Float[Tensor, " d"]
Values = Float[Tensor, "d h w"]
Mask = Bool[Tensor, "h w"]


class SS2DBranch:
    """One window of one image, `x`, on its way through EVSSM's mixer, which scans it in one direction or several.

    `size` are its rows and columns; `directions` the turns under which it is scanned.
    """

    def __init__(self, mixer: SS2D, x: Float[Tensor, "1 c h w"]) -> None:
        self._mixer, self._x = mixer, x
        self.size, self.directions = (x.shape[-2], x.shape[-1]), mixer.directions

    @property
    def scans(self) -> Iterator[tuple[D4, Scan]]:
        """Each direction's turn and its scan over the turned map, whose sum in the mixer's frame is y.

        They are made one by one, anew each time, since together they take many times the memory of the map.
        """
        for turn, inputs in zip(self.directions, self._mixer.each_scan(self._x), strict=True):
            yield turn, Scan.of(inputs)
            del inputs

    def scans_of(self, u: Values) -> Iterator[tuple[D4, Scan]]:
        """The scans where the values that enter them, and make their selection, are `u`."""
        for turn, inputs in zip(self.directions, self._mixer.each_scan_of(u[None]), strict=True):
            yield turn, Scan.of(inputs)

    @cached_property
    def values(self) -> Values:
        """What enters the convolution."""
        return einsum(self._mixer.in_proj.weight.chunk(2)[0], self._x[0], "d c, c h w -> d h w")

    def gate(self, cell: tuple[int, int]) -> Channels:
        """The gate's factors at one pixel."""
        r, c = cell
        return F.gelu(self._mixer.in_proj.weight.chunk(2)[1] @ self._x[0, :, r, c])

    def before(self, line: Values) -> tuple[Values, Channels]:
        """A row over the scan's input as one over `values`, and what each channel's bias adds to its sum."""
        conv = self._mixer.conv2d
        v = F.conv2d(self.values[None], conv.weight, conv.bias, padding=1, groups=len(line))[0]
        bent = line * (1 + torch.erf(v * 0.5**0.5)) / 2  # gelu(v) / v
        back = F.conv_transpose2d(bent[None], conv.weight, padding=1, groups=len(line))[0]
        bias = torch.zeros_like(bent[:, 0, 0]) if conv.bias is None else conv.bias
        return back, bias * bent.sum(dim=(1, 2))

    def after(self, y: Channels, cell: tuple[int, int], direction: Float[Tensor, " c"]) -> tuple[Channels, Tensor]:
        """`direction` of the mixer's output as one of y, norm and gate held at those of y; what biases add."""
        norm = self._mixer.out_norm
        gated = (direction @ self._mixer.out_proj.weight) * self.gate(cell)
        scaled = gated * norm.weight * torch.rsqrt(y.var(correction=0) + norm.eps)
        return scaled - scaled.mean(), gated @ norm.bias

    def to_input(self, line: Values) -> Float[Tensor, "c h w"]:
        """A row over `values` as one over the mixer's input."""
        return einsum(self._mixer.in_proj.weight.chunk(2)[0], line, "d c, d h w -> c h w")

    def emphasis(self, cell: tuple[int, int], level: str) -> Channels:
        """How strongly each channel of a row enters the output: its column's norm in the projection back, times its
        gate where the row does not hold it already."""
        loudness = self._mixer.out_proj.weight.norm(dim=0)
        return loudness if level == "A5" else loudness * self.gate(cell).abs()

    def reach(self, seen: Sequence[Mask], level: str) -> Mask:
        """The input pixels that can count at `level`, where each direction's scan sees its mask of the map."""
        if level == "A7":
            pairs = zip(self.directions, seen, strict=True)
            seen = [turn.inverse(self._selecting(turn(mask))) for turn, mask in pairs]
        everything = torch.stack(list(seen)).any(dim=0)
        return dilated(everything, 3, 3) if level in ("A5", "A6", "A7") else everything

    def _selecting(self, mask: Mask) -> Mask:
        """Where the step, B or C of the pixels in `mask` look: through a kernel over the map, or along the sequence."""
        kernel = self._mixer.x_conv.kernel_size
        if len(kernel) == 2:
            return dilated(mask, *kernel)
        return dilated(mask.reshape(1, -1), 1, kernel[0]).reshape(mask.shape)


class Mamba2Branch:
    """What `SS2DBranch` is, of the Mamba-2 block, whose sequence is the map row by row."""

    def __init__(self, mixer: Mamba2, x: Float[Tensor, "1 c h w"]) -> None:
        self._mixer, self._x = mixer, x
        self.size, self.directions = (x.shape[-2], x.shape[-1]), (IDENTITY,)

    @property
    def scans(self) -> Iterator[tuple[D4, Scan]]:
        yield IDENTITY, Scan.of(self._mixer.scan_inputs(self._x))

    @cached_property
    def values(self) -> Values:
        return einsum(self._in_proj(1), self._x[0], "d c, c h w -> d h w")

    def gate(self, cell: tuple[int, int]) -> Channels:
        r, c = cell
        return F.silu(self._in_proj(0) @ self._x[0, :, r, c])

    def before(self, line: Values) -> tuple[Values, Channels]:
        weight, bias, past = self._convolution()
        d = len(line)
        v = F.conv1d(F.pad(self.values.flatten(1), (past, 0))[None], weight, bias, groups=d)[0]
        bent = line.flatten(1) * torch.sigmoid(v)  # silu(v) / v
        back = F.conv_transpose1d(bent[None], weight, groups=d)[0][:, past:]
        offset = torch.zeros_like(bent[:, 0]) if bias is None else bias * bent.sum(dim=1)
        return back.unflatten(1, self.size), offset

    def after(self, y: Channels, cell: tuple[int, int], direction: Float[Tensor, " c"]) -> tuple[Channels, Tensor]:
        norm, gate = self._mixer.norm, self.gate(cell)
        power = rearrange(y * gate, "(g d) -> g d", g=norm.groups).square().mean(dim=1)
        scale = torch.rsqrt(power + norm.eps).repeat_interleave(len(y) // norm.groups)
        return (direction @ self._mixer.out_proj.weight) * norm.weight * scale * gate, y.new_zeros(())

    def to_input(self, line: Values) -> Float[Tensor, "c h w"]:
        return einsum(self._in_proj(1), line, "d c, d h w -> c h w")

    def emphasis(self, cell: tuple[int, int], level: str) -> Channels:
        loudness = self._mixer.out_proj.weight.norm(dim=0)
        return loudness if level == "A5" else loudness * self.gate(cell).abs()

    def reach(self, seen: Sequence[Mask], level: str) -> Mask:
        (mask,) = seen  # the convolution looks only back, where the scan looks anyway
        return mask

    def _in_proj(self, part: int) -> Float[Tensor, "d c"]:
        """The rows of the projection that make the gate (0) or the values (1)."""
        inner = self._mixer.inner
        return self._mixer.in_proj.weight[part * inner : (part + 1) * inner]

    def _convolution(self) -> tuple[Tensor, Tensor | None, int]:
        conv, inner = self._mixer.conv1d, self._mixer.inner
        return conv.weight[:inner], None if conv.bias is None else conv.bias[:inner], conv.kernel_size[0] - 1


def dilated(mask: Mask, rows: int, columns: int) -> Mask:
    """Every pixel within an odd kernel of that size around one of the mask."""
    grown: Any = F.max_pool2d(mask[None, None].float(), (rows, columns), 1, (rows // 2, columns // 2))
    return grown[0, 0] > 0


Branch = SS2DBranch | Mamba2Branch
"""One window of one image on its way through a mixer."""


def take_apart(mixer: nn.Module, x: Float[Tensor, "1 c h w"]) -> Branch:
    """The branch of `mixer`, an `SS2D` or `Mamba2`, for its input `x`; `ValueError` for any other module."""
    if isinstance(mixer, SS2D):
        return SS2DBranch(mixer, x)
    if isinstance(mixer, Mamba2):
        return Mamba2Branch(mixer, x)
    raise ValueError(f"a {type(mixer).__name__} is not known to scan; choose an SS2D or a Mamba2")
