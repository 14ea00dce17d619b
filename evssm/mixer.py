"""The token mixer of EVSSM: a selective scan over a feature map, read row by row in one or several directions."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from evssm.fused import depthwise, linear
from evssm.geometry import D4, IDENTITY
from evssm.layers import LayerNorm2d, at_least_float32, inverse_softplus_of_log_uniform
from evssm.scan import selective_scan
from evssm.shapes import Image, Map
from evssm.windows import in_windows


class ScanInputs(NamedTuple):
    """What one selective scan runs on; `delta` is the positive step, already passed through softplus."""

    u: Float[Tensor, "b d l"]
    delta: Float[Tensor, "b d l"]
    A: Float[Tensor, "d n"]
    B: Float[Tensor, "b n l"]
    C: Float[Tensor, "b n l"]
    D: Float[Tensor, " d"]


class SS2D(nn.Module):
    """The SSM branch of an EVS block (Kong et al. 2025, Sec. 3.2): project, convolve, scan, gate, project back.

    `directions` are the turns under which the map is read row by row; EVSSM reads it once, as it lies, VMamba in four
    directions whose results are summed before the norm (Liu et al. 2024). `kernel` is the shape of the depth-wise
    convolution on the parameters (delta, B, C) of the scan: `(7,)` runs along the flattened sequence as in the
    released code, `(k, k)` over the map as the paper describes it. With `window`, maps larger than this many pixels
    are mixed in overlapping windows that are averaged. No branch of it ever sees the whole batch: any batch size
    works.
    """

    def __init__(
        self,
        width: int,
        *,
        state: int = 8,
        expand: int = 2,
        directions: tuple[D4, ...] = (IDENTITY,),
        kernel: tuple[int, ...] = (7,),
        window: int | None = None,
    ) -> None:
        super().__init__()
        inner, rank, k = expand * width, -(-width // 16), len(directions)
        self.directions, self.state, self.rank, self.window = directions, state, rank, window
        selection = rank + 2 * state
        conv: Any = nn.Conv1d if len(kernel) == 1 else nn.Conv2d
        projections = [nn.Linear(inner, selection, bias=False).weight for _ in directions]
        self.x_proj_weight = nn.Parameter(torch.stack([weight.detach() for weight in projections]))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_projs_bias = nn.Parameter(inverse_softplus_of_log_uniform(k, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(k * inner, 1))
        self.Ds = nn.Parameter(torch.ones(k * inner))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_conv = conv(
            k * selection,
            k * selection,
            kernel,
            padding=tuple(size // 2 for size in kernel),
            groups=k * selection,
        )
        self.out_norm = LayerNorm2d(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Image) -> Image:
        return in_windows(self._mix, x, self.window)

    def scan_inputs(self, x: Image) -> tuple[ScanInputs, ...]:
        """What each direction's scan runs on for the branch's input `x` (one window), in `directions`' order."""
        return tuple(self.each_scan(x))

    def each_scan(self, x: Image) -> Iterator[ScanInputs]:
        """What `scan_inputs` gives, one direction at a time: at full resolution each takes several times the map."""
        u = self._values(x)
        for k, turn in enumerate(self.directions):
            yield self._inputs(u, k, turn)

    def _inputs(self, u: Image, k: int, turn: D4) -> ScanInputs:
        turned, delta, B, C = self._selection(u, k, turn)
        bias = at_least_float32(self.dt_projs_bias[k])[:, None]
        A, D = self._transition(k)
        return ScanInputs(turned, F.softplus(at_least_float32(delta) + bias), A, B, C, D)

    def _mix(self, x: Image) -> Image:
        u = self._values(x)
        total: Tensor | None = None
        for k, turn in enumerate(self.directions):
            y = self._scan(u, k, turn)
            total = y if total is None else total + y
        assert total is not None
        gate = linear(x, self.in_proj.weight.chunk(2)[1])
        return linear(self.out_norm(total.to(x.dtype), gate), self.out_proj.weight)

    def _values(self, x: Image) -> Float[Tensor, "b _ h w"]:
        """The sequence's values `b d h w`, before they are flattened."""
        projection = self.in_proj.weight.chunk(2)[0]
        return depthwise(x, self.conv2d.weight, self.conv2d.bias, "gelu", projection=projection)

    def _scan(self, u: Image, k: int, turn: D4) -> Image:
        turned, delta, B, C = self._selection(u, k, turn)
        A, D = self._transition(k)
        bias = at_least_float32(self.dt_projs_bias[k])
        y = selective_scan(turned, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)
        h, _ = turn.size(*u.shape[-2:])
        return turn.inverse(rearrange(y, "b d (h w) -> b d h w", h=h))

    def _selection(self, u: Image, k: int, turn: D4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Direction `k`'s sequence `b d l`, raw step `b d l`, B and C `b n l`."""
        u = turn(u).contiguous(memory_format=torch.channels_last)  # one copy here spares slow ones of each part
        s = self._convolved(u, k)
        delta = rearrange(linear(s[:, : self.rank], self.dt_projs_weight[k]), "b d h w -> b d (h w)")
        _, B, C = rearrange(s, "b s h w -> b s (h w)").split((self.rank, self.state, self.state), dim=1)
        u = rearrange(u, "b d h w -> b d (h w)")
        return tuple(map(at_least_float32, (u, delta, B, C)))  # type: ignore[return-value]

    def _convolved(self, u: Image, k: int) -> Map:
        """Direction `k`'s (delta, B, C) of the turned values, convolved; 1-D kernels run on across the ends of rows."""
        h, count = u.shape[-2], self.x_proj_weight.shape[1]
        own = slice(k * count, (k + 1) * count)
        weight, bias, projection = self.x_conv.weight[own], self.x_conv.bias[own], self.x_proj_weight[k]
        if weight.dim() == 4:
            return depthwise(u, weight, bias, projection=projection)
        line = depthwise(rearrange(u, "b d h w -> b d 1 (h w)"), weight[:, :, None], bias, projection=projection)
        return rearrange(line, "b s 1 (h w) -> b s h w", h=h)

    def _transition(self, k: int) -> tuple[Float[Tensor, "d n"], Float[Tensor, " d"]]:
        A_logs, Ds = (at_least_float32(p).chunk(len(self.directions))[k] for p in (self.A_logs, self.Ds))
        return -A_logs.exp(), Ds
