"""The way up against its definition: values, all gradients, and what counters see."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from evssm.enlarge import enlarge, enlarge_definition


def leaf(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("c", "o", "size"), [(5, 18, (3, 7)), (17, 16, (1, 1)), (4, 3, (2, 1)), (3, 33, (6, 5))])
def test_enlarge(dtype, tolerance, channels_last, c, o, size):
    x, weight = leaf(2, c, *size, dtype=dtype), leaf(o, c, 3, 3, dtype=dtype)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = enlarge(x, weight), enlarge_definition(x, weight)
    asked = torch.randn_like(ours)
    found, expected = ([y, *torch.autograd.grad(y, (x, weight), asked)] for y in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        scale = b.detach().abs().max()
        assert_close(a / scale, b / scale, rtol=0, atol=tolerance)


def test_its_gradients_are_the_finite_differences():
    assert torch.autograd.gradcheck(enlarge, (leaf(1, 2, 2, 3), leaf(2, 2, 3, 3)))


def test_counters_see_the_convolution_of_the_large_map():
    x, weight = leaf(1, 2, 4, 5), leaf(3, 2, 3, 3)

    def count(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    assert count(lambda: enlarge(x, weight)) == count(lambda: enlarge_definition(x, weight)) == 2 * 80 * 2 * 3 * 9
    assert count(lambda: enlarge(x, weight).sum().backward()) == 3 * 2 * 80 * 2 * 3 * 9
    assert count(lambda: enlarge(x, weight.detach()).sum().backward()) == 2 * 2 * 80 * 2 * 3 * 9


def test_shapes_follow_without_running():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        x, weight = mode.from_tensor(torch.randn(2, 4, 8, 6)), mode.from_tensor(torch.randn(3, 4, 3, 3))
        assert enlarge(x, weight).shape == (2, 3, 16, 12)


def test_half_precision_goes_by_the_definition():
    x, weight = torch.randn(1, 2, 3, 3).bfloat16(), torch.randn(2, 2, 3, 3).bfloat16()
    assert torch.equal(enlarge(x, weight), enlarge_definition(x, weight))
