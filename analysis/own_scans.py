"""Selective scans of networks that are not ours: seen through the operator that `evssm.selective_scan` calls.

A network of one's own takes part by calling `evssm.selective_scan` (backend "auto", "torch" or "numba"), by calling
mamba-ssm's `selective_scan_fn`, which is replaced while it is looked at, or through an adapter that tells of a module
what it scanned. Its modules need no names and no stages. What a scan does not say is how its steps lie in the image: a
layout does. The network may bring these along as attributes, `scan_layout`, `scan_functions` and `scan_adapters`.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from analysis.scan_rows import Scan, scan_output, without_skip
from evssm.geometry import D4, IDENTITY
from evssm.hooks import matching
from evssm.mamba_ssm import selective_scan_fn
from evssm.scan import SCAN, scanning_with, selective_scan

FUNCTIONS = ("selective_scan_fn", "selective_scan_ref")
"""What mamba-ssm calls its scan."""


@dataclass(frozen=True)
class Layout:
    """How a scan's steps lie: row by row on a map of `h w` pixels, each `stride` image pixels wide.

    `turns` are the turns of the upright map under which equal shares of the channels read it, in order: a single one,
    or the four of VMamba, whose results are turned back and added.
    """

    h: int
    w: int
    stride: int
    turns: tuple[D4, ...] = (IDENTITY,)


Layouts = Callable[[int, int], Layout]
"""Makes the layout of a scan from its number in the forward pass, counted from 0, and its length."""


@dataclass(frozen=True, eq=False)
class BareScans:
    """The scans of one call, one for each turn, with nothing known of what stands around them."""

    size: tuple[int, int]
    directions: tuple[D4, ...]
    scans: Sequence[tuple[D4, Scan]]

    def hold(self) -> None:
        """Nothing to do: its scans are held anyway."""

    @cached_property
    def answers(self) -> list[Tensor]:
        """What each scan answers without its skip."""
        return [scan_output(without_skip(scan)) for _, scan in self.scans]

    def emphasis(self, cell: tuple[int, int], level: str) -> None:
        """What weighs the channels afterwards is not known."""

    def reach(self, seen: Sequence[Bool[Tensor, "h w"]], level: str) -> Bool[Tensor, "h w"]:
        """All that one direction or another sees."""
        return torch.stack(list(seen)).any(dim=0)


Adapter = Callable[[nn.Module, tuple[Any, ...], Any], Mapping[str, Any]]
"""Makes, of a module, the arguments and the answer of its call, the arguments of the scan it ran."""


@contextmanager
def recorded_scans() -> Iterator[list[Scan]]:
    """Every scan of a batch of one that runs through the operator inside the block, in order, as copies.

    Raises `ValueError`, in the run, for a scan of a larger batch: cut windows or directions into calls of their own.
    """
    found: list[Scan] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is SCAN:
                found.append(_scan(*args[:8]))
            return function(*args, **(kwargs or {}))

    with Recorder():
        yield found


@contextmanager
def scans_of(
    net: Callable[..., Any],
    *,
    functions: Iterable[Callable[..., Any]] = (),
    adapters: Mapping[str, Adapter] | None = None,
) -> Iterator[list[Scan]]:
    """The scans of whatever network runs inside the block; everything is undone afterwards, also after an exception.

    Seen are those that run through our operator; those of mamba-ssm's functions, and of `functions` of one's own with
    the same arguments, which for the while are ours (`evssm.mamba_ssm`); and with `adapters`, by module pattern, only
    those that adapters tell of. An adapter gets a module, the arguments of its call and its answer, and returns
    the arguments of `evssm.selective_scan` by name, with "y", the scan's output, where it is at hand: a scan that does
    not make it is refused with `ValueError`.
    """
    told: list[Scan] = []

    def tell(adapter: Adapter, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        with recorded_scans() as its, torch.no_grad():
            facts = dict(adapter(module, args, output))
            its.clear()
            y = facts.pop("y", None)
            made = selective_scan(**facts)
        if y is not None and not torch.allclose(made, y, rtol=1e-3, atol=1e-3 * float(y.abs().max())):
            raise ValueError(
                f"the scan that the adapter tells of {name} is not the one it runs: outputs differ by "
                f"{float((made - y).abs().max()):.1e}; check delta_softplus, the sign of A and the skip D"
            )
        told.extend(its)

    with ExitStack() as stack:
        for pattern, adapter in (adapters or {}).items():
            if not isinstance(net, nn.Module):
                raise ValueError("adapters are for the modules of an nn.Module; pass that instead of a function")
            for name in matching(net, pattern):
                hook = net.get_submodule(name).register_forward_hook(partial(tell, adapter, name))
                stack.callback(hook.remove)
        stack.enter_context(run_by_ours(net, functions))
        yield told if adapters else stack.enter_context(recorded_scans())


@contextmanager
def run_by_ours(net: Callable[..., Any], functions: Iterable[Callable[..., Any]] = ()) -> Iterator[None]:
    """While the block runs, mamba-ssm's scan functions and `functions` are ours, wherever the network holds them.

    That is in attributes of its modules and in the globals of imported files. A fused path (`use_fast_path` of
    mamba-ssm's block), which scans out of sight, is off meanwhile.
    """
    interface = sys.modules.get("mamba_ssm.ops.selective_scan_interface")
    theirs = [getattr(interface, name) for name in FUNCTIONS if hasattr(interface, name)]
    theirs += list(functions)
    holders: list[dict[str, Any]] = [
        vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")
    ]
    own = list(net.modules()) if isinstance(net, nn.Module) else []
    changed: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for holder in [*holders, *map(vars, own)] if theirs else []:
            for name, value in list(holder.items()):
                if any(value is function for function in theirs):
                    changed.append((holder, name, value))
                    holder[name] = selective_scan_fn
        for module in own:
            if vars(module).get("use_fast_path") is True:
                changed.append((vars(module), "use_fast_path", True))
                vars(module)["use_fast_path"] = False
        with scanning_with("auto"):  # ours must not go by mamba-ssm's function, which is ours now
            yield
    finally:
        for holder, name, value in changed:
            holder[name] = value


def _scan(
    u: Float[Tensor, "b l d"],
    delta: Float[Tensor, "b l d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b l g n"],
    C: Float[Tensor, "b l g n"],
    D: Float[Tensor, " d"] | None,
    bias: Float[Tensor, " d"] | None,
    smooth: bool,
) -> Scan:
    if len(u) != 1:
        raise ValueError(f"a scan ran on a batch of {len(u)}; activation maps need one image, and one call per window")
    step = delta[0] if bias is None else delta[0] + bias
    step = F.softplus(step) if smooth else step.clone()
    B, C = (x[0].permute(1, 2, 0).clone() for x in (B, C))
    return Scan(u[0].mT.clone(), step.mT, A.clone(), B, C, torch.zeros_like(A[:, 0]) if D is None else D.clone())


def rows_as_they_lie(size: tuple[int, int]) -> Layouts:
    """The layouts of a network that reads every map row by row, upright: a stride of 1, 2, 4 ... for which it fits.

    Raises `LookupError` for a length that fits none.
    """

    def layout(number: int, l: int) -> Layout:
        for stride in (1 << i for i in range(8)):
            h, w = (ceil(side / stride) for side in size)
            if h * w == l:
                return Layout(h, w, stride)
        raise LookupError(
            f"scan {number} has {l} steps, which fit an image of {size[0]} x {size[1]} px at no stride 1, 2, 4 ...; "
            "say how they lie with `layout`, a function of its number and length that makes an analysis.Layout"
        )

    return layout


def laid_out(scan: Scan, number: int, layout: Layout) -> BareScans:
    """The scan on its map, its channels shared out among the turns. `ValueError` where they do not fit."""
    k, l, count = len(scan.delta), scan.u.shape[1], len(layout.turns)
    if layout.h * layout.w != l or k % count or len(scan.B) not in (1, count):
        raise ValueError(
            f"scan {number} has {l} steps, {k} channels and {len(scan.B)} groups; a layout of {layout.h} x {layout.w} "
            f"pixels in {count} turns does not fit it"
        )
    share = k // count
    parts = []
    for i, turn in enumerate(layout.turns):
        own, group = slice(i * share, (i + 1) * share), slice(i, i + 1) if len(scan.B) > 1 else slice(0, 1)
        u, delta, A, D = scan.u[own], scan.delta[own], scan.A[own], scan.D[own]
        parts.append((turn, Scan(u, delta, A, scan.B[group], scan.C[group], D)))
    return BareScans((layout.h, layout.w), layout.turns, parts)
