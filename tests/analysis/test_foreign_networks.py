"""Networks of the user's own in every question: mamba-ssm's function, own recurrences, several outputs, functions."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_mamba_ssm import recurrence
from torch import nn

from analysis.activations import ScanCache, activation_maps
from analysis.erf import effective_receptive_field
from analysis.map_verdict import check_field, check_rows
from analysis.order_check import faithfulness
from analysis.own_scans import Layout, recorded_scans, scans_of
from analysis.randomisation import Randomisation
from analysis.row_faithfulness import row_faithfulness
from evssm.geometry import HALF_TURN, IDENTITY
from evssm.scan import selective_scan

H, W = 6, 7


def own_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """A recurrence of somebody's own, with mamba-ssm's arguments."""
    per_channel = (x[:, None].expand(-1, u.shape[1], -1, -1) for x in (B, C))
    return recurrence(u, delta, A, *per_channel, D, z, delta_bias, delta_softplus)


class Layer(nn.Module):
    """A Mamba layer that scans by the function it is given, or by the global name."""

    def __init__(self, scan=None):
        super().__init__()
        self.scan = scan
        self.A = nn.Parameter(torch.rand(3, 2, dtype=torch.float64))
        self.D, self.bias = nn.Parameter(torch.rand(3).double()), nn.Parameter(torch.rand(3).double())
        self.mix = nn.Conv2d(3, 7, 1).double()

    def inputs(self, x):
        line = self.mix(x).flatten(2)
        u, delta, B, C = x.flatten(2), line[:, :3], line[:, 3:5], line[:, 5:7]
        return {"u": u, "delta": delta, "A": -self.A.exp(), "B": B, "C": C, "D": self.D, "delta_bias": self.bias}

    def forward(self, x):
        return (self.scan or own_scan)(**self.inputs(x), delta_softplus=True).unflatten(-1, x.shape[-2:])


class Network(nn.Module):
    """A restorer with such a layer and two outputs, the image second."""

    def __init__(self, scan=None, outputs=1):
        super().__init__()
        self.layer, self.outputs = Layer(scan), outputs

    def forward(self, x):
        y = x + self.layer(x)
        return y if self.outputs == 1 else (F.avg_pool2d(y, 2), y)


def image():
    return torch.rand(3, H, W, dtype=torch.float64)


def same_maps(found, expected):
    assert len(found) == len(expected) == 1
    for ours, theirs in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(ours.per_channel, theirs.per_channel, rtol=1e-9, atol=1e-13)
        assert ours.check() < 1e-10


@pytest.fixture
def through_ours():
    """A network that calls our scan, its image, and its maps: what all others have to give."""
    net, x = Network(selective_scan), image()
    return net, x, activation_maps(net, x, (4, 3))


def with_the_weights_of(net, other):
    other.load_state_dict(net.state_dict())
    return other


@pytest.mark.parametrize("held", ["attribute", "global"])
def test_mamba_ssm_is_seen_wherever_the_network_holds_its_function(through_ours, monkeypatch, held):
    net, x, expected = through_ours
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = own_scan
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    theirs = with_the_weights_of(net, Network(own_scan if held == "attribute" else None))
    theirs.layer.use_fast_path = True
    cache = ScanCache(theirs, x)
    same_maps({"scan.0": cache.row((4, 3), "scan.0")}, expected)
    assert theirs.layer.scan is (own_scan if held == "attribute" else None)
    assert interface.selective_scan_fn is own_scan
    assert sys.modules[__name__].own_scan is own_scan
    assert theirs.layer.use_fast_path is True


def test_without_mamba_ssm_a_function_of_ones_own_is_named(through_ours):
    net, x, expected = through_ours
    theirs = with_the_weights_of(net, Network(own_scan))
    with pytest.raises(LookupError, match="give ScanCache `functions` or `adapters`"):
        ScanCache(theirs, x)
    cache = ScanCache(theirs, x, functions=[own_scan])
    same_maps({"scan.0": cache.row((4, 3), "scan.0")}, expected)
    theirs.scan_functions = (own_scan,)  # as the command line finds it
    same_maps(activation_maps(theirs, x, (4, 3)), expected)


def told(layer, args, output):
    return {**layer.inputs(args[0]), "delta_softplus": True, "y": output.flatten(2)}


def test_an_adapter_tells_of_a_recurrence_that_nothing_else_sees(through_ours):
    net, x, expected = through_ours
    theirs = with_the_weights_of(net, Network())
    same_maps({"": ScanCache(theirs, x, adapters={"layer": told}).row((4, 3), "scan.0")}, expected)
    assert not theirs.layer._forward_hooks
    theirs.scan_adapters = {"l?yer": told}
    same_maps(activation_maps(theirs, x, (4, 3)), expected)


def test_an_adapter_that_tells_another_scan_than_ran_is_refused_and_leaves_no_hook():
    def wrong(layer, args, output):
        return {**told(layer, args, output), "delta_softplus": False}

    net = Network()
    with pytest.raises(ValueError, match="the adapter tells of layer is not the one it runs"):
        ScanCache(net, image(), adapters={"layer": wrong})
    assert not net.layer._forward_hooks
    with pytest.raises(LookupError, match="near it: layer"):
        ScanCache(net, image(), adapters={"lair": told})
    with pytest.raises(ValueError, match=r"modules of an nn\.Module"):
        ScanCache(lambda x: net(x), image(), adapters={"layer": told})


def test_functions_come_back_after_an_exception():
    net, theirs = Network(own_scan), own_scan  # this file's own name is replaced too, meanwhile

    def broken_halfway():
        with scans_of(net, functions=[theirs]) as scans:
            net(image()[None])
            assert len(scans) == 1
            assert net.layer.scan is not theirs
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken_halfway()
    assert net.layer.scan is theirs
    assert own_scan is theirs


def test_a_layout_may_come_with_the_network():
    net = Network(selective_scan)
    net.scan_layout = lambda number, l: Layout(H, W, 1, (HALF_TURN,))
    row = activation_maps(net, image(), (0, 0))["scan.0"]
    assert row.support.all()  # the last pixel of a scan from the end


def test_several_outputs_are_no_obstacle_to_maps_fields_and_checks(through_ours):
    net, x, expected = through_ours
    two = with_the_weights_of(net, Network(selective_scan, outputs=2))
    same_maps(activation_maps(two, x, (4, 3)), expected)
    images = [image() for _ in range(3)]
    one, other = effective_receptive_field(net, images), effective_receptive_field(two, images, select=-1)
    np.testing.assert_allclose(one.map, other.map)
    assert (one.provenance["select"], other.provenance["select"]) == (None, -1)
    assert effective_receptive_field(two, images, select=max_of).provenance["select"] == "max_of"
    judged = [faithfulness(n, images, (3, 3), one.map, select=s, steps=5) for n, s in ((net, None), (two, -1))]
    np.testing.assert_allclose(judged[0].deletion, judged[1].deletion)
    assert str(check_field(two, images, other, select=-1)) == str(check_field(net, images, one))


def max_of(output):
    return output[1]


def test_a_function_is_judged_except_for_weights_that_it_does_not_show():
    net = Network(selective_scan)
    images = [image() for _ in range(3)]

    def function(x):
        return net(x) + 9 * F.avg_pool2d(x, 3, 1, 1)  # R90 is sure to lie beyond the query

    verdict = check_field(function, images, effective_receptive_field(function, images))
    assert verdict.weights == "weights not judged: a plain function has no weights to redraw"
    assert "weights not judged" in str(verdict)
    assert verdict.order.word != "not judged"
    assert verdict.as_dict()["images"]["counts"] == [1, 2, 3]


def test_rows_of_ones_own_scans_are_judged_on_the_scan(through_ours):
    net, x, rows = through_ours
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    verdict = check_rows(net, x, rows)["scan.0"]
    assert verdict.order.answers == "the output of its scan"
    assert isinstance(verdict.weights, Randomisation)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_what_a_row_foretells_of_its_scan_is_what_replacing_does():
    # With its selection held a scan is linear: one pixel moves the answer by its entry of the row.
    net, x = Network(selective_scan), image()
    cache = ScanCache(net, x)
    row = cache.row((5, 5), "scan.0", reduction="signed")
    judged = row_faithfulness(cache, "scan.0", [(5, 5)], steps=6, reduction="rms", baseline="mean")
    with recorded_scans() as scans, torch.no_grad():
        net(x[None])
    (scan,) = scans
    gap = (scan.u.mean(dim=-1, keepdim=True) - scan.u).numpy()
    parts = row.per_channel.reshape(3, -1) * gap
    order = np.argsort(-np.sqrt((row.per_channel.reshape(3, -1) ** 2).mean(axis=0))[: 5 * W + 5], kind="stable")
    expected = np.sqrt((np.cumsum(parts[:, order], axis=1) ** 2).mean(axis=0))[judged.counts - 1]
    found = judged.deletion[0, 0]
    np.testing.assert_allclose(found / found[-1], expected / expected[-1], rtol=1e-9)
    assert row.support.sum() == 5 * W + 6
    assert judged.counts[-1] == 5 * W + 5  # all that it sees but itself
    assert cache.site("scan.0").frame == IDENTITY
