"""What this machine can do at most, measured in a second, and the times that no implementation can go below on it.

A scan must take an exponential for every step, channel and state and a softplus for every step and channel, and a
second time in the backward pass, since keeping them all would cost more memory than the machine has; and it must read
and write its tensors. A network must do its multiplications. Both floors are out of reach: nothing else is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import numpy as np
import torch
from numba import njit

from evssm.lanes import VECTOR, exp2, load, softplus, store

LENGTH = 2**11  # numbers that stay in the first cache
STATES = 8


@dataclass(frozen=True)
class Rates:
    """What one thread does in a second: exponentials and softplus of float32 in cache, operations of a product of
    matrices, bytes read and written by a copy."""

    exponentials: float
    softplus: float
    product: float
    copy: float

    def scan(self, channels: int, steps: int, states: int = STATES, *, backward: bool = False) -> float:
        """Seconds of a scan at least; with `backward`, of a forward and a backward pass."""
        passes = 2 if backward else 1
        each = passes * (states / self.exponentials + 1 / self.softplus) + backward / self.exponentials
        tensors = 3 + 5 * backward  # u, delta, y; and dy, u, delta, du, ddelta
        return channels * steps * max(each, 4 * tensors / self.copy)

    def network(self, flops: float, scanned: float, *, products: int = 0, weights: bool = False) -> float:
        """Seconds of a forward pass, and of so many backward passes after it, at least.

        `flops` are operations of everything but the scans, `scanned` steps times channels of those. A backward pass
        multiplies once for the inputs and, with `weights`, once more for the weights.
        """
        forward = self.scan(1, 1) * scanned
        backward = (self.scan(1, 1, backward=True) - self.scan(1, 1)) * scanned
        return flops / self.product * (1 + products * (1 + weights)) + forward + products * backward


def measured() -> Rates:
    """The rates of this machine."""
    x, y = np.linspace(-4, 4, LENGTH, dtype=np.float32), np.empty(LENGTH, np.float32)
    one = np.float32(1)
    addresses = x.ctypes.data, y.ctypes.data

    def in_cache(function: Callable[..., None], times: int) -> float:
        function(*addresses, LENGTH, 1, one)  # compiles
        return LENGTH * times / _best(lambda: function(*addresses, LENGTH, times, one))

    a, b = torch.rand(1024, 1024), torch.rand(2**24)
    to = torch.empty_like(b)
    return Rates(
        exponentials=in_cache(_exponentials, 4000),
        softplus=in_cache(_softplus, 1000),
        product=2 * 1024**3 / _best(lambda: a @ a),
        copy=2 * b.nbytes / _best(lambda: to.copy_(b)),
    )


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs: a limit is what happens when nothing else does."""
    times = []
    for _ in range(7):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


@njit
def _exponentials(x, y, length, times, one):
    for _ in range(times):
        for at in range(0, 4 * length, VECTOR):
            store(y + at, exp2(load(x + at, one)))


@njit
def _softplus(x, y, length, times, one):
    for _ in range(times):
        for at in range(0, 4 * length, VECTOR):
            store(y + at, softplus(load(x + at, one)))
