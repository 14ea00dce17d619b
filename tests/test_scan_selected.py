"""The selection and its scan in one step against the two taken one by one."""

import inspect

import pytest
import torch
from backends import needs_numba
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from evssm import scan_selected as module
from evssm.scan_selected import scan_selected, scan_selected_definition, select

NAMES = ("u", "projection", "weight", "bias", "steps", "A", "D", "step_bias")


def random_inputs(kernel=(7,), rank=2, n=3, d=6, dtype=torch.float64):
    s, size = rank + 2 * n, (2, d, 5, 9)
    shapes = size, (s, d), (s, 1, *kernel), (s,), (d, rank), (d, n), (d,), (d,)
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    inputs[5] = -inputs[5].abs()
    return [x.requires_grad_() for x in inputs]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kernel", [(7,), (3, 3), (3, 5)])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("turned", [True, False])
def test_values_and_gradients_are_those_of_the_definition(dtype, tolerance, kernel, rank, turned):
    inputs = random_inputs(kernel, rank, dtype=dtype)
    if turned:
        inputs[0] = inputs[0].detach().mT.flip(-1).requires_grad_()
    ours, theirs = scan_selected(*inputs), scan_selected_definition(*inputs)
    asked = torch.randn_like(ours)
    found, expected = ([y, *torch.autograd.grad(y, inputs, asked)] for y in (ours, theirs))
    for name, a, b in zip(("y", *NAMES), found, expected, strict=True):
        scale = b.detach().abs().max()
        assert_close(a / scale, b / scale, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def test_the_gradients_are_the_finite_differences():
    assert torch.autograd.gradcheck(scan_selected, random_inputs(rank=1, n=1, d=2))


def test_what_needs_no_gradient_gets_none():
    inputs = [x.detach() for x in random_inputs()]
    inputs[0].requires_grad_()
    (ours,) = torch.autograd.grad(scan_selected(*inputs).square().sum(), inputs[:1])
    (theirs,) = torch.autograd.grad(scan_selected_definition(*inputs).square().sum(), inputs[:1])
    assert_close(ours, theirs)
    assert not scan_selected(*(x.detach() for x in inputs)).requires_grad


@needs_numba
def test_a_step_keeps_states_only_for_gradients(monkeypatch):
    kept, scan = [], module.SCAN_STEPS

    def watched(*arguments):
        y, borders = scan(*arguments)
        kept.append(borders.numel())
        return y, borders

    monkeypatch.setattr(module, "SCAN_STEPS", watched)
    inputs = random_inputs()
    scan_selected(*inputs)
    with torch.no_grad():
        scan_selected(*inputs)
    assert kept[0] > 0 == kept[1]


def test_counters_see_the_same_work():
    def count(step):
        with FlopCounterMode(display=False) as counter:
            step(*random_inputs()).sum().backward()
        return counter.get_total_flops()

    assert count(scan_selected) == count(scan_selected_definition) > 0


def test_the_selection_is_projected_convolved_and_split():
    u, projection, weight, bias, steps, *_ = random_inputs(kernel=(1,), rank=2, n=3)
    sequence, delta, B, C = select(u, projection, weight, bias, steps)
    s = torch.einsum("sd,bdl->bsl", projection, sequence) * weight[:, 0] + bias[:, None]
    assert_close(delta, torch.einsum("dr,brl->bdl", steps, s[:, :2]))
    assert_close(torch.cat([B, C], dim=1), s[:, 2:])
    assert_close(sequence, u.flatten(2))


def test_half_precision_is_scanned_in_single():
    inputs = [x.detach().float() for x in random_inputs()]
    inputs[:5] = [x.bfloat16() for x in inputs[:5]]
    assert scan_selected(*inputs).dtype == torch.float32


def test_parameters_that_do_not_add_up_are_refused():
    inputs = random_inputs(rank=2, n=3)
    inputs[1] = inputs[1][:7]
    with pytest.raises(ValueError, match="7 parameters, expected"):
        inspect.unwrap(scan_selected)(*inputs)
