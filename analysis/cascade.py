"""A network's weights redrawn from its output towards its input, in a copy (Adebayo et al. 2018)."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.borrow import borrowed


def cascade(
    net: nn.Module, run: Callable[[nn.Module], Any], depth: int, seed: int = 0
) -> Iterator[tuple[float, nn.Module]]:
    """(share of modules redrawn, the copy), in `depth` steps from the last modules that answer to all of them.

    A tensor is redrawn by putting its values in random places: every signal keeps about its size, whatever
    initialisation the network came with. The copy is the same one each time, redrawn further; `net` stays as it is.
    `run` lets a network answer once, which shows the order. Raises `ValueError` where no weight can be told from
    another.
    """
    copy = deepcopy(net)
    names = last_first(copy, run)
    if depth < 1:
        raise ValueError(f"a cascade has one step or more, got depth={depth}")
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    changed, done = False, 0
    for part in np.array_split(np.array(names, dtype=object), min(depth, max(1, len(names)))):
        for name in part:
            changed |= _redraw(copy.get_submodule(name), generator, seen)
        done += len(part)
        if not changed and done == len(names):
            raise ValueError(f"no weight of this {type(net).__name__} differs from another, so none can be redrawn")
        yield done / len(names), copy


def last_first(net: nn.Module, run: Callable[[nn.Module], Any]) -> list[str]:
    """The modules that hold parameters themselves, in the reverse of the order in which they last answer.

    One that is never called, since the module around it uses its weights, goes with that module.
    """
    order, clock, handles = {"": -1}, count(), []
    try:
        for name, module in net.named_modules():
            handles.append(
                module.register_forward_hook(lambda _m, _x, _y, name=name: order.update({name: next(clock)}))
            )
        with borrowed(net), torch.no_grad():
            run(net)
    finally:
        for handle in handles:
            handle.remove()

    def when(name: str) -> int:
        while name not in order:
            name = name.rpartition(".")[0]
        return order[name]

    holding = [name for name, module in net.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return sorted(holding, key=when, reverse=True)


def _redraw(module: nn.Module, generator: torch.Generator, seen: set[int]) -> bool:
    """Whether any of the module's own tensors changed as its values went to random places; each goes there once."""
    changed = False
    for parameter in module.parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        values = parameter.detach().flatten()
        places = torch.randperm(len(values), generator=generator).to(values.device)
        drawn = values[places].view_as(parameter)
        changed |= not torch.equal(drawn, parameter.detach())
        parameter.data.copy_(drawn)
    return changed
