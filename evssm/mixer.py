"""The token mixer of EVSSM: a selective scan over a feature map, read row by row in one or several directions."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from evssm.fused import depthwise_beside
from evssm.geometry import D4, IDENTITY
from evssm.layers import LayerNorm2d, inverse_softplus_of_log_uniform
from evssm.precision import at_least_float32
from evssm.scan_selected import scan_selected, select
from evssm.shapes import Image
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
        return self.each_scan_of(self._values(x)[0])

    def each_scan_of(self, u: Image) -> Iterator[ScanInputs]:
        """What `each_scan` gives where the values `b d h w` that enter the scans, and make their selection, are u."""
        for k, turn in enumerate(self.directions):
            yield self._inputs(u, k, turn)

    def _inputs(self, u: Image, k: int, turn: D4) -> ScanInputs:
        turned = turn(u).contiguous(memory_format=torch.channels_last)  # one copy, which spares slow ones of its parts
        sequence, delta, B, C = select(turned, *self._selection(k))
        A, D, bias = self._transition(k)
        return ScanInputs(sequence, F.softplus(delta + bias[:, None]), A, B, C, D)

    def _mix(self, x: Image) -> Image:
        u, x, gate = self._values(x)
        total: Tensor | None = None
        for k, turn in enumerate(self.directions):
            y = turn.inverse(scan_selected(turn(u), *self._selection(k), *self._transition(k)))
            total = y if total is None else total + y
        assert total is not None
        return self.out_norm(total.to(x.dtype), x, projection=gate, output=self.out_proj.weight)

    def _values(self, x: Image) -> tuple[Float[Tensor, "b d h w"], Image, Float[Tensor, "d _"]]:
        """The sequence's values, before they are flattened; and x again with the matrix that makes the gate of it."""
        values, gate = self.in_proj.weight.chunk(2)
        return *depthwise_beside(x, self.conv2d.weight, self.conv2d.bias, "gelu", projection=values), gate

    def _selection(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The weights that select direction `k`'s parameters: projection, convolution, its bias, step sizes."""
        projections, steps = (p.flatten(0, 1) for p in (self.x_proj_weight, self.dt_projs_weight))
        parameters = (projections, self.x_conv.weight, self.x_conv.bias, steps)
        projection, weight, bias, steps = (self._share(p, k) for p in parameters)
        return projection, weight, bias, steps

    def _transition(self, k: int) -> tuple[Float[Tensor, "d n"], Float[Tensor, " d"], Float[Tensor, " d"]]:
        """A, D and the bias of the step sizes of direction `k`."""
        parameters = (self.A_logs, self.Ds, self.dt_projs_bias.flatten())
        A_logs, D, bias = (self._share(at_least_float32(p), k) for p in parameters)
        return -A_logs.exp(), D, bias

    def _share(self, parameter: Tensor, k: int) -> Tensor:
        """Direction `k`'s part of a parameter that holds those of all directions one behind the other."""
        return parameter if len(self.directions) == 1 else parameter.chunk(len(self.directions))[k]
