"""What one pixel reaches: convolutions, patches, strides, scans and pools in closed form; and a check that can fail."""

import numpy as np
import pytest
import torch
from backends import EVERY
from torch import nn
from untouched import untouched

from analysis.structural import structural_field
from evssm import build, mamba2, selective_scan
from evssm.geometry import HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.spectral import PatchSpectrum
from evssm.ssd import ssd_scan


def image(c=1, h=16, w=24):
    return torch.rand(c, h, w, dtype=torch.float64)


def conv(k, c=1):
    return nn.Conv2d(c, c, k, padding=k // 2).double()


@pytest.mark.parametrize(("n", "k"), [(1, 3), (3, 3), (2, 5)])
def test_n_convolutions_reach_n_times_k_minus_one_plus_one(n, k):
    net = nn.Sequential(*(conv(k) for _ in range(n)), nn.GELU())
    for module in net[:n]:
        module.weight.data.zero_()  # the structure is there whatever the weights
    reach, half = structural_field(net, image(), (8, 11)).output, n * (k - 1) // 2
    assert reach.box == (8 - half, 8 + half, 11 - half, 11 + half)
    assert reach.mask.sum() == (n * (k - 1) + 1) ** 2
    assert reach.missed == 0


def test_a_patch_spectrum_reaches_its_patch():
    reach = structural_field(PatchSpectrum(1).double(), image(), (3, 13)).output
    assert reach.box == (0, 7, 8, 15)
    assert reach.mask.sum() == 64
    assert reach.missed == 0


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("turn", [IDENTITY, HALF_TURN, TRANSPOSE])
def test_a_scan_reaches_every_later_step_and_no_earlier_one(backend, turn):
    def net(x):
        turned = turn(x)
        u = turned.flatten(2)
        one = torch.ones_like(u)
        y = selective_scan(
            u, one, -30 * torch.ones(1, 2).to(u), one.expand(1, 2, -1), one.expand(1, 2, -1), backend=backend
        )
        return turn.inverse(y.reshape(turned.shape))

    reach = structural_field(net, image(), (5, 7)).output
    steps = torch.arange(16 * 24).reshape(turn.size(16, 24))
    rows, columns = turn.points((5, 7), 16, 24)
    assert np.array_equal(reach.mask, turn.inverse(steps >= steps[rows, columns]).numpy())
    assert reach.missed == 0


def test_evssms_mixer_reaches_what_follows_and_what_its_convolutions_see_before():
    mixer = SS2D(16).double()
    reach = structural_field(mixer, image(16, 8, 10), (3, 4)).output
    first = np.flatnonzero(reach.mask.ravel())[0]
    # 3 x 3 before the scan, then three steps along the sequence, on across the ends of rows: w + 1 + 3 ahead
    assert first == 3 * 10 + 4 - (10 + 1 + 3)
    assert reach.mask.ravel()[first:].all()
    assert reach.missed == 0


def test_a_mamba2_block_reaches_what_follows_and_nothing_before():
    mixer = Mamba2(16, state=4, head=8, expand=1).double()
    reach = structural_field(mixer, image(16, 8, 10), (3, 4)).output
    assert np.array_equal(np.flatnonzero(reach.mask.ravel()), np.arange(34, 80))
    assert reach.missed == 0
    assert mamba2.ssd_scan is ssd_scan


def test_a_global_mean_reaches_everything_and_a_stride_reaches_what_reads_it():
    everywhere = structural_field(lambda x: x * x.mean(), image(), (0, 23)).output
    assert everywhere.mask.all()

    def odd(x):
        return x[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)

    assert structural_field(odd, image(), (5, 4)).output.box is None
    assert structural_field(odd, image(), (4, 4)).output.box == (4, 5, 4, 5)


def test_maps_of_stages_lie_as_the_image_and_are_cut_to_it():
    net = build("evssm-compact").double()
    found = structural_field(net, image(3, 20, 36), (9, 20), "*")
    by_name = {reach.name: reach for reach in found.reaches}
    assert by_name["embed"].box == (8, 10, 19, 21)
    assert by_name["embed"].mask.shape == (20, 36)
    first = by_name[
        "encoder.0.0"
    ].mask  # the first block transposes: what lies to the right is reached, far left is not
    assert first[:, 32:].all()
    assert not first[:, :8].any()
    assert by_name["encoder.1.0"].mask.shape == (10, 18)
    assert found.output.mask.all()
    assert all(reach.missed == 0 for reach in found.reaches)
    assert found.rows()[0]["cells"] == 9


def test_what_hides_not_a_number_is_noticed():
    layer = conv(3)
    reach = structural_field(lambda x: torch.nan_to_num(layer(x)), image()).output
    assert reach.missed == 9


def test_bad_questions_are_refused_and_nothing_is_left_behind():
    net, x = nn.Sequential(conv(3), nn.Dropout(0.5)).train(), image()
    with untouched(net):
        structural_field(net, x, stages="0")
    with untouched(net), pytest.raises(ValueError, match="outside"):
        structural_field(net, x, (16, 0))
    with pytest.raises(ValueError, match=r"nn\.Module"):
        structural_field(torch.relu, x, stages="*")
    with pytest.raises(ValueError, match="not finite"):
        structural_field(lambda x: x / 0, x)
