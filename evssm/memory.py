"""How much memory a run will take, counted before it starts, and how much there is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evssm.images import SMALLEST

SLACK = 1.4
"""What the process took, over what was counted, for seven networks and 390 to 870 MiB on Linux: 1.18 to 1.36. Nearly
all of it are blocks that the C library keeps for reuse: when told to return them (MALLOC_MMAP_THRESHOLD_), the factor
is 1.01 to 1.24, also at 20 to 100 MiB, where it is up to 2.1 otherwise."""


class UncountableError(ValueError):
    """The network cannot run without content; the message says what it asked for."""


def estimate_memory(net: Callable[..., Any], h: int, w: int, *, channels: int = 3) -> int:
    """Peak bytes of all tensors alive while `net` runs on an `h x w` image without gradients, its weights aside.

    Nothing is computed: the network runs on tensors that have a shape and no content (PyTorch's FakeTensorMode), and
    every storage is counted from its making to its end. So the count is exact for whatever goes through PyTorch's
    operators and misses what an operator needs inside; see `SLACK` for what a process takes on top.

    Before that the network runs once on 16 x 16 pixels. Raises `UncountableError` where it cannot run without content.
    """
    first = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
    kind: dict[str, Any] = {} if first is None else {"dtype": first.dtype, "device": first.device}
    with torch.no_grad():
        net(torch.zeros(1, channels, SMALLEST, SMALLEST, **kind))  # kernels are compiled when first used
        try:
            return counted_memory(lambda: net(torch.empty(1, channels, h, w, **kind)))
        except Exception as error:  # whatever a network of the user's own asks of a tensor without content
            cause = str(error).split("\n")[0][:120]
            raise UncountableError(f"cannot count the memory of this network without running it: {cause}") from None


def counted_memory(work: Callable[[], object]) -> int:
    """Peak bytes of all tensors that `work` makes, alive at one time; nothing is computed, and no content is there.

    What is compiled when first used has to have run before.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        work()
    return live.peak


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that exist, and the most there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self._begin(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _begin(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def available_memory(device: torch.device | str = "cpu") -> int | float:
    """Bytes that can be had without swapping: of the device, of the machine, or of the container where that is
    less."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return min(psutil.virtual_memory().available, container_memory(Path("/sys/fs/cgroup")))


def container_memory(group: Path) -> int | float:
    """Bytes left under a Linux control group's limit (version 2); infinite where there is none.

    Pages of files that nobody has touched for long count as free: the kernel gives them up first.
    """
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no such group, no limit ("max"), or another kernel's format
        return inf


def in_words(size: int | float) -> str:
    """`size` bytes in MiB or GiB."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
