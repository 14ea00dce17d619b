"""Windows and the whole map: global means in closed form, exact zeros beyond a window, and equal small images."""

import numpy as np
import pytest
import torch
from torch import nn
from untouched import untouched

from analysis.knock_outs import knocked_out
from analysis.modes import mode_difference
from evssm import build
from evssm.models.nafnet import ChannelAttention


class Gated(nn.Module):
    """x times the mean of the map, or of windows of it: NAFNet's channel attention with a weight of one."""

    def __init__(self, window=None):
        super().__init__()
        self.attention = ChannelAttention(1, window)
        nn.init.ones_(self.attention.mix.weight)
        nn.init.zeros_(self.attention.mix.bias)
        self.double()

    def forward(self, x):
        return self.attention(x)


def test_a_global_mean_leaves_a_floor_and_windows_leave_exact_zeros():
    h, w, x = 20, 26, torch.rand(1, 1, 20, 26, dtype=torch.float64)
    found = mode_difference(Gated(), Gated((5, 7)), x, residual="include")
    value = float(x[0, 0, 10, 13])
    # d (x_q mean) / d x_p = x_q / (h w) away from the query, and the same over the window's area in windows
    floor = found.whole.raw.copy()
    floor[10, 13] = value / (h * w)
    np.testing.assert_allclose(floor, value / (h * w))
    window = np.zeros((h, w), dtype=bool)
    window[8:13, 10:17] = True
    assert np.array_equal(found.local.raw != 0, window)
    inside = found.local.raw[window]
    assert np.sort(inside)[0] == pytest.approx(value / 35)
    assert found.lost[window].sum() == 0
    share = (h * w - 35) * value / (h * w) / found.whole.raw.sum()
    assert found.lost.sum() == pytest.approx(share)
    whole, local, difference = found.rows()
    assert difference["beyond the windows"] == pytest.approx(share)
    assert (whole["zero"], local["zero"]) == (0, 1 - 35 / (h * w))


def test_windows_as_large_as_the_map_differ_in_nothing():
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    nets = []
    for local in (False, (32, 16, 8)):
        torch.manual_seed(0)
        nets.append(build("evssm-compact", width=8, depths=(1, 1, 1), local=local).double())
    found = mode_difference(*nets, x)
    np.testing.assert_allclose(found.difference, 0, atol=1e-12)
    assert found.rows()[2]["mass"] < 1e-9
    assert [row["windows"] for row in found.rows()] == ["none", "32/16/8", ""]


def test_smaller_windows_lose_something_and_a_knock_out_is_the_other_mode():
    torch.manual_seed(0)
    local = build("evssm-no-geot-compact", width=8, depths=(1, 1, 1), local=(16, 8, 4)).double()
    torch.manual_seed(0)
    whole = build("evssm-no-geot-compact", width=8, depths=(1, 1, 1)).double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)  # sides that neither mode pads
    with untouched(local):
        found = mode_difference(whole, local, x)
    assert found.rows()[2]["mass"] > 0
    with knocked_out(local, "window"):
        again = mode_difference(whole, local, x)
    np.testing.assert_allclose(again.difference, 0, atol=1e-12)


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="different weights"):
        mode_difference(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(2)), torch.rand(1, 1, 9, 9))
