"""What compiled kernels are run with: runs of tasks on several threads, addresses, a number of the wanted precision."""

import os
from concurrent.futures import ThreadPoolExecutor, wait
from threading import local
from typing import no_type_check

import numpy as np
import torch

from evssm.lanes import VECTOR

WORTH_THREADS = 2**20  # state updates from which on a second thread pays for its start

_pool: ThreadPoolExecutor | None = None
_own = local()  # each thread's room for kernels to work in, which stays in its cache from one to the next


@no_type_check
def _forget_pool():
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # a forked data loader inherits the object, but none of its threads


@no_type_check
def _room(size):
    """The address of so many bytes that are this thread's own until it asks again."""
    room = getattr(_own, "room", None)
    if room is None or len(room) < size:
        room = _own.room = torch.empty(size, dtype=torch.uint8)
    return room.data_ptr()


@no_type_check
def share_out(tasks, vectors, updates, work):
    """Call `work` on runs of tasks, as many at a time as torch is allowed threads, each with room for some vectors."""
    global _pool
    threads = max(1, min(torch.get_num_threads(), tasks)) if updates >= WORTH_THREADS else 1
    start = _room(threads * vectors * VECTOR)
    if threads == 1:
        return work((0, tasks), start)
    runs = [((tasks * i // threads, tasks * (i + 1) // threads), start + i * vectors * VECTOR) for i in range(threads)]
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="scan")
    others = [_pool.submit(work, *run) for run in runs[1:]]
    try:
        work(*runs[0])
    finally:
        wait(others)  # also after an interrupt: they write to memory that the caller would let go
    for other in others:
        other.result()
    return None


@no_type_check
def address_of(x):
    """Where the numbers of a tensor lie; 0 for None."""
    return 0 if x is None else x.data_ptr()


@no_type_check
def like(u):
    """A number of the precision of `u`, by which kernels know theirs."""
    return np.float64(1) if u.dtype == torch.float64 else np.float32(1)
