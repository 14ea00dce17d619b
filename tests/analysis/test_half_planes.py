"""Half-plane shares: constant scans in closed form, the four frames that cancel, and a local zone that is taken off."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from untouched import untouched

from analysis.erf import effective_receptive_field
from analysis.half_planes import beyond_local, half_plane_shares
from evssm import build, selective_scan
from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE


class ConstantScan(nn.Module):
    """A scan of constant step, B and C under some turns of the map: `gain` per step of the past, plus the skip."""

    def __init__(self, turns=(IDENTITY,), delta=0.05, skip=1.0):
        super().__init__()
        self.turns, self.delta, self.skip = turns, delta, skip

    def forward(self, x):
        total = 0
        for turn in self.turns:
            turned = turn(x)
            u = turned.flatten(2)
            ones = torch.ones_like(u[:, :1])
            A, D = -torch.ones(x.shape[1], 1).to(u), torch.full((x.shape[1],), float(self.skip)).to(u)
            y = selective_scan(u, torch.full_like(u, self.delta), A, ones, ones, D, backend="reference")
            total = total + turn.inverse(y.reshape(turned.shape)) / len(self.turns)
        return total


def images(n=2, h=12, w=15):
    return torch.rand(n, 1, h, w, dtype=torch.float64)


def by_name(shares):
    return {row["field"]: row for row in shares.rows()}


def test_a_constant_scan_sees_only_what_precedes_it():
    row = by_name(half_plane_shares(ConstantScan(), images(), residual="include"))["whole field"]
    assert row["raster"] == 1
    assert row["down"] == 0
    assert row["vertical"] == 1
    assert (row["raster low"], row["raster high"]) == (1, 1)


@pytest.mark.parametrize(
    ("turn", "empty"), [(IDENTITY, "down"), (HALF_TURN, "up"), (TRANSPOSE, "right"), (ANTI_TRANSPOSE, "left")]
)
def test_each_frame_leaves_one_half_plane_empty(turn, empty):
    shares = half_plane_shares(ConstantScan((turn,)), images(), residual="include", beyond=2)
    for row in shares.rows():
        assert row[empty] == 0
        assert row["mass"] == pytest.approx(1) if row["field"] == "whole field" else row["mass"] < 1


def test_the_four_frames_together_lean_nowhere():
    net = ConstantScan((IDENTITY, HALF_TURN, TRANSPOSE, ANTI_TRANSPOSE))
    x = images(1, 13, 13)  # odd and square: every frame has as much room
    row = by_name(half_plane_shares(net, x, residual="include"))["whole field"]
    assert row["vertical"] == pytest.approx(0, abs=1e-12)
    assert row["horizontal"] == pytest.approx(0, abs=1e-12)
    assert row["raster"] == pytest.approx(0.5)
    assert np.isnan(row["up low"])  # one image has no interval


def test_the_shares_of_geometric_decay_are_those_of_the_series():
    delta, h, w = 0.05, 12, 15
    decay = np.exp(-delta * np.arange(6 * w + 8))  # steps back from the query (6, 7)
    shares = by_name(half_plane_shares(ConstantScan(delta=delta, skip=0.0), images(1, h, w), residual="include"))
    up = decay[8:].sum() / decay.sum()  # its own row holds the query and seven pixels before
    assert shares["whole field"]["up"] == pytest.approx(up)


def test_what_is_seen_without_scans_is_taken_off():
    torch.manual_seed(0)
    net, x = build("evssm-compact").double(), torch.rand(2, 3, 24, 40, dtype=torch.float64)
    with untouched(net):
        shares = half_plane_shares(net, x, beyond=4)
    rows = by_name(shares)
    assert set(rows) == {"whole field", "beyond 4 px", "added by scans"}
    assert 0 < rows["added by scans"]["mass"] < 1
    assert rows["beyond 4 px"]["mass"] == shares.fields["whole field"].share_beyond(4, "chebyshev")
    for mixer in (m for m in net.modules() if hasattr(m, "x_conv")):
        mixer.Ds.data.zero_()
        mixer.out_norm.weight.data.zero_()
        mixer.out_norm.bias.data.zero_()  # scans that add nothing: there is nothing to take off from
    with pytest.raises(ValueError, match="nothing is left"):
        half_plane_shares(net, x)


def test_what_is_left_is_the_difference_in_units_of_output_per_input():
    def net(scale, k):
        return lambda x: scale * nn.functional.avg_pool2d(x, k, 1, k // 2)

    x = images(1)
    wide, narrow = (effective_receptive_field(net(s, k), x, residual="include") for s, k in ((25, 5), (4.5, 3)))
    left = beyond_local(wide, narrow)
    raw = torch.from_numpy(left.per_image[0] * left.mass[0])
    want = torch.zeros(12, 15, dtype=torch.float64)
    want[4:9, 5:10] = 1
    want[5:8, 6:9] = 0.5
    assert_close(raw, want)
    with pytest.raises(ValueError, match="images"):
        beyond_local(wide, effective_receptive_field(net(1, 3), images(1), residual="include"))


def test_networks_without_scans_of_ours_have_no_such_line_and_signs_are_refused():
    assert len(half_plane_shares(nn.Conv2d(1, 1, 3, padding=1).double(), images()).rows()) == 2
    with pytest.raises(ValueError, match="rss"):
        half_plane_shares(ConstantScan(), images(), estimator="signed")
