"""Maps inside a network for a region of its output: Euler's theorem, frames, and no hook left behind."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.layer_attributions import KINDS, layer_attribution
from analysis.regions import RegionScalar
from evssm import build, record
from evssm.geometry import HALF_TURN, TRANSPOSE
from evssm.models.stages import Stage

BOX = (3, 5, 6, 4)


class Turning(nn.Module):
    """Convolves, turns, convolves, turns back; without biases, and its values scale with the input."""

    def __init__(self, turn):
        super().__init__()
        self.turn = turn
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
        self.second = nn.Conv2d(5, 3, 3, padding=1, bias=False).double()
        self.stages = (Stage("first", 5, 1), Stage("second", 3, 1, turn))

    def forward(self, x):
        return self.turn.inverse(self.second(self.turn(torch.relu(self.first(x)))))


def image(h=16, w=20):
    return torch.rand(1, 3, h, w, dtype=torch.float64)


@pytest.mark.parametrize("turn", [TRANSPOSE, HALF_TURN])
def test_contributions_add_up_to_the_number_at_every_cut(turn):
    net, x = Turning(turn), image()
    found = layer_attribution(net, x, BOX, reduce="sum")
    number = RegionScalar(net, BOX, "sum")(x).item()
    assert list(found) == ["first", "second"]
    for one in found.values():
        assert one.map.sum() == pytest.approx(number)


def test_a_bias_breaks_the_sum():
    net, x = Turning(TRANSPOSE), image()
    net.second.bias = nn.Parameter(torch.ones(3, dtype=torch.float64))
    found = layer_attribution(net, x, BOX, "first", reduce="sum")["first"]
    number = RegionScalar(net, BOX, "sum")(x).item()
    assert number - found.map.sum() == pytest.approx(3 * 6 * 4)


@pytest.mark.parametrize("turn", [TRANSPOSE, HALF_TURN])
def test_maps_lie_as_the_image_lies(turn):
    net, x = Turning(turn), image()
    found = layer_attribution(net, x, BOX, "second", kind="gradient", reduce="sum")["second"]
    inside = np.zeros((16, 20))
    inside[3:9, 5:9] = 1
    np.testing.assert_allclose(found.map, inside)


def test_activations_are_those_that_a_recording_sees():
    net = build("evssm-compact")
    x = torch.rand(1, 3, 32, 40)
    found = layer_attribution(net, x, BOX, "encoder.0.*", kind="activation")
    with record(net, "encoder.0.*") as seen, torch.no_grad():
        net(x)
    assert list(found) == list(seen)
    for name, one in found.items():
        np.testing.assert_array_equal(one.per_channel, seen[name].upright()[0].numpy())
    assert next(iter(found.values())).untrained


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_left_alone_also_by_a_failure(kind):
    net, x = Turning(TRANSPOSE).train(), image()
    random = torch.random.get_rng_state()

    def untouched():
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
        assert all(m.training for m in net.modules())
        assert all(p.requires_grad and p.grad is None for p in net.parameters())
        assert torch.equal(torch.random.get_rng_state(), random)

    layer_attribution(net, x, BOX, kind=kind)
    untouched()
    net.turn = None
    with pytest.raises(AttributeError):
        layer_attribution(net, x, BOX, kind=kind)
    untouched()


def test_what_cannot_be_shown_is_refused():
    net, x = Turning(TRANSPOSE), image()
    with pytest.raises(ValueError, match="gradient_x_activation"):
        layer_attribution(net, x, BOX, kind="conductance")
    with pytest.raises(LookupError, match="near it"):
        layer_attribution(net, x, BOX, "third")
    net.stages = ()
    with pytest.raises(LookupError, match="stages"):
        layer_attribution(net, x, BOX, "first")
    net.stages = (Stage("first", 5, 1),)
    with torch.no_grad():
        net.first.weight[0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        layer_attribution(net, x, BOX, "first", kind="activation")
