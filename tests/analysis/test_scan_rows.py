"""Rows and columns of scans: against the explicit matrix, the recurrence itself, and closed forms."""

from math import exp, log

import pytest
import torch
from explicit_scan import matrix, random_scan
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from analysis import scan_rows
from analysis.scan_rows import SCAN_LEVELS, Scan, column, first, memory_horizon, row, scan_output
from evssm import selective_scan
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.ssd import ssd_scan


@pytest.mark.parametrize("level", SCAN_LEVELS)
@pytest.mark.parametrize("shape", [{}, {"k": 4, "g": 2, "p": 3}, {"k": 4, "g": 2, "p": 2, "shared": True, "n": 3}])
def test_rows_and_columns_are_those_of_the_explicit_matrix(level, shape, monkeypatch):
    monkeypatch.setattr(scan_rows, "CHUNK", 5)
    scan = random_scan(17, **shape)
    whole = matrix(scan, level)
    for at in (0, 4, 5, 16):
        assert_close(row(scan, at, level), whole[:, at], rtol=1e-12, atol=1e-13)
        assert_close(column(scan, at, level), whole[:, :, at], rtol=1e-12, atol=1e-13)


@given(l=st.integers(1, 64), chunk=st.integers(1, 70), shared=st.booleans(), data=st.data())
def test_a_row_times_the_input_is_the_output(l, chunk, shared, data):
    t = data.draw(st.integers(0, l - 1))
    scan = random_scan(l, k=4, g=2, p=2, shared=shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_rows, "CHUNK", chunk)
        alpha = row(scan, t).repeat_interleave(2, dim=0)
    assert_close((alpha * scan.u).sum(-1) + scan.D * scan.u[:, t], scan_output(scan)[:, t], rtol=1e-10, atol=1e-10)
    assert_close(scan_output(first(scan, t + 1))[:, -1], scan_output(scan)[:, t], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("each", [True, False])
def test_the_scan_of_a_mixer_gives_what_the_mixer_scans(each):
    x = torch.randn(1, 6, 3, 5, dtype=torch.float64)
    for inputs in SS2D(6, state=3).double().scan_inputs(x):
        assert_close(scan_output(Scan.of(inputs)), selective_scan(*inputs)[0])
    inputs = Mamba2(6, state=3, head=4, groups=2, d_per_channel=each).double().scan_inputs(x)
    inputs = inputs._replace(D=torch.randn_like(inputs.D))
    assert_close(scan_output(Scan.of(inputs)), ssd_scan(*inputs)[0].flatten(1).mT)


def constant_scan(l, delta=0.1, a=1.0, b=1.0, c=1.0, k=1):
    def fill(value, *shape):
        return torch.full(shape, value, dtype=torch.float64)

    return Scan(fill(1.0, k, l), fill(delta, k, l), fill(-a, k, 1), fill(b, 1, 1, l), fill(c, 1, 1, l), fill(0.0, k))


def test_a_constant_scan_decays_geometrically_per_pixel_and_per_image_row():
    delta, a, b, c, w = 0.03, 1.5, 0.7, -2.0, 9
    line = row(constant_scan(10 * w, delta, a, b, c), 10 * w - 1)[0]
    lag = torch.arange(10 * w, dtype=torch.float64).flip(0)
    assert_close(line, c * b * delta * torch.exp(-a * delta * lag))
    folded = line.reshape(10, w)
    assert_close(folded[1:] / folded[:-1], torch.full((9, w), a * delta * w, dtype=torch.float64).exp())
    assert_close(folded[:, 1:] / folded[:, :-1], torch.full((10, w - 1), a * delta, dtype=torch.float64).exp())


def test_the_row_sum_of_a_constant_scan_is_a_geometric_series():
    delta, a = 0.05, 1.2
    total = row(constant_scan(4000, delta, a), 3999).sum().item()
    assert total == pytest.approx(delta / (1 - exp(-a * delta)), rel=1e-12)


def test_without_memory_only_the_query_is_left():
    scan = random_scan(20)._replace(A=torch.full((3, 2), -1e30, dtype=torch.float64))
    expected = torch.zeros(3, 20, dtype=torch.float64)
    expected[:, 11] = scan.delta[:, 11] * (scan.C[0, :, 11] * scan.B[0, :, 11]).sum()
    assert_close(row(scan, 11), expected)


def test_without_decay_it_is_linear_attention():
    scan = random_scan(20)._replace(A=torch.full((3, 2), -0.0, dtype=torch.float64))
    expected = scan.delta * (scan.C[0, :, 11, None] * scan.B[0]).sum(0)
    expected[:, 12:] = 0
    assert_close(row(scan, 11), expected)


def test_a_step_of_zero_is_skipped_and_changes_nothing_else():
    scan = random_scan(20)
    delta = scan.delta.clone()
    delta[:, 7] = 0
    silent = scan._replace(delta=delta)
    assert (column(silent, 7) == 0).all()
    kept = [s for s in range(20) if s != 7]
    shorter = Scan(*(x[..., kept] if x.shape[-1] == 20 else x for x in scan))
    assert_close(row(silent, 15)[:, kept], row(shorter, 14))


@pytest.mark.parametrize("huge", [1e6, torch.inf])
def test_a_huge_step_forgets_everything_before_it(huge):
    scan = random_scan(20)
    delta, B = scan.delta.clone(), scan.B.clone()
    delta[:, 7], B[..., 7] = huge, 1 / huge
    reset = scan._replace(delta=delta, B=B, A=scan.A - 1)
    for t in (7, 12, 19):
        assert (row(reset, t)[:, :7] == 0).all()
    assert (row(reset, 6)[:, :7] != 0).all()
    assert (column(reset, 3)[:, 7:] == 0).all()


def test_long_weakly_decaying_scans_keep_their_precision():
    """Where the split (C w)(B / w) with clamped w loses 22 % and all (l = 1024), and float32 sums lose digits."""
    l = 50_000
    exact = constant_scan(l, 0.02, 0.01)
    single = Scan(*(x.float() for x in exact))
    lag = torch.arange(l, dtype=torch.float64).flip(0)
    expected = 0.02 * torch.exp(-0.01 * 0.02 * lag)[None]
    assert_close(row(exact, l - 1), expected, rtol=1e-11, atol=0)
    # what remains is the rounding of delta and A themselves
    assert_close(row(single, l - 1).double(), expected, rtol=1e-5, atol=0)


def test_a_row_stops_only_where_nothing_is_left(monkeypatch):
    monkeypatch.setattr(scan_rows, "CHUNK", 8)
    scan = constant_scan(400, delta=10.0)
    line = row(scan, 399)[0]
    lag = torch.arange(400, dtype=torch.float64).flip(0)
    assert_close(line, 10 * torch.exp(-10 * lag), rtol=1e-12, atol=1e-300)
    spans = [span for span, _ in scan_rows.gaps_before(scan.delta, 399)]
    gone = [scan_rows.faded(scan, gap[:, 0]) for _, gap in scan_rows.gaps_before(scan.delta, 399)]
    assert len(spans) == 50
    assert gone.index(True) == 8  # the gap first exceeds 708 / 10 steps in the ninth span: the rest is never visited


def test_what_has_decayed_to_the_smallest_number_is_still_there():
    scan = constant_scan(3, k=2)
    gap = torch.full((2,), -log(torch.finfo(torch.float64).smallest_normal), dtype=torch.float64)
    assert not scan_rows.faded(scan, gap)
    assert scan_rows.faded(scan, gap * 1.01)
    assert not scan_rows.faded(scan, gap * torch.tensor([1.01, 0.99]))


def test_the_horizon_of_a_constant_scan_is_the_inverse_of_its_rate(monkeypatch):
    monkeypatch.setattr(scan_rows, "CHUNK", 16)
    scan = constant_scan(300, delta=1 / 32, a=1.0)
    assert memory_horizon(scan, 299).item() == 32
    assert memory_horizon(scan, 31).item() == torch.inf
    assert memory_horizon(scan, 32).item() == 32
    rates = scan._replace(A=torch.tensor([[-1.0, -4.0, -3.0, -0.01]], dtype=torch.float64))
    assert memory_horizon(rates, 299).tolist() == [[32, 8, 11, torch.inf]]


def test_what_does_not_exist_is_refused():
    scan = random_scan(5)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="steps run from 0 to 4"):
            row(scan, wrong)
        with pytest.raises(ValueError, match="steps run from 0 to 4"):
            column(scan, wrong)
    with pytest.raises(ValueError, match="choose from A0, A1"):
        row(scan, 0, "A5")
