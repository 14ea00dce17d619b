"""Fields after every block: variances that add up, the output's own field at the end, and a network left as it was."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from untouched import untouched

from analysis.erf import effective_receptive_field
from analysis.growth import growth_curve, radius_about
from evssm import build
from evssm.mixer import SS2D


def image(h=24, w=31, c=3):
    return torch.rand(1, c, h, w, dtype=torch.float64)


def box(k, c=3):
    conv = nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
    nn.init.constant_(conv.weight, 1 / k**2)
    return conv.double()


@pytest.mark.parametrize("k", [3, 5])
def test_every_uniform_convolution_adds_a_twelfth_of_k_squared_minus_one_to_the_variance(k):
    net = nn.Sequential(*(box(k) for _ in range(4)))
    steps = growth_curve(net, image(41, 38)).steps
    assert [step.name for step in steps] == ["0", "1", "2", "3"]
    for sigma in ("sigma_y", "sigma_x"):
        np.testing.assert_allclose(np.diff([0, *(getattr(s, sigma) ** 2 for s in steps)]), (k**2 - 1) / 12, rtol=1e-9)


def test_many_channels_are_probed_without_bias():
    class Spread(nn.Module):
        """Each of 64 channels shows another shift of the image: one pixel each, of equal height."""

        def forward(self, x):
            rows = [x[:, :1].roll((r, c), (-2, -1)) for r in range(8) for c in range(8)]
            return torch.cat(rows, dim=1)

    net = nn.Sequential(Spread())
    exact, probed = (growth_curve(net, image(32, 32, 1), probes=n).steps[0] for n in (64, 4))
    assert exact.effective_pixels == pytest.approx(64)
    assert probed.effective_pixels == pytest.approx(64)  # signs squared are one: no pixel is seen by two channels


def test_the_last_step_is_the_field_of_the_output():
    torch.manual_seed(0)
    net = build("evssm-compact", width=8).double()
    x = image(40, 50)  # padded inside, and neither square nor a multiple of anything
    last = growth_curve(net, x).steps[-1]
    erf = effective_receptive_field(net, x)  # rss over input channels, where the curve sums them under one root too
    assert last.name == "output"
    assert last.r90 == pytest.approx(erf.radius(0.9))
    assert last.effective_pixels == pytest.approx(erf.effective_pixels())


def test_maps_that_lie_turned_and_padded_are_asked_where_the_query_is():
    torch.manual_seed(0)
    net = build("evssm-compact", width=8).double()
    query = (5, 44)
    for name in ("encoder.0.0", "encoder.1.1", "decoder.2.1"):
        (step,) = growth_curve(net, image(40, 50), name, query=query).steps
        assert step.r50 < 12  # untrained weights see what is near: a wrong turn would look 20 px away or more


def a_scan(forgets):
    """A mixer without a skip, whose scan remembers some hundred steps or, where it forgets, none."""
    mixer = SS2D(3).double()
    mixer.A_logs.data.fill_(np.log(1e6 if forgets else 0.01))
    mixer.dt_projs_weight.data.zero_()
    mixer.dt_projs_bias.data.zero_()
    mixer.Ds.data.zero_()
    return mixer


@pytest.mark.parametrize("forgets", [False, True])
def test_the_field_jumps_at_scans_that_remember_and_nowhere_else(forgets):
    net = nn.Sequential(box(3), box(3), a_scan(forgets), box(3), box(3))
    steps = growth_curve(net, image(24, 31)).steps
    assert [step.scans for step in steps] == [False, False, True, False, False]
    grown = np.diff([0, *(step.r90 for step in steps)])
    assert (grown[[0, 1, 3, 4]] <= 2**0.5 + 1e-9).all()  # a kernel of three reaches a pixel further each way
    assert grown[2] < 6 if forgets else grown[2] > 6  # the mixer's own convolutions reach no further


def test_scans_are_marked_among_the_blocks_of_a_network():
    steps = growth_curve(build("evssm-compact", width=8), torch.rand(1, 3, 32, 48)).steps
    assert [s.name for s in steps if s.scans] == [
        f"{side}.{i}.{j}" for side in ("encoder", "decoder") for i in range(3) for j in range(2)
    ]
    assert [s.stride for s in steps if s.name.startswith("down")] == [2, 4]


def test_a_step_that_does_not_see_the_image_is_no_number():
    class Deaf(nn.Module):
        def forward(self, x):
            return x * 0

    steps = growth_curve(nn.Sequential(box(3), Deaf()), image()).steps
    assert np.isfinite(steps[0].r90)
    assert np.isnan(steps[1].r90)


def test_radius_about_counts_from_anywhere():
    mass = np.zeros((6, 6))
    mass[0, 0] = mass[5, 5] = 1
    assert radius_about(mass, (2.5, 2.5), 1.0) == pytest.approx(np.hypot(2.5, 2.5))
    assert radius_about(mass, (0, 0), 0.5) == 0


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("no")


@pytest.mark.parametrize("bad", [False, True])
def test_the_network_is_handed_back_as_it_was(bad):
    net, x = nn.Sequential(box(3), nn.Dropout(0.5), Fails() if bad else nn.GELU()).train(), image()
    net[0].weight.requires_grad_(False)
    with untouched(net), pytest.raises(RuntimeError) if bad else nullcontext():
        growth_curve(net, x)


def test_questions_that_have_no_answer_are_refused_in_words():
    with pytest.raises(ValueError, match=r"nn\.Module"):
        growth_curve(F.relu, image())
    with pytest.raises(LookupError, match="matches"):
        growth_curve(nn.Sequential(box(3)), image(), "encoder*")
    with pytest.raises(ValueError, match="outside"):
        growth_curve(nn.Sequential(box(3)), image(), query=(24, 0))
    with pytest.raises(ValueError, match="map of the image"):
        growth_curve(nn.Sequential(nn.Flatten()), image())
