"""One trained network with a part of it switched off: scans, their turns, or windows. A context manager, always undone.

A scan reads the map as the turns before it have laid it. Without a turn only the scan's order of reading changes: what
stands around the scan, and how the map lies in the network, stay as they were trained.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from analysis.activations import knows_its_scans, scanning_stages
from evssm.geometry import D4, IDENTITY
from evssm.hooks import matching
from evssm.mixer import SS2D
from evssm.models.stages import Stage

PARTS = {
    "scan": "every scan replaced by its skip, y = D u",
    "transpose": "scans read the map without its transposition",
    "flip": "scans read the map without its half turn",
    "window": "modules with windows see the whole map",
}
"""What can be switched off."""


def without_transpose(turn: D4) -> D4:
    """The turn, its transposition left out; its flips stay."""
    return D4(False, turn.flip_h, turn.flip_w)


def without_half_turn(turn: D4) -> D4:
    """The turn without its half turn, if it flips both axes; any other stays as it is."""
    return D4(turn.transpose) if turn.flip_h and turn.flip_w else turn


SIMPLER: dict[str, Callable[[D4], D4]] = {"transpose": without_transpose, "flip": without_half_turn}


@contextmanager
def knocked_out(net: Any, part: str, stage: str | None = None) -> Iterator[list[str]]:
    """While the block runs, `net` works without `part`, one of `PARTS`, in all its modules or those under `stage`.

    `stage` is a pattern of stage names (modules, for windows). Yields the names of the modules that change; a module
    that never had the part is not among them and does what it did. Everything is put back, also after an exception.

    Raises `ValueError` for an unknown part and, without `stage`, where no module has it; `LookupError` where nothing
    matches or scans.
    """
    if part not in PARTS:
        raise ValueError(f'no part "{part}" to knock out; choose from {", ".join(PARTS)}')
    with ExitStack() as undo:
        if part == "window":
            changed = _windowed(net, stage)
            for name in changed:
                undo.enter_context(_swapped(net.get_submodule(name), "window", None))
            if changed and getattr(net, "stages", None):
                undo.enter_context(_swapped(net, "stages", tuple(_unwindowed(s, changed) for s in net.stages)))
        else:
            scans = scanning_stages(net, None if stage is None else [stage])
            changed = [s.name for s in scans if _change(net.get_submodule(s.name), s.frame, part, undo)]
        if not changed and stage is None:
            raise ValueError(f'this {type(net).__name__} has no "{part}" to knock out: {PARTS[part]}')
        yield changed


def parts_of(net: Any) -> list[str]:
    """The parts that `net` has, so that they can be knocked out."""
    found = []
    for part in PARTS:
        if part != "window" and not knows_its_scans(net):
            continue
        if part == "window" and not isinstance(net, nn.Module):
            continue
        try:
            with knocked_out(net, part):
                found.append(part)
        except ValueError:
            continue
    return found


def _change(mixer: nn.Module, frame: D4, part: str, undo: ExitStack) -> bool:
    """Switches one mixer's part off until `undo` closes; whether it had the part."""
    if part == "scan":
        for holder, name, value in _without_readout(mixer):
            undo.enter_context(_swapped(holder, name, value))
        return True
    read = mixer.directions if isinstance(mixer, SS2D) else (IDENTITY,)
    wanted = tuple(SIMPLER[part](turn @ frame) @ frame.inverse for turn in read)
    if wanted == tuple(read):
        return False
    if isinstance(mixer, SS2D):
        undo.enter_context(_swapped(mixer, "directions", wanted))
    else:  # what a Mamba-2 block does to a pixel's neighbours, it does along the sequence
        undo.enter_context(_turned(mixer, wanted[0]))
    return True


def _without_readout(mixer: Any) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Parameters that make C zero at every step: what is left of the scan is D u, exactly."""
    if isinstance(mixer, SS2D):
        conv, count = mixer.x_conv, len(mixer.directions)
        selection = conv.out_channels // count
        silent = [k * selection + i for k in range(count) for i in range(mixer.rank + mixer.state, selection)]
    else:
        conv = mixer.conv1d
        silent = list(range(conv.out_channels - mixer.groups * mixer.state, conv.out_channels))
    for name in ("weight", "bias"):
        parameter = getattr(conv, name)
        if parameter is not None:
            value = parameter.detach().clone()
            value[silent] = 0
            yield conv, name, nn.Parameter(value, requires_grad=parameter.requires_grad)


@contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


@contextmanager
def _turned(mixer: Any, turn: D4) -> Iterator[None]:
    """A `Mamba2` works on each window as `turn` lays it, and lays the result back."""
    mix = mixer._mix
    mixer._mix = lambda x: turn.inverse(mix(turn(x).contiguous()))
    try:
        yield
    finally:
        del mixer._mix


def _windowed(net: Any, stage: str | None) -> list[str]:
    """The modules that work in windows, all of them or those under the modules that a pattern names."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"windows are those of modules, and this network is a {type(net).__name__}")
    found = [name for name, module in net.named_modules() if _edge(module) is not None]
    if stage is None:
        return found
    under = matching(net, stage)
    return [name for name in found if any(name == above or name.startswith(f"{above}.") for above in under)]


def _edge(module: nn.Module) -> Any:
    """The edges of a module's windows, in feature px: what our networks call `window`."""
    edge = getattr(module, "window", None)
    return edge if isinstance(edge, int | tuple) else None


def _unwindowed(stage: Stage, changed: Sequence[str]) -> Stage:
    """What a stage says of itself once these modules have no windows."""
    free = any(name == stage.name or name.startswith(f"{stage.name}.") for name in changed)
    return replace(stage, window=None) if free else stage
