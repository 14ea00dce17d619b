"""Horizons at every pixel: constant steps in closed form, those of single steps, and maps that lie as the image."""

from math import ceil, inf

import numpy as np
import pytest
import torch
from test_scan_rows import constant_scan, random_scan
from torch import nn
from untouched import untouched

from analysis.horizons import horizon_maps, horizons
from analysis.scan_rows import memory_horizon
from evssm import build
from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE


@pytest.mark.parametrize(("delta", "a"), [(0.03, 1.0), (0.03, 2.5), (0.3, 7.0)])
def test_constant_steps_are_remembered_for_one_over_their_decay(delta, a):
    lags, endless = horizons(constant_scan(60, delta=delta, a=a))
    lag = ceil(1 / (a * delta))
    assert lags.tolist() == [inf] * lag + [lag] * (60 - lag)
    assert endless == pytest.approx(lag / 60)


def test_every_step_has_the_horizon_that_it_has_alone():
    scan = random_scan(40, k=3, n=2)
    for quantile in (0, 0.5, 1):
        found, _ = horizons(scan, quantile)
        for t in range(40):
            alone = memory_horizon(scan, t).flatten().sort().values
            assert found[t] == alone[int(quantile * (len(alone) - 1))]


def with_constant_steps(net, delta, a):
    """Every scan of the network with this step and decay, whatever it reads."""
    for mixer in (m for m in net.modules() if hasattr(m, "dt_projs_weight")):
        mixer.dt_projs_weight.data.zero_()
        mixer.dt_projs_bias.data.fill_(float(np.log(np.expm1(delta))))
        mixer.A_logs.data.fill_(float(np.log(a)))
    return net


def test_a_networks_horizons_are_in_image_pixels_and_rows_of_what_the_scan_reads():
    net = with_constant_steps(build("evssm-compact").double(), 0.2, 1.0)  # a horizon of 5 or, by rounding, 6 steps
    found = horizon_maps(net, torch.rand(3, 30, 44, dtype=torch.float64))  # padded to 32 x 64
    assert [m.turn for m in found.maps[:4]] == [TRANSPOSE, ANTI_TRANSPOSE, HALF_TURN, IDENTITY]
    by_stage = {m.stage: m for m in found.maps}
    first, deepest = by_stage["encoder.0.0.mixer"], by_stage["encoder.2.0.mixer"]
    assert (first.turn, first.row_length, first.pixels.shape) == (TRANSPOSE, 32, (30, 44))
    assert np.unique(first.pixels[np.isfinite(first.pixels)]).tolist() in ([5], [5, 6], [6])
    assert deepest.stride == 4
    assert set(np.unique(deepest.pixels[np.isfinite(deepest.pixels)])) <= {20, 24}
    assert np.isinf(first.pixels[:5, 0]).all()  # the transposed scan begins at the top left and goes down
    assert np.isfinite(first.pixels[6:, 0]).all()
    rows = {row["stage"]: row for row in found.rows()}
    assert rows["encoder.0.0.mixer"]["rows"] in (5 / 32, 6 / 32)
    assert rows["encoder.0.0.mixer"]["share over a row"] < 0.01


def test_windows_are_stitched_and_each_begins_anew():
    net = with_constant_steps(build("evssm-no-geot-compact", local=(16, 8, 4)).double(), 0.2, 1.0)
    found = horizon_maps(net, torch.rand(3, 16, 32, dtype=torch.float64), "encoder.0.0")
    (only,) = found.maps
    assert only.row_length == 16
    begun = np.argwhere(np.isinf(only.pixels)).tolist()
    assert begun in ([[0, c] for o in (0, 16) for c in range(o, o + lag)] for lag in (5, 6))


def test_four_directions_have_a_map_each():
    net = build("evssm-four-direction-compact").double()
    found = horizon_maps(net, torch.rand(3, 16, 24, dtype=torch.float64), "encoder.0.0")
    assert [m.stage for m in found.maps] == [f"encoder.0.0.mixer[{k}]" for k in range(4)]
    assert len({m.turn for m in found.maps}) == 4


def test_the_network_is_handed_back_as_it_was_and_bad_questions_are_refused():
    net, x = build("evssm2-compact").train(), torch.rand(3, 32, 32)
    with untouched(net):
        assert len(horizon_maps(net, x).maps) == 12
    with untouched(net), pytest.raises(ValueError, match="quantile"):
        horizon_maps(net, x, quantile=2)
    with pytest.raises(LookupError, match="scan"):
        horizon_maps(nn.Conv2d(3, 3, 3), x)
