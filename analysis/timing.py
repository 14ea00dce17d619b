"""How long a forward pass takes and how much memory, measured in a process that does nothing else."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from platform import machine, processor
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from analysis.borrow import borrowed


@dataclass(frozen=True)
class Runtime:
    """Forward passes of one network on a `b c h w` input, one entry of `seconds` and `cpu_seconds` per repetition.

    `seconds` are those of the clock, which other work on the machine lengthens; `cpu_seconds` are processor time, the
    sum over threads. `peak_bytes` is the most memory that was in use, `idle_bytes` what was before the first pass
    (Python, torch, weights and input): of the process, or on a GPU of torch's tensors; `None` where the system does
    not say.
    """

    shape: tuple[int, int, int, int]
    device: str
    dtype: str
    threads: int
    warm_up: int
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_bytes: int | None
    idle_bytes: int | None

    @property
    def median(self) -> float:
        """Of the clock's seconds."""
        return median(self.seconds)

    @property
    def cpu_median(self) -> float:
        """Of the processor's seconds."""
        return median(self.cpu_seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The clock's seconds that a quarter and three quarters of the repetitions stay below."""
        if len(self.seconds) == 1:
            return self.seconds * 2
        first, _, third = quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    def line(self) -> str:
        """What a reader of a table must know, in one line."""
        low, high = (1e3 * edge for edge in self.quartiles)
        peak, idle = ("unknown" if n is None else f"{n / 2**20:.0f} MiB" for n in (self.peak_bytes, self.idle_bytes))
        return (
            f"{1e3 * self.median:.1f} ms ({low:.1f} to {high:.1f}; median and quartiles of {len(self.seconds)} after "
            f"{self.warm_up} for warm-up), {1e3 * self.cpu_median:.1f} ms of processor time; memory at most {peak}, "
            f"before {idle}; {self.device}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Every field and the medians, in JSON values."""
        return {**asdict(self), "median": self.median, "cpu_median": self.cpu_median, "quartiles": self.quartiles}


def runtime(
    net: Callable[[Tensor], Any],
    size: int | tuple[int, int],
    *,
    batch: int = 1,
    channels: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
    warm_up: int = 2,
    repeats: int = 10,
) -> Runtime:
    """Times forward passes of `net` (evaluation mode, no gradients) on random `batch` x `channels` x `size` images.

    A fresh process does it: neither what this one has in memory nor its threads count. `warm_up` passes come first, in
    which kernels are compiled and chosen; on a GPU the clock waits for it. `threads` are those that this process uses
    unless given. `net` has to be one that can be pickled, and a script that calls this keeps its own work under
    `if __name__ == "__main__":`, as every script that starts processes does. Raises `ValueError` for impossible
    numbers, devices that are not there and networks that fail or cannot be sent.
    """
    h, w = (size, size) if isinstance(size, int) else size
    shape = (batch, channels, h, w)
    threads = torch.get_num_threads() if threads is None else threads
    if min(*shape, threads, repeats) < 1 or warm_up < 0:
        raise ValueError(
            f"sizes {shape}, threads {threads} and repeats {repeats} are 1 or more and warm_up {warm_up} 0 or more"
        )
    _check_device(device)
    try:
        sent = pickle.dumps(net)  # not as an argument of the process, whose tensors would move to shared memory
    except Exception as error:  # what the network's own classes raise
        raise ValueError(
            f"the network cannot be sent to a fresh process ({type(error).__name__}: {error}); "
            "give one whose classes and functions have names in a module"
        ) from error
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(there, shape, device, dtype, threads, warm_up, repeats))
    process.start()
    there.close()
    try:
        here.send_bytes(sent)
        answer = here.recv()
    except (EOFError, OSError):
        raise ValueError(
            "the process that measured ended early: out of memory, or a script that starts it without "
            '`if __name__ == "__main__":`'
        ) from None
    finally:
        process.join()
    if isinstance(answer, str):
        raise ValueError(f"the network fails on an input {' x '.join(map(str, shape))}: {answer}")
    return answer


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = "cpu" + (", cuda" if torch.cuda.is_available() else "")
        text = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({text}); there is {there}") from error


def _measure(
    parent: Connection,
    shape: tuple[int, int, int, int],
    device: str,
    dtype: torch.dtype,
    threads: int,
    warm_up: int,
    repeats: int,
) -> None:
    """The work of the fresh process: sends a `Runtime`, or in words what went wrong."""
    try:
        torch.set_num_threads(threads)
        net = pickle.loads(parent.recv_bytes())
        if isinstance(net, nn.Module):
            net = net.to(device, dtype)
        x = torch.rand(shape).to(device, dtype)
        with borrowed(net), torch.no_grad():
            idle = _memory(device, peak=False)
            _forget_peak(device)
            for _ in range(warm_up):
                net(x)
            seconds, cpu_seconds = zip(*(_timed(net, x) for _ in range(repeats)), strict=True)
        peak = _memory(device, peak=True)
        where = _device_name(device)
        kind = str(dtype).removeprefix("torch.")
        parent.send(Runtime(shape, where, kind, threads, warm_up, seconds, cpu_seconds, peak, idle))
    except Exception as error:
        parent.send(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _timed(net: Callable[[Tensor], Any], x: Tensor) -> tuple[float, float]:
    _wait(x)
    clock, processor_clock = perf_counter(), process_time()
    net(x)
    _wait(x)
    return perf_counter() - clock, process_time() - processor_clock


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _memory(device: str, *, peak: bool) -> int | None:
    """Bytes in use now, or at most so far; `None` where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # not the resource module's peak: Linux hands that on from the process that started this one
        key = "VmHWM:" if peak else "VmRSS:"
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
    return None


def _forget_peak(device: str) -> None:
    """Makes what the peak was until now, imports and unpickling, not count, where the system can."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it cannot, the peak of the start counts, which matters for tiny networks only
        Path("/proc/self/clear_refs").write_text("5")


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else processor() or machine()
