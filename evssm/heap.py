"""Memory that was let go, handed back to the system.

The C library keeps what tensors of some megabytes leave behind, for the next ones, which seldom fit the gaps: while
blocks of several sizes are computed again and again, that comes to more than the tensors themselves.
"""

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """The C library's function for it, which only glibc has."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def hand_back() -> None:
    """Hands free memory back to the system, where the C library can; what is handed back costs time to get again."""
    trim = _trim()
    if trim is not None:
        trim(0)
