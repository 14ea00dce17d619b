"""Which implementations of the selective scan there are here, and which of them a call means."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

_REMEDIES = {
    "numba": "pip install numba",
    "triton": "pip install 'evssm-lab[gpu]'",
    "mamba_ssm": "pip install mamba-ssm, which needs a CUDA compiler",
}
"""The backends that are not everywhere, and what installs them."""

_preferred = "auto"


@cache
def backend_module(name: str) -> Any:
    """The module of a backend, imported when first wanted: numba takes a quarter of a second."""
    return import_module(f"evssm.scan_{name}")


def scan_backends() -> dict[str, str]:
    """For each backend of `selective_scan`, "available" or why it is not.

    "triton" is also available where `TRITON_INTERPRET=1` makes Triton interpret its kernels, slowly, on the CPU.
    """
    return dict.fromkeys(("reference", "torch"), "available") | {name: _state(name) for name in _REMEDIES}


@cache
def _state(name: str) -> str:
    if device_of(name) == "cuda" and not torch.cuda.is_available():
        return "not available: there is no CUDA device here"
    try:
        backend_module(name)
    except ImportError as error:
        return f"not available: {error}; try `{_REMEDIES[name]}`"
    return "available"


def device_of(name: str) -> str | None:
    """The type of device that a backend runs on; `None` for any."""
    if name in ("triton", "mamba_ssm"):
        return "cpu" if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return "cpu" if name == "numba" else None


@contextmanager
def scanning_with(backend: str) -> Iterator[None]:
    """Inside the block "auto" means `backend`, for every network and thread.

    Networks that recompute their blocks need the block around the backward pass too. Raises ValueError for a backend
    that is unknown or not available.
    """
    global _preferred
    if backend != "auto":
        demand(backend)
    before, _preferred = _preferred, backend
    try:
        yield
    finally:
        _preferred = before


def preferred() -> str:
    """What "auto" means now: a backend, or "auto" for the choice by device."""
    return _preferred


def demand(backend: str) -> None:
    """ValueError unless this backend is here."""
    if backend in ("reference", "torch"):
        return
    states = scan_backends()
    if backend not in states:
        raise ValueError(f"no scan backend {backend!r}; there are {', '.join(map(repr, states))} and 'auto'")
    if states[backend] != "available":
        raise ValueError(f"scan backend {backend!r} is {states[backend]}, or 'auto'")


def chosen(backend: str, u: Tensor) -> str:
    """The backend that a caller means.

    ValueError where there is no such backend, or none for the device of u.
    """
    backend = _preferred if backend == "auto" else backend
    if backend == "auto":
        return "numba" if u.device.type == "cpu" and _state("numba") == "available" else "torch"
    demand(backend)
    device = device_of(backend)
    if device is not None and u.device.type != device:
        runs = {"cpu": "the CPU", "cuda": "CUDA devices"}[device]
        raise ValueError(f"scan backend {backend!r} runs on {runs}, and u is on {u.device}; try 'torch' or 'auto'")
    return backend
