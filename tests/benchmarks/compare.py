"""How contenders are timed against each other: in turn, in one process, by processor time; and alone, for their memory.

Ratios of such medians travel between machines, and between quiet and busy ones, far better than milliseconds do.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import process_time
from typing import Any

OURS, FLOOR, COUNTED = "ours", "floor", "tensors counted"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One line of the table: who did what, at which size, in which processor times (one for each repetition), with how
    many bytes of memory at most in a process of its own (`None`: not measured)."""

    part: str
    case: str
    size: int
    who: str
    seconds: tuple[float, ...] = ()
    peak: int | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> tuple[float | None, float | None]:
        """The first and the last quartile; the number itself where there is one alone."""
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def in_turn(contenders: Mapping[str, Callable[[], object]], rounds: int, few: frozenset[str] = frozenset()) -> Any:
    """Processor times of each contender, who run one after the other again and again; `few` of them at most five times.

    The first round compiles and fills the caches, and does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            if name in few and turn > 5:
                continue
            start = process_time()
            work()
            if turn:
                times[name].append(process_time() - start)
    return times


def alone(what: str, **options: Any) -> tuple[tuple[float, ...], int]:
    """Processor times and peak memory of a task of `growth.TASKS` in a process that does nothing else."""
    command = [sys.executable, str(HERE), "--alone", json.dumps({"what": what, **options})]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    return tuple(answer["seconds"]), answer["peak"]


def peak_memory() -> int:
    """Bytes that this process held at most."""
    status = Path("/proc/self/status")
    if status.exists():  # not the resource module's peak: Linux hands that on from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
