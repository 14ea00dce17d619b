"""Laws that hold for all networks; the small versions stand for the large ones, whose layers they share."""

from random import Random

import pytest
import torch
from torch.testing import assert_close

from evssm import MODELS, build, record, stages

COMPACT = [name for name in MODELS if name.endswith("-compact")]
PRIMES = (17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67)


def channels(name):
    return 6 if "dual-pixel" in name else 3


def some_sizes():
    """The corners of what is allowed, and sides drawn anew on every run, primes among them."""
    draw = Random()
    two_primes, two_sides = draw.choices(PRIMES, k=2), draw.choices(range(16, 71), k=2)
    return [(16, 16), (16, 70), tuple(two_primes), tuple(two_sides)]


@pytest.mark.parametrize("name", COMPACT)
def test_any_size_comes_back_whole_and_a_batch_is_its_images(name):
    net = build(name).double().eval()
    for h, w in some_sizes():
        x = torch.rand(2, channels(name), h, w, dtype=torch.float64)
        with torch.no_grad():
            y = net(x)
            assert y.shape == (2, 3, h, w)
            assert y.isfinite().all(), (h, w)
            assert_close(y, torch.cat([net(image[None]) for image in x]), msg=lambda text, at=(h, w): f"{at}: {text}")


@pytest.mark.parametrize("name", COMPACT)
def test_what_a_stage_says_is_what_its_module_returns(name):
    net, h, w = build(name).eval(), 32, 64
    told = stages(net)
    assert len({stage.name for stage in told}) == len(told)
    with record(net) as maps, torch.no_grad():
        net(torch.rand(1, channels(name), h, w))
    assert list(maps) == [stage.name for stage in told]
    for stage in told:
        found = maps[stage.name]
        assert found.tensor.shape[1] == stage.channels, stage
        assert found.upright().shape[-2:] == (h // stage.stride, w // stage.stride), stage
        assert (found.stride, found.frame, found.window) == (stage.stride, stage.frame, stage.window)


@pytest.mark.parametrize("name", COMPACT)
def test_every_parameter_is_used_but_for_the_released_ones_that_are_not(name):
    net = build(name).train()
    out = net.pyramid if hasattr(net, "pyramid") else lambda x: (net(x),)
    sum(y.square().mean() for y in out(torch.rand(2, channels(name), 32, 32))).backward()
    idle = {key for key, p in net.named_parameters() if p.grad is None}
    assert idle == ({"unused.weight"} if name == "fftformer-compact" else set())


@pytest.mark.parametrize("name", COMPACT)
def test_evaluation_is_a_function_of_the_input_alone(name):
    net, x = build(name).eval(), torch.rand(1, channels(name), 24, 40)
    kept = x.clone()
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
    assert torch.equal(x, kept)


@pytest.fixture
def deterministic():
    """Inside, PyTorch refuses operators that may give other bits on another run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", COMPACT)
def test_deterministic_algorithms_serve_and_gradients_come_back_to_the_last_bit(name, deterministic):
    net, x = build(name).train(), torch.rand(2, channels(name), 16, 16)
    chance = torch.get_rng_state()  # some leave numbers out in training

    def gradients():
        torch.set_rng_state(chance)
        loss = net(x).square().mean()
        return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)

    first = [gradient for gradient in gradients() if gradient is not None]
    again = [gradient for gradient in gradients() if gradient is not None]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert any(gradient.any() for gradient in first)


@pytest.mark.parametrize("name", COMPACT)
def test_single_precision_is_double_precision_to_five_digits(name):
    net, x = build(name).eval(), torch.rand(1, channels(name), 16, 24)
    with torch.no_grad():
        single = net(x)
        double = net.double()(x.double())
    error = float((single - double).norm() / double.norm())
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    assert 0 < error < 1e-5
