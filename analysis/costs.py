"""What a network costs: parameters, multiply-adds and operations by kind, and how a published number was counted."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analysis.borrow import borrowed
from analysis.inputs import kind_of_parameters
from analysis.operations import (
    ATTENTION,
    CONVOLUTION,
    DEPTHWISE,
    EXACT_SCAN,
    FFT,
    KINDS,
    LINEAR,
    NORMED,
    RESIZED,
    SCAN,
    OperationCounter,
)
from evssm.inference import channels_taken

PUBLISHED = {"evssm": 126e9, "evssm-no-geot": 126e9, "evssm2": 148e9, "evssm2-no-geot": 148e9}
"""Kong et al. 2025, supplement, Tables 9 and 12, which do not name the size; 256 x 256 is the field's."""

CONVENTION = (
    "One multiply-add is two operations; other operations are half a multiply-add each. Scan: 9 b l d n + b l d "
    "(Mamba-2: its matrix products). FFT: 5 n log2 n, half of that for real numbers. Element-wise functions, norms, "
    "softmax, pooling and resizing are not counted."
)


@dataclass(frozen=True)
class Cost:
    """What one forward pass of `network` on a `b c h w` input takes, by `CONVENTION`.

    `flops` are operations by kind; they sum to `total`. `parameters` are numbers, shared ones once; `None` for a
    function. `exact_scan` counts the recurrence to the last operation. `unknown` are the operators without a formula
    and how often each ran: with any, the total is a lower bound. `ran` says whether shapes were enough ("traced") or
    the network had to compute ("run"); the counts are the same.
    """

    network: str
    shape: tuple[int, int, int, int]
    parameters: int | None
    flops: Mapping[str, int]
    exact_scan: int
    layer_norm_numbers: int
    resized_numbers: int
    unknown: Mapping[str, int]
    ran: str

    @property
    def total(self) -> int:
        """Operations of all kinds."""
        return sum(self.flops.values())

    @property
    def macs(self) -> dict[str, int | float]:
        """Multiply-adds by kind: half the operations."""
        return {kind: count / 2 for kind, count in self.flops.items()}

    @property
    def conv_linear_macs(self) -> float:
        """Multiply-adds of convolutions and linear layers alone, what most tools call FLOPs or MACs."""
        return sum(self.flops[kind] for kind in (CONVOLUTION, DEPTHWISE, LINEAR)) / 2

    def readings(self) -> dict[str, int | float]:
        """What different tools and papers would call this network's FLOPs; the way of counting -> the number."""
        macs, plain = self.macs, self.conv_linear_macs
        # fvcore knows products, layer norms (5 a number) and bilinear resizing (4), and neither FFTs nor custom scans.
        fvcore = plain + macs[ATTENTION] + 5 * self.layer_norm_numbers + 4 * self.resized_numbers
        return {
            "multiply-adds of convolutions and linear layers": plain,
            "operations of convolutions and linear layers": 2 * plain,
            "as fvcore counts: multiply-adds of products, 5 a number of layer norms, 4 a number of resizing": fvcore,
            "multiply-adds of convolutions and linear layers, operations of the scan": plain + self.flops[SCAN],
            "multiply-adds of convolutions and linear layers, operations of scan and FFT": (
                plain + self.flops[SCAN] + self.flops[FFT]
            ),
            "operations of all kinds": self.total,
        }

    def nearest_reading(self, published: int | float) -> tuple[str, int | float, float]:
        """The way of counting that comes nearest to a published number, what it gives, and its relative deviation."""
        if not published > 0:
            raise ValueError(f"a published number of operations is positive, not {published}; give 126e9 for 126 G")
        way, found = min(self.readings().items(), key=lambda item: abs(item[1] - published))
        return way, found, found / published - 1

    def table(self, published: int | float | None = None) -> str:
        """The counts as lines of text, the convention named; with `published`, how that was probably counted."""
        b, c, h, w = self.shape
        numbers = "a function, parameters unknown" if self.parameters is None else f"{self.parameters:,} parameters"
        rows = [(kind, count) for kind, count in self.flops.items() if count] + [("total", self.total)]
        lines = [f"{self.network}: {numbers}, input {b} x {c} x {h} x {w}"]
        lines += [f"{'kind':<40}{'multiply-adds':>16}{'operations':>16}"]
        lines += [f"{kind:<40}{in_units(count / 2):>16}{in_units(count):>16}" for kind, count in rows]
        plain = self.conv_linear_macs
        lines += [f"{'convolutions and linear layers alone':<40}{in_units(plain):>16}{in_units(2 * plain):>16}"]
        if self.exact_scan:
            lines += [f"{'scan, element by element':<40}{'':>16}{in_units(self.exact_scan):>16}"]
        lines += [CONVENTION]
        if self.unknown:
            calls = ", ".join(f"{name} ({count})" for name, count in self.unknown.items())
            lines += [
                f"NOT COUNTED, so that the total is a lower bound: {calls}; "
                "give them a formula with torch.utils.flop_counter.register_flop_formula"
            ]
        if published is not None:
            way, found, deviation = self.nearest_reading(published)
            lines += [f"published {in_units(published)}: nearest is {in_units(found)} ({deviation:+.1%}), {way}"]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Every number, in JSON values."""
        return {
            "network": self.network,
            "shape": list(self.shape),
            "parameters": self.parameters,
            "flops": dict(self.flops),
            "macs": self.macs,
            "total_flops": self.total,
            "total_macs": self.total / 2,
            "conv_linear_macs": self.conv_linear_macs,
            "exact_scan_flops": self.exact_scan,
            "readings": self.readings(),
            "unknown": dict(self.unknown),
            "ran": self.ran,
            "convention": CONVENTION,
        }


def cost(
    net: Callable[[Tensor], Any],
    size: int | tuple[int, int],
    *,
    batch: int = 1,
    channels: int | None = None,
    name: str = "",
) -> Cost:
    """What one forward pass of `net` takes on `batch` images of `size` (h, w) pixels; see `Cost`.

    `channels` are as many as a network of ours takes, and 3 for any other, unless given.

    `net` is any `nn.Module`, ours or not, or a function of `b c h w`. It is run on shapes alone where it can be (which
    takes seconds for any size), otherwise for real on random numbers; either way in evaluation mode, and left as it
    was. The counts depend on no device, number format, scan backend or weights (only a patch filter that has to run on
    a GPU shows as a matrix product). What extension modules do behind PyTorch's back, as Mamba's CUDA package does, no
    counter sees.

    EVSSM at 256 x 256 has 17,129,472 parameters and 125.50 G multiply-adds in convolutions and linear layers. The
    published 126 G (Kong et al. 2025, supplement, Table 12; neither size nor tool named) thus leaves out the scan (11.0
    G operations) and the FFTs (2.3 G). What fits best is the way in which fvcore counts, where layer norms and bilinear
    resizing add 0.8 G: 126.30 G, and 7.893 G at 64 x 64, the very figure that is quoted for EVSSM elsewhere. EVSSM2's
    148 G fits no way of counting (`evssm.models` says why).

    Raises `ValueError` for sizes below 1 and where `net` fails on such an input, with what it said.
    """
    h, w = (size, size) if isinstance(size, int) else size
    taken = (channels_taken(net) or 3) if channels is None else channels
    shape = (batch, taken, h, w)
    if min(shape) < 1:
        raise ValueError(f"batch, channels and sides are 1 or more, not {shape}; try size=(256, 256)")
    parameters = sum(p.numel() for p in net.parameters()) if isinstance(net, nn.Module) else None
    counter, ran = _count(net, shape)
    counts = counter.counts
    return Cost(
        network=name or _name(net),
        shape=shape,
        parameters=parameters,
        flops={kind: counts[kind] for kind in KINDS},
        exact_scan=counts[EXACT_SCAN],
        layer_norm_numbers=counts[NORMED],
        resized_numbers=counts[RESIZED],
        unknown=dict(counter.unknown),
        ran=ran,
    )


def _count(net: Callable[[Tensor], Any], shape: tuple[int, int, int, int]) -> tuple[OperationCounter, str]:
    """The counter after one forward pass, and how that was done."""
    dtype, device = kind_of_parameters(net)
    with borrowed(net), torch.no_grad():
        if isinstance(net, nn.Module):
            x = torch.empty(shape, dtype=dtype, device="meta")
            counter = OperationCounter(x)
            try:
                shadow = _without_numbers(net)
                with counter:
                    shadow(x)
            except Exception:  # whatever a network does that shapes alone do not settle: below it runs, or says why not
                pass
            else:
                return counter, "traced"
        x = torch.rand(shape, dtype=dtype, device=device)
        counter = OperationCounter(x)
        try:
            with counter:
                net(x)
        except Exception as error:
            text = " ".join(str(error).split())
            raise ValueError(
                f"{_name(net)} fails on an input {' x '.join(map(str, shape))}: {type(error).__name__}: {text}"
            ) from error
        return counter, "run"


def _without_numbers(net: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes only; what a pass may leave in it does not reach `net`."""
    known: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in net.parameters()}
    known |= {id(buffer): buffer.detach().to("meta") for buffer in net.buffers()}
    return deepcopy(net, known)


def _name(net: Callable[..., Any]) -> str:
    recipe = getattr(net, "recipe", None)
    return str(getattr(recipe, "name", None) or getattr(net, "__qualname__", type(net).__name__))


def in_units(count: int | float) -> str:
    """A number of operations with the prefix that suits it: "125.499 G"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor:
            return f"{count / factor:.3f} {prefix}"
    return f"{count:g}"
