"""A token mixer taken apart around its scans, for one window of the map: what rows and columns are made of.

Before the scan a mixer projects its input to `d` values, convolves them with one kernel per channel and bends them by
an activation; after it, it gates, normalises and projects back. Held fixed, an activation is a factor per pixel,
f(v) / v, a gate is a factor per channel, and a norm is a factor for all channels of the pixel.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis.scan_rows import Scan, scan_output, without_skip
from analysis.scan_tangents import Nudge
from evssm.geometry import D4, IDENTITY
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D

Channels = Float[Tensor, " d"]
Values = Float[Tensor, "d h w"]
Mask = Bool[Tensor, "h w"]
Cell = tuple[int, int]


class TakenApart(ABC):
    """The scans of one window, made anew whenever they are asked for, since together they take many times the memory of
    the map; or held, for many questions."""

    _held: list[tuple[D4, Scan]] | None = None

    @property
    def scans(self) -> Iterator[tuple[D4, Scan]]:
        """Each direction's turn and its scan over the turned map, whose sum in the mixer's frame is y."""
        return self.each_scan() if self._held is None else iter(self._held)

    @abstractmethod
    def each_scan(self) -> Iterator[tuple[D4, Scan]]:
        """The scans, made one by one."""

    def hold(self) -> None:
        """Holds the scans from now on, each channel's steps side by side, as rows and columns read them."""
        self._held = [(turn, Scan(*(part.contiguous() for part in scan))) for turn, scan in self.scans]

    @cached_property
    def answers(self) -> list[Tensor] | None:
        """What each scan answers without its skip; `None` where scans are not held."""
        return None if self._held is None else [scan_output(without_skip(scan)) for _, scan in self._held]


class SS2DBranch(TakenApart):
    """One window of one image, `x`, on its way through EVSSM's mixer, which scans it in one direction or several.

    `size` are its rows and columns; `directions` the turns under which it is scanned.
    """

    def __init__(self, mixer: SS2D, x: Float[Tensor, "1 c h w"]) -> None:
        self._mixer, self._x = mixer, x
        self.size, self.directions = (x.shape[-2], x.shape[-1]), mixer.directions

    def each_scan(self) -> Iterator[tuple[D4, Scan]]:
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
        return self.projected(self._x[0])

    def projected(self, x: Float[Tensor, "c *place"]) -> Float[Tensor, "d *place"]:
        """What enters the convolution for an input of the mixer."""
        return torch.tensordot(self._mixer.in_proj.weight.chunk(2)[0], x, dims=1)

    def gate(self, cell: Cell | None = None) -> Float[Tensor, "d *place"]:
        """The gate's factors at one pixel, or everywhere."""
        x = self._x[0] if cell is None else self._x[(0, ..., *cell)]
        return F.gelu(torch.tensordot(self._mixer.in_proj.weight.chunk(2)[1], x, dims=1))

    def before(self, line: Values) -> tuple[Values, Channels]:
        """A row over the scan's input as one over `values`, and what each channel's bias adds to its sum."""
        conv = self._mixer.conv2d
        bent = line * (1 + torch.erf(self._convolved() * 0.5**0.5)) / 2  # gelu(v) / v
        back = F.conv_transpose2d(bent[None], conv.weight, padding=1, groups=len(line))[0]
        bias = torch.zeros_like(bent[:, 0, 0]) if conv.bias is None else conv.bias
        return back, bias * bent.sum(dim=(1, 2))

    def fan(self, cell: Cell, level: str) -> dict[Cell, Channels]:
        """What one of `values` at a pixel adds to the scan's input at those around it, the activation held fixed; at
        level "A7" how much it changes it, by the activation's slope."""
        conv, (h, w), (r, c) = self._mixer.conv2d, self.size, cell
        v, found = self._convolved(), {}
        for a, b in product(range(3), repeat=2):
            to = r + 1 - a, c + 1 - b
            if 0 <= to[0] < h and 0 <= to[1] < w:
                here = v[(..., *to)]
                bend = (1 + torch.erf(here * 0.5**0.5)) / 2
                if level == "A7":
                    bend = bend + here * torch.exp(-here.square() / 2) / (2 * pi) ** 0.5
                found[to] = conv.weight[:, 0, a, b] * bend
        return found

    def nudged(self, cell: Cell) -> Iterator[tuple[D4, Scan, dict[int, Nudge]]]:
        """Each direction's turn, its scan, and how that changes with each channel of the mixer's input at a pixel."""
        to_values, mixer = self._mixer.in_proj.weight.chunk(2)[0], self._mixer
        change = {at: factor[:, None] * to_values for at, factor in self.fan(cell, "A7").items()}
        for number, (turn, scan) in enumerate(self.scans):
            du, nudges = {step_of(turn, at, *self.size): each for at, each in change.items()}, {}
            for step, each in self._selected(number, turn, change).items():
                raw, B, C = each.split([mixer.rank, mixer.state, mixer.state])
                slope = -torch.expm1(-scan.delta[:, step, None])  # of softplus, where that is delta
                u = du[step] if step in du else torch.zeros_like(to_values)
                nudges[step] = Nudge(u, slope * (mixer.dt_projs_weight[number] @ raw), B[None], C[None])
            yield turn, scan, nudges

    def after(
        self, y: Float[Tensor, "d *place"], gate: Float[Tensor, "d *place"], direction: Float[Tensor, "c *place"]
    ) -> tuple[Float[Tensor, "d *place"], Float[Tensor, "*place"]]:
        """`direction` of the mixer's output as one of y, norm and gate held at those of y; what biases add."""
        norm = self._mixer.out_norm
        gated = torch.tensordot(self._mixer.out_proj.weight.mT, direction, dims=1) * gate
        scaled = einsum(norm.weight, gated, "d, d ... -> d ...") * torch.rsqrt(y.var(dim=0, correction=0) + norm.eps)
        return scaled - scaled.mean(dim=0), einsum(norm.bias, gated, "d, d ... -> ...")

    def added(self, part: Values, y: Values) -> Float[Tensor, "c h w"]:
        """What a part of y adds to the mixer's output, norm and gate held at those of y."""
        norm = self._mixer.out_norm
        normed = (part - part.mean(dim=0)) * torch.rsqrt(y.var(dim=0, correction=0) + norm.eps)
        gated = einsum(norm.weight, normed, "d, d h w -> d h w") * self.gate()
        return torch.tensordot(self._mixer.out_proj.weight, gated, dims=1)

    def heard(self, y: Values, direction: Float[Tensor, "c h w"]) -> tuple[Values, Float[Tensor, "c h w"]]:
        """`direction` of the mixer's output, of each pixel its own, as one of y, and as one of what makes the gate."""
        mixer = self._mixer
        with torch.enable_grad():
            inputs = y[None].detach().requires_grad_(), self._x.detach().requires_grad_()
            gate, back = mixer.in_proj.weight.chunk(2)[1], mixer.out_proj.weight
            out = mixer.out_norm(*inputs, projection=gate, output=back)
            by_y, by_gate = torch.autograd.grad(out, inputs, direction[None])
        return by_y[0], by_gate[0]

    def to_input(self, line: Values) -> Float[Tensor, "c h w"]:
        """A row over `values` as one over the mixer's input."""
        return einsum(self._mixer.in_proj.weight.chunk(2)[0], line, "d c, d h w -> c h w")

    def emphasis(self, cell: Cell, level: str) -> Channels:
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

    def _convolved(self) -> Values:
        """What enters the activation."""
        conv = self._mixer.conv2d
        return F.conv2d(self.values[None], conv.weight, conv.bias, padding=1, groups=len(self.values))[0]

    def _selected(
        self, number: int, turn: D4, change: Mapping[Cell, Float[Tensor, "d c"]]
    ) -> dict[int, Float[Tensor, "s c"]]:
        """The changes of one direction's parameters, by step, that come of those of its values."""
        found: dict[int, Tensor] = {}
        for at, each in change.items():
            projected = self._mixer.x_proj_weight[number] @ each
            for step, weight in self._readers(number, turn, at):
                added = weight[:, None] * projected
                found[step] = found[step] + added if step in found else added
        return found

    def _readers(self, number: int, turn: D4, cell: Cell) -> Iterator[tuple[int, Float[Tensor, " s"]]]:
        """The steps of one direction whose delta, B and C read a pixel, and by what weights."""
        weight = self._mixer.x_conv.weight.chunk(len(self.directions))[number][:, 0]
        (h, w), step = turn.size(*self.size), step_of(turn, cell, *self.size)
        if weight.ndim == 2:  # along the sequence: a map of one row
            weight, h, w = weight[:, None], 1, h * w
        r, c = divmod(step, w)
        high, wide = weight.shape[1:]
        for a, b in product(range(high), range(wide)):
            y, x = r + high // 2 - a, c + wide // 2 - b
            if 0 <= y < h and 0 <= x < w:
                yield y * w + x, weight[:, a, b]

    def _selecting(self, mask: Mask) -> Mask:
        """Where the step, B or C of the pixels in `mask` look: through a kernel over the map, or along the sequence."""
        kernel = self._mixer.x_conv.kernel_size
        if len(kernel) == 2:
            return dilated(mask, *kernel)
        return dilated(mask.reshape(1, -1), 1, kernel[0]).reshape(mask.shape)


class Mamba2Branch(TakenApart):
    """What `SS2DBranch` is, of the Mamba-2 block, whose sequence is the map row by row."""

    def __init__(self, mixer: Mamba2, x: Float[Tensor, "1 c h w"]) -> None:
        self._mixer, self._x = mixer, x
        self.size, self.directions = (x.shape[-2], x.shape[-1]), (IDENTITY,)

    def each_scan(self) -> Iterator[tuple[D4, Scan]]:
        yield IDENTITY, Scan.of(self._mixer.scan_inputs(self._x))

    @cached_property
    def values(self) -> Values:
        return self.projected(self._x[0])

    def projected(self, x: Float[Tensor, "c *place"]) -> Float[Tensor, "d *place"]:
        return torch.tensordot(self._in_proj(1), x, dims=1)

    def gate(self, cell: Cell | None = None) -> Float[Tensor, "d *place"]:
        return F.silu(self._before_gate(self._x[0] if cell is None else self._x[(0, ..., *cell)]))

    def before(self, line: Values) -> tuple[Values, Channels]:
        weight, bias, past = self._convolution()
        d = len(line)
        v = F.conv1d(F.pad(self.values.flatten(1), (past, 0))[None], weight, bias, groups=d)[0]
        bent = line.flatten(1) * torch.sigmoid(v)  # silu(v) / v
        back = F.conv_transpose1d(bent[None], weight, groups=d)[0][:, past:]
        offset = torch.zeros_like(bent[:, 0]) if bias is None else bias * bent.sum(dim=1)
        return back.unflatten(1, self.size), offset

    def fan(self, cell: Cell, level: str) -> dict[Cell, Channels]:
        inner = self._mixer.inner
        return {divmod(step, self.size[1]): each[:inner] for step, each in self._followers(cell, level).items()}

    def nudged(self, cell: Cell) -> Iterator[tuple[D4, Scan, dict[int, Nudge]]]:
        mixer, here = self._mixer, step_of(IDENTITY, cell, *self.size)
        _, to_xBC, to_dt = mixer.in_proj.weight.split([mixer.inner, mixer.conv1d.out_channels, len(mixer.dt_bias)])
        ((turn, scan),) = self.scans
        nudges = {}
        for step, factor in self._followers(cell, "A7").items():
            u, B, C = (factor[:, None] * to_xBC).split([mixer.inner, *[mixer.groups * mixer.state] * 2])
            B, C = (rearrange(each, "(g n) c -> g n c", g=mixer.groups) for each in (B, C))
            slope = -torch.expm1(-scan.delta[:, step, None])  # of softplus, where that is delta
            nudges[step] = Nudge(u, slope * to_dt if step == here else torch.zeros_like(to_dt), B, C)
        yield turn, scan, nudges

    def after(
        self, y: Float[Tensor, "d *place"], gate: Float[Tensor, "d *place"], direction: Float[Tensor, "c *place"]
    ) -> tuple[Float[Tensor, "d *place"], Float[Tensor, "*place"]]:
        weighted = torch.tensordot(self._mixer.out_proj.weight.mT, direction, dims=1) * self._scale(y, gate) * gate
        return weighted, torch.zeros_like(weighted[0])

    def added(self, part: Values, y: Values) -> Float[Tensor, "c h w"]:
        gate = self.gate()
        return torch.tensordot(self._mixer.out_proj.weight, part * gate * self._scale(y, gate), dims=1)

    def heard(self, y: Values, direction: Float[Tensor, "c h w"]) -> tuple[Values, Float[Tensor, "c h w"]]:
        with torch.enable_grad():
            inputs = y.detach().requires_grad_(), self._x[0].detach().requires_grad_()
            tokens, z = (rearrange(each, "d h w -> 1 (h w) d") for each in (inputs[0], self._before_gate(inputs[1])))
            out = self._mixer.out_proj(self._mixer.norm(tokens, z))
            by_y, by_gate = torch.autograd.grad(out, inputs, rearrange(direction, "c h w -> 1 (h w) c"))
        return by_y, by_gate

    def to_input(self, line: Values) -> Float[Tensor, "c h w"]:
        return einsum(self._in_proj(1), line, "d c, d h w -> c h w")

    def emphasis(self, cell: Cell, level: str) -> Channels:
        loudness = self._mixer.out_proj.weight.norm(dim=0)
        return loudness if level == "A5" else loudness * self.gate(cell).abs()

    def reach(self, seen: Sequence[Mask], level: str) -> Mask:
        (mask,) = seen  # the convolution looks only back, where the scan looks anyway
        return mask

    def _before_gate(self, x: Float[Tensor, "c *place"]) -> Float[Tensor, "d *place"]:
        return torch.tensordot(self._in_proj(0), x, dims=1)

    def _scale(self, y: Float[Tensor, "d *place"], gate: Float[Tensor, "d *place"]) -> Float[Tensor, "d *place"]:
        """The norm's factors, its weights among them."""
        norm = self._mixer.norm
        power = rearrange(y * gate, "(g d) ... -> g d ...", g=norm.groups).square().mean(dim=1)
        scale = torch.rsqrt(power + norm.eps).repeat_interleave(len(y) // norm.groups, dim=0)
        return einsum(norm.weight, scale, "d, d ... -> d ...")

    def _followers(self, cell: Cell, level: str) -> dict[int, Float[Tensor, " _"]]:
        """What the convolved channels, those of B and C after the values, get of a pixel's own, by step; as `fan`."""
        conv, (h, w) = self._mixer.conv1d, self.size
        s, past, inner = step_of(IDENTITY, cell, h, w), conv.kernel_size[0] - 1, self._mixer.inner
        tokens = F.pad(self._x[0].flatten(1)[:, max(0, s - past) : s + past + 1], (max(0, past - s), 0))
        line = self._mixer.in_proj.weight[inner : inner + conv.out_channels] @ tokens
        v = F.conv1d(line[None], conv.weight, conv.bias, groups=len(line))[0]
        bend = torch.sigmoid(v)
        if level == "A7":
            bend = bend * (1 + v * (1 - bend))
        return {s + i: conv.weight[:, 0, past - i] * bend[:, i] for i in range(v.shape[1])}

    def _in_proj(self, part: int) -> Float[Tensor, "d c"]:
        """The rows of the projection that make the gate (0) or the values (1)."""
        inner = self._mixer.inner
        return self._mixer.in_proj.weight[part * inner : (part + 1) * inner]

    def _convolution(self) -> tuple[Tensor, Tensor | None, int]:
        conv, inner = self._mixer.conv1d, self._mixer.inner
        return conv.weight[:inner], None if conv.bias is None else conv.bias[:inner], conv.kernel_size[0] - 1


def step_of(turn: D4, cell: Cell, h: int, w: int) -> int:
    """The step at which one direction's scan comes to a pixel."""
    r, c = turn.points(cell, h, w)
    return r * turn.size(h, w)[1] + c


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
