"""Steering and routing: none without selection, a scan of two steps by hand, and rows against finite differences."""

import pytest
import torch
from torch.testing import assert_close
from untouched import untouched

from analysis.scan_rows import Scan
from analysis.selection_share import selection_shares, split_row
from evssm import build, selective_scan

NAMES = ("evssm-compact", "evssm-four-direction-compact", "evssm-k3-compact", "evssm2-compact")


def two_steps(x):
    """u = x of two steps, B = x and C = x, a constant step 0.5 and A = -1: selection is linear in u."""
    u = x[None]
    delta = torch.full_like(u, 0.5)
    A, D = -torch.ones(1, 1).double(), torch.zeros(1).double()
    return [Scan(u, delta, A, u[None], u[None], D)]


def test_two_steps_by_hand():
    a, b = 0.7, -1.3
    x = torch.tensor([a, b], dtype=torch.float64)
    # y[1] = C1 (e^-0.5 0.5 B0 u0 + 0.5 B1 u1) = b (e a^2 + b^2) / 2, with e = exp(-0.5)
    e = torch.tensor(-0.5, dtype=torch.float64).exp()
    whole, routed = split_row(two_steps, x, [1], torch.ones(1, 1).double())
    assert_close(whole[0], torch.stack([b * e * a, (e * a**2 + 3 * b**2) / 2]))
    assert_close(routed[0], torch.stack([b * e * a / 2, torch.tensor(b**2 / 2).double()]))  # B and C as given, u varied


@pytest.mark.parametrize("name", NAMES)
def test_without_selection_all_is_routing_and_with_it_it_is_not(name):
    net, x = build(name).double(), torch.rand(3, 20, 36, dtype=torch.float64)
    with untouched(net):
        found = selection_shares(net, x, "encoder.0.0")
    assert found.shares[0].share > 1e-3
    for mixer in (m for m in net.modules() if hasattr(m, "out_proj")):
        if hasattr(mixer, "x_conv"):
            mixer.x_proj_weight.data.zero_()
            mixer.x_conv.bias.data.normal_()  # B, C and the step are constants of the layer
        else:
            inner, width = mixer.inner, mixer.in_proj.weight.shape[0]
            mixer.in_proj.weight.data[2 * inner : width] = 0
            mixer.conv1d.bias.data.normal_()
    (only,) = selection_shares(net, x, "encoder.0.0").shares
    assert only.share == 0
    assert only.off_query == 0


def test_the_whole_row_is_the_derivative():
    net = build("evssm-compact").double()
    mixer, x = net.encoder[0][0].mixer, torch.randn(1, 16, 3, 4, dtype=torch.float64)
    direction, way = torch.randn(1, 32, dtype=torch.float64), torch.randn_like(x)

    def scans(x):
        return [Scan.of(inputs) for inputs in mixer.each_scan(x)]

    def answer(x):
        (i,) = mixer.each_scan(x)
        return direction[0] @ selective_scan(i.u, i.delta, i.A, i.B, i.C, i.D)[0, :, 7]

    whole, routed = split_row(scans, x, [7], direction)
    with torch.no_grad():
        slope = (answer(x + 1e-5 * way) - answer(x - 1e-5 * way)) / 2e-5
    assert_close((whole[0] * way).sum(), slope, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(whole, routed)


def test_windows_and_odd_places():
    net = build("evssm-compact", local=(16, 8, 4)).double()
    found = selection_shares(net, torch.rand(3, 21, 45, dtype=torch.float64), query=(20, 44))
    assert len(found.shares) == 12
    assert all(s.share > 0 and 0 <= s.reach <= 1 for s in found.shares)


def test_bad_questions_are_refused_and_nothing_is_left_behind():
    net, x = build("evssm-compact").train(), torch.rand(3, 32, 32)
    with untouched(net), pytest.raises(ValueError, match="probes"):
        selection_shares(net, x, probes=0)
    with untouched(net), pytest.raises(ValueError, match="outside"):
        selection_shares(net, x, query=(32, 0))
    with pytest.raises(LookupError, match="scan"):
        selection_shares(build("nafnet-compact"), x)
