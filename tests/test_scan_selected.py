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


def random_inputs(kernel=(7,), rank=2, n=3, d=6, dtype=torch.float64, h=5, w=9):
    s, size = rank + 2 * n, (2, d, h, w)
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
    hold_equal(inputs, tolerance)


def hold_equal(inputs, tolerance):
    """One step and the definition give the same values and gradients, relative to the largest number of each."""
    ours, theirs = scan_selected(*inputs), scan_selected_definition(*inputs)
    asked = torch.randn_like(ours)
    found, expected = ([y, *torch.autograd.grad(y, inputs, asked)] for y in (ours, theirs))
    for name, a, b in zip(("y", *NAMES), found, expected, strict=True):
        scale = b.detach().abs().max().clamp(min=1e-30)
        assert_close(a / scale, b / scale, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("l", [1, 2, 3, 60, 61, 63, 64, 65, 67, 68, 128, 131, 200])
@pytest.mark.parametrize(("d", "rank", "n", "kernel"), [(1, 1, 1, 7), (17, 9, 5, 1), (33, 2, 8, 5), (16, 17, 11, 9)])
def test_pieces_of_the_sequence_meet_without_a_seam(l, d, rank, n, kernel):
    hold_equal(random_inputs((kernel,), rank, n, d, h=1, w=l), 1e-10)


@needs_numba
def test_stretches_of_the_sequence_meet_without_a_seam(monkeypatch):
    from evssm import fused_selection

    def field():
        y = scan_selected(*inputs)
        return y, *torch.autograd.grad(y, inputs[:1], asked)

    inputs = [x.detach() for x in random_inputs(h=21, w=17, dtype=torch.float32)]
    inputs[0].requires_grad_()
    asked = torch.randn_like(inputs[0])
    whole = field()
    monkeypatch.setattr(fused_selection, "STRETCH", fused_selection.PIECE)
    for a, b in zip(whole, field(), strict=True):
        assert torch.equal(a, b)
    trained = scan_selected(*(x.requires_grad_() for x in inputs))
    assert torch.equal(torch.autograd.grad(trained, inputs, asked)[0], whole[1])


@needs_numba
def test_threads_change_nothing(monkeypatch):
    from evssm import kernel_tasks

    monkeypatch.setattr(kernel_tasks, "WORTH_THREADS", 0)
    inputs, threads, found = random_inputs(h=33, w=7, dtype=torch.float32), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y = scan_selected(*inputs)
            found.append([y, *torch.autograd.grad(y.sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_the_answer_may_be_changed_in_place():
    inputs = random_inputs()
    y = scan_selected(*inputs)
    y[..., :2] = 0
    expected = scan_selected(*inputs)[..., 2:].square().sum()
    for a, b in zip(torch.autograd.grad(y.square().sum(), inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert_close(a, b)


def test_gradients_can_be_asked_for_twice():
    inputs = random_inputs()
    y = scan_selected(*inputs).square().sum()
    first, second = (torch.autograd.grad(y, inputs, retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@needs_numba
def test_the_operators_keep_pytorchs_rules():
    u, projection, weight, bias, steps, A, D, step_bias = (x.detach() for x in random_inputs())
    u, checks = u.flatten(2).mT.contiguous(), ("test_schema", "test_faketensor")
    t, BC = torch.ops.evssm.select(u, projection, weight, bias, steps.shape[1])
    torch.library.opcheck(module.SELECT, (u, projection, weight, bias, steps.shape[1]), test_utils=checks)
    scanned = (u, t, steps, A, BC, D, step_bias)
    torch.library.opcheck(module.SCAN_STEPS, (*scanned, True), test_utils=checks)
    _, borders = torch.ops.evssm.scan_steps(*scanned, True)
    torch.library.opcheck(module.SCAN_STEPS_BACKWARD, (u, *scanned, borders), test_utils=checks)
    dB, dC = torch.rand_like(BC).chunk(2, dim=-1)
    backward = (torch.rand_like(t), dB, dC, torch.rand_like(u), u, projection, weight, bias)
    for weights in (True, False):
        torch.library.opcheck(module.SELECT_BACKWARD, (*backward, weights), test_utils=checks)


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
