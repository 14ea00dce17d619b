from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from evssm import build
from evssm.training.optimisation import RunningMean, learning_rate, start_as_identity
from evssm.training.recipes import TrainConfig


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    config = TrainConfig(steps=110, warmup=10, rate=1.0, last_rate=0.2)
    rates = [learning_rate(config, step) for step in range(110)]
    assert rates[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.6)  # half-way down
    assert learning_rate(config, 110) == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_the_released_schedule_is_a_cosine_from_a_thousandth_without_warm_up():
    config = TrainConfig()
    assert learning_rate(config, 0) == 1e-3
    assert learning_rate(config, config.steps) == pytest.approx(1e-7)


def test_the_running_mean_forgets_its_start_and_then_moves_by_its_decay():
    net = build("nafnet-compact", width=4)
    mean = RunningMean(net, 0.9)
    first, expected = next(net.parameters()), next(net.parameters()).detach().double().clone()
    for step in range(120):
        with torch.no_grad():
            first.add_(torch.randn_like(first))
        mean.update(net, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * first.detach().double()
    assert_close(next(mean.net.parameters()).double(), expected, rtol=1e-4, atol=1e-5)


def test_without_a_decay_the_mean_is_the_network_itself():
    net = build("nafnet-compact", width=4)
    assert RunningMean(net, 0.0).net is net


@pytest.mark.parametrize("name", ["deblurgan", "ifan", "kpac", "srn", "dpdnet"])
def test_what_adds_its_input_starts_as_the_identity_and_what_does_not_is_left_alone(name):
    net, x = build(f"{name}-compact").eval(), torch.rand(1, 3, 16, 20)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    start_as_identity(net)
    if name in ("srn", "dpdnet"):
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    else:
        assert_close(net(x), x)
