"""Scans in known trouble, seams and spots put in by hand, and a network that is left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.artefacts import CELL, borders, cells_of, table, trace
from analysis.scan_health import BLOCK, WIPED, holding, seam, state_norm, wiping
from analysis.scan_rows import Scan
from evssm import build, edit, record, stages
from evssm.windows import in_windows, window_origins


def scan(d=3, n=2, length=11, delta=None):
    rand = torch.rand
    return Scan(
        torch.randn(d, length, dtype=torch.float64),
        rand(d, length, dtype=torch.float64) if delta is None else torch.full((d, length), delta, dtype=torch.float64),
        -1 - rand(d, n, dtype=torch.float64),
        torch.randn(1, n, length, dtype=torch.float64),
        torch.randn(1, n, length, dtype=torch.float64),
        torch.randn(d, dtype=torch.float64),
    )


# --- scans ------------------------------------------------------------------------------------------------------------


def test_the_state_norm_is_that_of_the_recurrence():
    found = scan()
    h = torch.zeros(3, 2, dtype=torch.float64)
    for t in range(11):
        step = found.delta[:, t, None]
        h = torch.exp(step * found.A) * h + step * found.B[0, :, t] * found.u[:, t, None]
        assert state_norm(found)[t].item() == pytest.approx(h.square().sum(dim=1).mean().sqrt().item())


def test_a_constant_scan_fills_its_state_as_a_geometric_series():
    a, step, length = 0.7, 0.3, 25
    one = torch.ones(1, length, dtype=torch.float64)
    found = Scan(2 * one, step * one, torch.full((1, 1), -a, dtype=torch.float64), one[None], one[None], one[:, 0])
    q = np.exp(-a * step)
    expected = step * 2 * (1 - q ** np.arange(1, length + 1)) / (1 - q)
    np.testing.assert_allclose(state_norm(found).numpy(), expected)


def test_steps_wipe_or_hold_from_known_sizes_on():
    A = torch.tensor([[-1.0, -8.0], [-2.0, -4.0]], dtype=torch.float64)
    wipes = -np.log(WIPED)
    for step, share in ((0.49 * wipes, 0), (0.51 * wipes, 0.5), (1.01 * wipes, 1)):
        assert wiping(scan(2, delta=step)._replace(A=A)).unique().tolist() == [share]
    holds = -np.log(1 - WIPED)
    for step, share in ((holds * 0.99 / 8, 1), (holds * 1.01 / 8, 0.5), (holds * 1.01 / 4, 0)):
        assert holding(scan(2, delta=step)._replace(A=A)).unique().tolist() == [share]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_state_norm_of_shared_decays_is_that_of_the_recurrence_also_after_huge_steps(groups):
    heads, p, n, length = 4, 3, 20, 2 * BLOCK + 5
    delta = torch.rand(heads, length, dtype=torch.float64)
    delta[:, [7, BLOCK, BLOCK + 1]] = torch.rand(heads, 3, dtype=torch.float64) * 1e4
    u = torch.randn(heads * p, length, dtype=torch.float64)
    B, C = torch.randn(2, groups, n, length, dtype=torch.float64)
    found = Scan(u, delta, -torch.rand(heads, 1, dtype=torch.float64), B, C, torch.randn(heads * p).double())
    h, expected = torch.zeros(heads, p, n, dtype=torch.float64), []
    of_head = B.repeat_interleave(heads // groups, dim=0)
    for t in range(length):
        drive = (delta[:, t, None] * u[:, t].view(heads, p))[:, :, None] * of_head[:, None, :, t]
        h = torch.exp(delta[:, t, None, None] * found.A[..., None]) * h + drive
        expected.append(h.square().sum(dim=2).mean().sqrt())
    torch.testing.assert_close(state_norm(found), torch.stack(expected), rtol=1e-10, atol=0)


def test_a_mamba2_network_reports_the_states_of_all_its_scans():
    net = build("evssm2-compact", width=8, depths=(1, 1, 1)).double()
    x = torch.rand(3, 32, 36, dtype=torch.float64)
    scans = [stage.scan for stage in trace(net, x).stages if stage.scan]
    assert len(scans) == 6
    assert all(scan.state > 0 for scan in scans)
    assert {scan.state for scan in (stage.scan for stage in trace(net, x, states=False).stages) if scan} == {None}


# --- seams ------------------------------------------------------------------------------------------------------------


def test_a_step_is_seen_as_many_times_stronger_as_it_is():
    ramp = torch.arange(30.0).expand(1, 2, 20, 30).clone()
    assert seam(ramp, [], [10, 20]) == 1
    ramp[..., 20:] += 4
    assert seam(ramp, [], [10, 20]) == 5
    assert seam(ramp, [], [10, 19]) == 1
    assert seam(ramp.mT, [10, 20], []) == 5
    assert seam(torch.ones(1, 1, 9, 9), [3], [3]) == 1
    flat = torch.zeros(1, 1, 9, 9)
    flat[..., 3:, :] = 1
    assert seam(flat, [3], []) == np.inf


def test_windows_that_disagree_leave_seams_at_their_borders():
    x = torch.rand(1, 3, 40, 56)
    counter = iter(range(100))

    def mix(parts):
        return torch.cat([part[None] + 3 * next(counter) for part in parts])

    whole = in_windows(mix, x, 24)
    lines = [borders(side, 24) for side in (40, 56)]
    assert seam(whole, *lines) > 3
    assert seam(x, *lines) < 1.5
    assert set(lines[1]) >= set(window_origins(56, 24)) - {0}


# --- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_a_spot_lights_its_cell_at_every_scale(stride):
    h, w = -(-44 // stride), -(-70 // stride)
    row, column = 37 // stride, 58 // stride
    energy = torch.zeros(h, w)
    energy[row, column] = 1
    cells = cells_of(energy, stride, (44, 70))
    assert cells.shape == (6, 9)
    assert cells[37 // CELL, 58 // CELL] == 1
    assert cells.sum() == (1 if stride <= CELL else cells[4:6, 6:8].sum())


def spotted(net, name, at, size):
    """While this runs, a stage's output is `size` times larger at an image pixel."""
    (stage,) = (stage for stage in stages(net) if stage.name == name)

    def change(y):
        upright = stage.frame.inverse(y).clone()
        upright[..., at[0] // stage.stride, at[1] // stage.stride] *= size
        return stage.frame(upright)

    return edit(net, {name: change})


@pytest.mark.parametrize("name", ["encoder.0.1", "encoder.1.1.ffn", "decoder.0.0"])
def test_the_stage_in_which_a_spot_begins_is_found_and_where(name):
    net, x, at = build("evssm-compact"), torch.rand(1, 3, 64, 96), (21, 70)
    normal = trace(net, x)
    assert normal.first() is None
    with spotted(net, name, at, 1e4):
        found = trace(net, x)
    first = found.first()
    assert first.name == name.removesuffix(".ffn")  # parts of blocks are judged only by what is normal
    assert max(abs(a - b) for a, b in zip(first.where, at, strict=True)) < first.stride
    names = [stage.name for stage in found.stages]
    assert found.first_map()[at[0] // CELL, at[1] // CELL] == names.index(first.name)
    assert found.first_map(2, normal)[at[0] // CELL, at[1] // CELL] == names.index(name)
    assert found.first(2, normal).name == name
    assert normal.first(1, normal) is None
    assert (normal.first_map() == -1).all()


def test_values_that_are_not_finite_are_counted_and_shown_where_they_are():
    net, x = build("evssm-compact"), torch.rand(1, 3, 64, 96)
    with spotted(net, "decoder.2.0", (40, 16), torch.nan):
        found = trace(net, x)
    first = found.first()
    assert first.name == "decoder.2.0"
    assert first.excess == np.inf
    assert first.not_finite > 0
    assert np.isnan(first.map[40 // CELL, 16 // CELL])
    assert np.isnan(first.map).sum() == 1
    assert found.health.not_finite
    assert table(found)[[row["stage"] for row in table(found)].index(first.name)]["excess"] is None


def test_sizes_are_those_of_the_recorded_maps():
    net, x = build("evssm-compact"), torch.rand(1, 3, 64, 96)
    found = {stage.name: stage for stage in trace(net, x).stages}
    assert list(found) == [stage.name for stage in stages(net)]
    with record(net) as seen, torch.no_grad():
        net(x)
    for name, stage in found.items():
        energy = seen[name].upright().double().square().mean(dim=1).sqrt()[0]
        assert stage.peak == pytest.approx(energy.max().item())
        assert stage.usual == pytest.approx(energy.median().item())
        assert stage.largest == pytest.approx(seen[name].tensor.abs().max().item())
        assert stage.map.max() == pytest.approx(stage.peak)
        r, c = (at // stage.stride for at in stage.where)
        assert energy[r, c].item() == pytest.approx(stage.peak)


def test_windows_and_scans_are_reported_where_there_are_any():
    net, x = build("evssm-compact", local=(24, 16, 8)), torch.rand(1, 3, 40, 56)
    for stage in trace(net, x).stages:
        assert (stage.scan is not None) == stage.name.endswith("mixer")
        assert (stage.seam is not None) == (stage.name.count(".") >= 2 and not stage.name.endswith("ffn"))
        if stage.scan is not None:
            assert 0 <= stage.scan.wipes <= 1
            assert stage.scan.state > 0
    quick = trace(net, x, states=False)
    assert all(stage.scan is None or stage.scan.state is None for stage in quick.stages)


def test_steps_that_wipe_everything_are_seen_in_the_network():
    net, x = build("evssm-compact"), torch.rand(1, 3, 32, 32)
    mixer = net.encoder[0][0].mixer
    with torch.no_grad():
        mixer.dt_projs_bias += 50
    found = {stage.name: stage.scan for stage in trace(net, x).stages if stage.scan}
    assert found["encoder.0.0.mixer"].wipes == 1
    assert found["encoder.0.1.mixer"].wipes < 0.5


# --- any network ------------------------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        y = self.drop(self.drop(self.head(x)))
        return y, self.tail(y) + x


def test_a_network_without_stages_is_traced_at_its_leaves():
    told = []
    found = trace(Own().train(), torch.rand(1, 3, 16, 24), select=-1, progress=lambda *at: told.append(at))
    assert [stage.name for stage in found.stages] == ["head", "drop", "drop#2", "tail"]
    assert found.output.shape == (3, 16, 24)
    assert told[-1] == (4, 4)
    with pytest.raises(LookupError, match="stages"):
        trace(nn.Flatten(), torch.rand(1, 3, 16, 24), select=lambda y: y.reshape(1, 3, 16, 24))


def test_the_network_is_left_alone_also_by_a_failure():
    net, x = Own().train(), torch.rand(1, 3, 16, 24)
    random, kept = torch.random.get_rng_state(), x.clone()

    def untouched():
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
        assert all(m.training for m in net.modules())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())
        assert torch.equal(torch.random.get_rng_state(), random)
        assert torch.equal(x, kept)

    trace(net, x, select=1)
    untouched()
    net.tail.weight = nn.Parameter(torch.zeros(3, 5, 3, 3))
    with pytest.raises(RuntimeError):
        trace(net, x, select=1)
    untouched()


def test_traces_of_different_networks_are_not_compared():
    x = torch.rand(1, 3, 16, 16)
    one, other = trace(Own(), x, select=1), trace(nn.Sequential(nn.Conv2d(3, 3, 1)), x)
    with pytest.raises(ValueError, match="different stages"):
        one.first(normal=other)
