"""Memory that was let go goes back to the system, and networks that compute blocks again see to it."""

import sys

import psutil
import pytest
import torch

from evssm import build, heap
from evssm.models import evssm


def resident():
    return psutil.Process().memory_info().rss


@pytest.mark.skipif(heap._trim() is None, reason=f"the C library of {sys.platform} hands nothing back when asked")
def test_what_was_let_go_is_handed_back_although_something_behind_it_is_held():
    several = [torch.ones(2**16) for _ in range(400)]  # 100 MiB
    held, before = several[-1], resident()
    del several
    heap.hand_back()
    assert before - resident() > 50 * 2**20
    assert held.sum() == 2**16


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])  # other C libraries; none; Windows
def test_where_the_c_library_cannot_it_is_asked_once_and_nothing_happens(error, monkeypatch):
    asked = []

    def library(name):
        asked.append(name)
        raise error

    heap._trim.cache_clear()
    monkeypatch.setattr(heap.ctypes, "CDLL", library)
    heap.hand_back()
    heap.hand_back()
    heap._trim.cache_clear()
    assert asked == [None]


def test_a_network_hands_back_where_it_computes_blocks_again_and_nowhere_else(monkeypatch):
    times = []
    monkeypatch.setattr(evssm, "hand_back", lambda: times.append(1))
    net = build("evssm-compact", width=4, depths=(1, 2, evssm.LEAN_EVERY + 1))
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    plain = torch.autograd.grad(net(x).square().sum(), x)
    with torch.no_grad():
        net.checkpoint = True
        net(x)
    assert not times
    again = torch.autograd.grad(net(x).square().sum(), x)
    assert len(times) == 2 * (4 * 1 + 2 * 2)  # in both passes, once or twice a stage
    torch.testing.assert_close(again, plain)
