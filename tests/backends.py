"""The scan's backends as parameters of tests; what needs numba is skipped, and says so, where it is not installed."""

from importlib.util import find_spec

import pytest

NUMBA_HERE = find_spec("numba") is not None
"""Whether it is installed, not whether it works: where it is there and broken, tests fail."""

needs_numba = pytest.mark.skipif(not NUMBA_HERE, reason="numba is not installed; PyTorch serves in its kernels' place")
NUMBA = pytest.param("numba", marks=needs_numba)
FAST = ["torch", NUMBA]
EVERY = ["reference", *FAST]
FAST_HERE = ["torch", *["numba"] * NUMBA_HERE]
"""The names alone, for a loop within a test."""
