"""Derivatives of a scan in forward mode: against autograd of the definitions, differences, and rows and columns."""

from functools import partial

import pytest
import torch
from einops import rearrange, repeat
from explicit_scan import random_scan
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from analysis import scan_rows, scan_tangents
from analysis.scan_rows import Scan, column, scan_output
from analysis.scan_tangents import Nudge, states, tangent
from evssm.scan_definition import selective_scan_definition
from evssm.ssd import ssd_recurrence

SHAPES = [{}, {"k": 4, "g": 2, "p": 3}, {"k": 4, "g": 2, "p": 2, "shared": True, "n": 3}]


def random_nudges(scan, steps, c):
    (d, _), (k, _), (g, n, _) = scan.u.shape, scan.delta.shape, scan.B.shape
    draw = partial(torch.randn, dtype=scan.u.dtype)
    return {s: Nudge(draw(d, c), draw(k, c), draw(g, n, c), draw(g, n, c)) for s in steps}


def along(scan, nudges, one):
    """The changes of u, delta, B and C of all steps along one direction."""
    changes = [torch.zeros_like(x) for x in (scan.u, scan.delta, scan.B, scan.C)]
    for s, nudge in nudges.items():
        for whole, part in zip(changes, nudge, strict=True):
            whole[..., s] = part[..., one]
    return changes


def by_definition(scan, u, delta, B, C):
    """y by the slow loops, which autograd differentiates twice."""
    per_decay = len(u) // len(delta)
    if scan.A.shape[1] == 1:
        x = rearrange(u, "(k p) l -> 1 l k p", p=per_decay)
        B, C = (rearrange(t, "g n l -> 1 l g n") for t in (B, C))
        D = rearrange(scan.D, "(k p) -> k p", p=per_decay)
        return rearrange(ssd_recurrence(x, delta.mT[None], scan.A[:, 0], B, C, D), "1 l k p -> (k p) l")
    delta, A = (repeat(t, "k i -> (k p) i", p=per_decay) for t in (delta, scan.A))
    return selective_scan_definition(u[None], delta[None], A, B[None], C[None], scan.D)[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_forward_derivative_of_the_definition(shape, monkeypatch):
    monkeypatch.setattr(scan_rows, "CHUNK", 5)
    monkeypatch.setattr(scan_tangents, "BLOCK", 40)
    scan = random_scan(23, **shape)
    weights = torch.randn_like(scan.u)
    nudges = random_nudges(scan, (3, 4, 5, 11, 22), 3)
    found = tangent(scan, nudges, weights)
    for one in range(3):
        inputs = (scan.u, scan.delta, scan.B, scan.C)
        _, dy = torch.autograd.functional.jvp(partial(by_definition, scan), inputs, tuple(along(scan, nudges, one)))
        assert_close(found[one], (weights * dy).sum(0), rtol=1e-10, atol=1e-11)


@given(l=st.integers(1, 40), chunk=st.integers(1, 50), shared=st.booleans(), data=st.data())
def test_it_is_what_differences_tend_to(l, chunk, shared, data):
    steps = data.draw(st.sets(st.integers(0, l - 1), min_size=1))
    scan = random_scan(l, k=4, g=2, p=2, shared=shared)
    scan = scan._replace(delta=scan.delta + 0.1)
    nudges, weights, step = random_nudges(scan, steps, 1), torch.randn_like(scan.u), 1e-5
    changes = along(scan, nudges, 0)

    def moved(sign):
        u, delta, B, C = (
            x + sign * step * dx for x, dx in zip((scan.u, scan.delta, scan.B, scan.C), changes, strict=True)
        )
        return scan_output(Scan(u, delta, scan.A, B, C, scan.D))

    expected = (weights * (moved(1) - moved(-1))).sum(0) / (2 * step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_rows, "CHUNK", chunk)
        found = tangent(scan, nudges, weights)[0]
    assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(1 + expected.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_change_of_u_alone_is_a_column(shape):
    scan = random_scan(19, **shape)
    d, s = len(scan.u), 6
    nudge = random_nudges(scan, (s,), d)[s]
    silent = Nudge(torch.eye(d, dtype=torch.float64), *(torch.zeros_like(x) for x in nudge[1:]))
    for channel in range(d):
        weights = torch.zeros_like(scan.u)
        weights[channel] = 1
        found = tangent(scan, {s: silent}, weights)
        assert_close(found[channel], column(scan, s, "A4")[channel], rtol=1e-11, atol=1e-12)
        assert (found[torch.arange(d) != channel] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_states_are_those_of_the_recurrence(shape, monkeypatch):
    monkeypatch.setattr(scan_rows, "CHUNK", 4)
    scan = random_scan(17, **shape)
    k = len(scan.delta)
    u, B = scan.u.unflatten(0, (k, -1)), scan.B.repeat_interleave(k // len(scan.B), dim=0)
    found = states(scan, (16, 0, 7, 8))
    h = torch.zeros(k, u.shape[1], B.shape[1], dtype=torch.float64)
    for t in range(17):
        drive = torch.einsum("k,kp,kn->kpn", scan.delta[:, t], u[:, :, t], B[:, :, t])
        h = (scan.delta[:, t, None] * scan.A).exp()[:, None] * h + drive
        if t in found:
            assert_close(found.pop(t), h, rtol=1e-12, atol=1e-13)
    assert not found


def test_long_weakly_decaying_scans_keep_their_precision():
    """A faster step late in a constant scan, whose state is then all but the full geometric series."""
    l, s, delta, a = 30_000, 20_000, 0.02, 0.01
    fill = partial(torch.full, dtype=torch.float64)
    u, B = fill((1, l), 1.0), fill((1, 1, l), 1.0)
    scan = Scan(u, fill((1, l), delta), fill((1, 1), -a), B, B, fill((1,), 0.0))
    none = fill((1, 1, 1), 0.0)
    faster = {s: Nudge(fill((1, 1), 0.0), fill((1, 1), 1.0), none, none)}
    decay = torch.tensor(-a * delta, dtype=torch.float64).exp()
    before = delta * (1 - decay**s) / (1 - decay)  # the state one step earlier
    lag = torch.arange(l - s, dtype=torch.float64)
    expected = torch.cat([torch.zeros(s, dtype=torch.float64), (1 - a * decay * before) * decay**lag])
    assert_close(tangent(scan, faster, torch.ones_like(scan.u))[0], expected, rtol=1e-10, atol=1e-14)
    single = Scan(*(x.float() for x in scan))
    found = tangent(single, {s: Nudge(*(x.float() for x in faster[s]))}, torch.ones_like(single.u))[0]
    assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_changes_outside_the_scan_are_refused():
    scan = random_scan(5)
    for steps in ((), (-1,), (2, 5)):
        with pytest.raises(ValueError, match="steps run from 0 to 4"):
            tangent(scan, random_nudges(scan, steps, 1), scan.u)
