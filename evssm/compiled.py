"""How kernels are compiled by numba, and kept on disk for the next process without ever standing in an update's way.

numba judges what it kept by the file of one function alone. A kernel consists of functions from several files, and
takes tuples whose classes are ours: after an update numba would go on with a kernel that has old parts, or fail to read
an index that names a class which is no more. Here what was kept is good only for the very same text of all kernels, and
what cannot be read is compiled again. A person at a terminal is told, once in a process, why nothing seems to happen.
"""

import sys
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, no_type_check

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

SOURCES = ("lane*.py", "fused_*.py", "*_numba.py", "map_memory.py", "kernel_tasks.py")
"""The files that kernels, their parts and their constants are written in."""


@cache
def stamp(folder: Path) -> str:
    """A name for the text of all kernels in `folder`."""
    text = sha256()
    for path in sorted(path for pattern in SOURCES for path in folder.glob(pattern)):
        text.update(path.read_bytes())
    return text.hexdigest()


@no_type_check
class Files(IndexDataCacheFile):
    """The index and the kernels kept of one function; as if there were none where they cannot be read."""

    def _load_index(self):
        try:
            return super()._load_index()
        except Exception:  # a pickle that names what is no more, or is cut short, may raise anything
            return {}

    def load(self, key):
        try:
            return super().load(key)
        except Exception:
            return None


@no_type_check
class Kept(FunctionCache):
    """What is kept of one function, as long as no kernel's text changes."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = Files(self._cache_path, self._impl.filename_base, stamp(Path(__file__).parent))

    def load_overload(self, sig, target_context):
        kept = super().load_overload(sig, target_context)
        if kept is None:
            announce(self._cache_path)
        return kept


@cache
def announce(folder: str) -> None:
    """Says on a terminal that kernels are being compiled."""
    if sys.stderr.isatty():
        line = "evssm: compiling kernels for this processor; later runs find them in"
        print(line, folder, file=sys.stderr, flush=True)


@no_type_check
def compiled(function) -> Any:
    """`function` for numba to compile when first called, kept on disk for the next process where that is possible."""
    kernel = njit(nogil=True)(function)
    with suppress(RuntimeError):  # neither the package's folder nor the user's cache can be written to
        kernel._cache = Kept(function)
    return kernel
