"""Every fused step against its definition: values and all gradients, in any layout."""

import pytest
import torch
from backends import needs_numba
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from evssm import fused
from evssm.fused import depthwise, depthwise_beside, filter_patches, linear, normalise, normalise_beside
from evssm.layers import RMSNorm2d

TOLERANCE = {torch.float64: {"rtol": 1e-11, "atol": 1e-11}, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}
DTYPES = list(TOLERANCE)


def leaf(*shape, dtype=torch.float64, channels_last=True):
    x = torch.randn(shape, dtype=dtype)
    if channels_last and len(shape) == 4 and shape[1] > 1:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def hold_equal(step, definition, inputs):
    """Both give the same values and the same gradients of all inputs, relative to the largest number of each."""
    given = [x for x in inputs if x is not None]
    ours, theirs = step(*inputs), definition(*inputs)
    asked = torch.randn_like(ours)
    found = [ours, *torch.autograd.grad(ours, given, asked)]
    expected = [theirs, *torch.autograd.grad(theirs, given, asked)]
    for a, b in zip(found, expected, strict=True):
        scale = b.detach().abs().max().clamp(min=1e-30)
        assert_close(a / scale, b / scale, **TOLERANCE[ours.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("c", "o"), [(16, 96), (5, 17), (33, 4), (1, 32), (48, 49)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype, channels_last, c, o, bias):
    x, weight = leaf(2, c, 19, 7, dtype=dtype, channels_last=channels_last), leaf(o, c, dtype=dtype)
    hold_equal(linear, fused.linear_definition, (x, weight, leaf(o, dtype=dtype) if bias else None))


def test_linear_over_many_pixels():
    hold_equal(linear, fused.linear_definition, (leaf(1, 16, 67, 65), leaf(24, 16), None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("then", ["none", "gelu", "gated gelu"])
@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel"), [((7, 9), (3, 3)), ((1, 37), (1, 7)), ((4, 5), (5, 5)), ((66, 3), (3, 3)), ((1, 1), (3, 3))]
)
def test_depthwise(dtype, then, matrices, size, kernel):
    channels, inputs, outputs = 34, 5 if matrices else 34, 18
    x, weight, bias = (
        leaf(2, inputs, *size, dtype=dtype),
        leaf(channels, 1, *kernel, dtype=dtype),
        leaf(channels, dtype=dtype),
    )
    before = leaf(channels, inputs, dtype=dtype) if matrices else None
    after = leaf(outputs, channels // (2 if "gated" in then else 1), dtype=dtype) if matrices else None

    def fast(x, weight, bias, before, after):
        return depthwise(x, weight, bias, then, projection=before, output=after)

    def plain(x, weight, bias, before, after):
        return fused.depthwise_definition(x, weight, bias, then, projection=before, output=after)

    hold_equal(fast, plain, (x, weight, bias, before, after))


def test_depthwise_reads_maps_in_any_layout_and_needs_no_bias():
    x = leaf(2, 6, 5, 8, channels_last=False)
    hold_equal(
        lambda x, w: depthwise(x, w, None, "gelu"),
        lambda x, w: fused.depthwise_definition(x, w, None, "gelu"),
        (x, leaf(6, 1, 3, 3)),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("gate", ["none", "as it is", "projected"])
@pytest.mark.parametrize("outputs", [None, 21])
@pytest.mark.parametrize(("c", "size"), [(3, (5, 7)), (16, (41, 17)), (35, (5, 13))])
def test_normalise(dtype, centred, gate, outputs, c, size):
    x = (leaf(2, c, *size, dtype=dtype).detach() + 2).requires_grad_()
    gates = 9 if gate == "projected" else c
    opening = leaf(2, gates, *size, dtype=dtype, channels_last=False) if gate != "none" else None
    before = leaf(c, gates, dtype=dtype) if gate == "projected" else None
    after = None if outputs is None else leaf(outputs, c, dtype=dtype)

    def fast(x, weight, bias, gate, before, after):
        return normalise(x, weight, bias, 1e-2, centred=centred, gate=gate, projection=before, output=after)

    def plain(x, weight, bias, gate, before, after):
        return fused.normalise_definition(
            x, weight, bias, 1e-2, centred=centred, gate=gate, projection=before, output=after
        )

    hold_equal(fast, plain, (x, leaf(c, dtype=dtype), leaf(c, dtype=dtype), opening, before, after))


def test_what_a_step_gives_may_be_changed_in_place():
    x, weight, matrix, kernel, gain = leaf(1, 4, 8, 8), leaf(4), leaf(4, 4), leaf(4, 1, 3, 3), leaf(64, 4)
    for step in (
        lambda: linear(x, matrix),
        lambda: depthwise(x, kernel, None, "gelu"),
        lambda: normalise(x, weight, weight, 1e-6, centred=True),
        lambda: filter_patches(x, gain),
    ):
        y = step()
        y[:, :2] = 0
        (found,), (expected,) = (torch.autograd.grad(z.square().sum(), x) for z in (y, step()[:, 2:]))
        assert_close(found, expected)
        assert expected.any()


def passing_on(name, x, weight, bias, matrix):
    """A step that gives x again, and the same step without."""
    if name == "normalise":
        return normalise_beside(x, weight, bias, 1e-3, centred=False), normalise(x, weight, bias, 1e-3, centred=False)
    kernel = weight[:, None, None, None].expand(-1, 1, 3, 3)
    return tuple(step(x, kernel, bias, "gelu", projection=matrix) for step in (depthwise_beside, depthwise))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["depthwise", "normalise"])
@pytest.mark.parametrize("used", ["both", "both, turned", "the step", "x"])
def test_gradients_of_what_is_given_again_are_added(dtype, name, used):
    c = 18
    x, weight, bias, matrix = (leaf(*shape, dtype=dtype) for shape in ((2, c, 7, 9), (c,), (c,), (c, c)))
    (y, again), plain = passing_on(name, x, weight, bias, matrix)
    assert torch.equal(again, x)
    asked, more = torch.randn(2, 2, c, 7, 9, dtype=dtype)
    more = more.mT.contiguous().mT if "turned" in used else more
    which = {"the step": slice(1), "x": slice(1, 2)}.get(used, slice(2))
    ours, theirs = (sum([(a * asked).sum(), (b * more).sum()][which]) for a, b in ((y, again), (plain, x)))
    given = [x] if used == "x" else [x, weight, bias]
    for a, b in zip(torch.autograd.grad(ours, given), torch.autograd.grad(theirs, given), strict=True):
        scale = b.abs().max()
        assert_close(a / scale, b / scale, **TOLERANCE[dtype])


@pytest.mark.parametrize("frozen", ["x", "weight", "neither"])
@pytest.mark.parametrize(("c", "o"), [(16, 96), (3, 40), (33, 1)])
def test_linear_gives_only_the_gradients_that_are_wanted(frozen, c, o):
    x, weight = leaf(2, c, 41, 53), leaf(o, c)
    given = {"x": [weight], "weight": [x], "neither": [x, weight]}[frozen]
    for p in (x, weight):
        p.requires_grad_(any(p is q for q in given))
    ours, theirs = linear(x, weight), fused.linear_definition(x, weight)
    asked = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, given, asked), torch.autograd.grad(theirs, given, asked), strict=True):
        assert_close(a, b, **TOLERANCE[torch.float64])


def test_a_frozen_gain_leaves_the_gradient_of_the_map():
    x, gain = leaf(2, 5, 16, 8), torch.randn(64, 5, dtype=torch.float64)
    asked, trained = torch.randn_like(x), gain.clone().requires_grad_()
    found, expected = (torch.autograd.grad(filter_patches(x, g), x, asked)[0] for g in (gain, trained))
    assert_close(found, expected, **TOLERANCE[torch.float64])


def test_a_projection_needs_a_gate():
    with pytest.raises(ValueError, match="no gate"):
        normalise(leaf(1, 2, 3, 3), leaf(2), leaf(2), 1e-6, centred=True, projection=leaf(2, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("c", [3, 16, 37])
def test_filter_patches(dtype, channels_last, c):
    x = leaf(2, c, 16, 24, dtype=dtype, channels_last=channels_last)
    hold_equal(filter_patches, fused.filter_patches_definition, (x, leaf(64, c, dtype=dtype)))


@pytest.mark.parametrize("then", ["none", "gelu", "gated gelu"])
def test_the_gradients_of_depthwise_are_the_finite_differences(then):
    inputs = leaf(1, 2, 3, 4), leaf(4, 1, 3, 3), leaf(4), leaf(4, 2)
    assert torch.autograd.gradcheck(lambda x, w, b, m: depthwise(x, w, b, then, projection=m), inputs)


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradients_of_normalise_are_the_finite_differences(centred):
    x, gate, weight, bias = leaf(1, 3, 2, 2), leaf(1, 3, 2, 2), leaf(3), leaf(3)
    assert torch.autograd.gradcheck(
        lambda x, w, b, g: normalise(x, w, b, 1e-3, centred=centred, gate=g), (x, weight, bias, gate)
    )


@needs_numba
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gelu_is_exact_far_out_too(dtype):
    """Against erfc in float64, whose relative error is small where the GELU itself is tiny."""
    x = torch.linspace(-12, 12, 4001, dtype=dtype)[None, None, None]
    y = depthwise(x, torch.ones(1, 1, 1, 1, dtype=dtype), None, "gelu").double()
    expected = x.double() * torch.special.erfc(-x.double() / 2**0.5) / 2
    near = x.abs() < 4
    assert_close(y[near], expected[near], rtol=1e-14 if dtype == torch.float64 else 2e-6, atol=0)
    assert_close(y, expected, rtol=1e-13 if dtype == torch.float64 else 1e-5, atol=0)


@needs_numba
def test_nan_and_infinity_are_not_swept_under_the_carpet():
    x = torch.zeros(1, 16, 3, 5)
    x[0, 2, 1, 1], x[0, 7, 0, 3] = torch.nan, torch.inf
    y = depthwise(x, torch.ones(16, 1, 1, 1), None, "gelu")
    assert y[0, 2, 1, 1].isnan()
    assert y[0, 7, 0, 3] == torch.inf
    assert normalise(x, torch.ones(16), torch.zeros(16), 1e-6, centred=True)[0, :, 1, 1].isnan().all()
    assert linear(x, torch.ones(3, 16))[0, :, 1, 1].isnan().all()


def test_frozen_parameters_cost_no_gradients():
    x, weight, matrix = leaf(1, 4, 8, 8), torch.randn(8, 1, 3, 3).double(), torch.randn(8, 4).double()
    y = depthwise(x, weight, None, "gated gelu", projection=matrix)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(y.sum(), x)
    assert counter.get_total_flops() == 2 * 64 * 8 * (9 + 4)


@needs_numba
def test_flops_are_those_of_the_convolutions_and_products():
    x, weight, matrix = leaf(1, 4, 8, 8), leaf(8, 1, 3, 3), leaf(8, 4)

    def count(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    forward = count(lambda: depthwise(x, weight, None, projection=matrix))
    assert forward == count(lambda: fused.depthwise_definition(x, weight, None, "none", projection=matrix))
    assert count(lambda: depthwise(x, weight, None, projection=matrix).sum().backward()) == 3 * forward
    assert count(lambda: linear(x, matrix).sum().backward()) == 3 * 2 * 64 * 8 * 4


@needs_numba
def test_shapes_follow_without_running():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        x, weight = mode.from_tensor(torch.randn(2, 4, 8, 16)), mode.from_tensor(torch.randn(6, 1, 3, 3))
        matrix, gain = mode.from_tensor(torch.randn(6, 4)), mode.from_tensor(torch.randn(64, 4))
        assert depthwise(x, weight, None, "gated gelu", projection=matrix).shape == (2, 3, 8, 16)
        assert linear(x, matrix).shape == (2, 6, 8, 16)
        assert filter_patches(x, gain).shape == x.shape
        assert RMSNorm2d(4)(torch.randn(1, 4, 2, 2)).shape == (1, 4, 2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_by_the_definition(dtype):
    x, weight = torch.randn(1, 4, 3, 3).to(dtype), torch.randn(4, 1, 3, 3).to(dtype)
    expected = fused.depthwise_definition(x, weight, None, "gelu")
    assert torch.equal(depthwise(x, weight, None, "gelu"), expected)


def test_without_numba_the_definitions_serve(monkeypatch):
    inputs = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    fast = depthwise(*inputs)
    monkeypatch.setattr(fused, "_kernels_exist", lambda: False)
    monkeypatch.setattr(fused, "DEPTHWISE", None)
    assert_close(depthwise(*inputs), fast)


@needs_numba
def test_threads_change_nothing():
    x, weight, matrix = leaf(2, 16, 130, 64, dtype=torch.float32), leaf(32, 1, 3, 3), leaf(32, 16)
    weight, matrix = (p.detach().float().requires_grad_() for p in (weight, matrix))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y = depthwise(x, weight, None, "gated gelu", projection=matrix)
            found.append([y, *torch.autograd.grad(y.sum(), (x, weight, matrix))])
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@needs_numba
@pytest.mark.parametrize("kernel", [(5, 5), (1, 7)])
def test_a_parameters_gradient_does_not_depend_on_what_stands_beside_it(kernel):
    """To the last digit, for reruns of the bundled trainings: the sum over pictures of each one's gradients."""
    channels, inputs, pictures = 17, 32, 8
    x, projection, weight, bias = (
        torch.randn(shape)
        for shape in ((pictures, 16, 16, inputs), (channels, inputs), (channels, 1, *kernel), (channels,))
    )
    dy = torch.randn(pictures, 16, 16, channels)

    def gradients(dy, x):
        _, dprojection, dweight, dbias, _ = fused.DEPTHWISE_BACKWARD(dy, x, projection, weight, bias, 0, None, True)
        return dprojection, torch.cat([dweight.flatten(1).T, dbias[None]])

    each = zip(*(gradients(dy[i : i + 1], x[i : i + 1]) for i in range(pictures)), strict=True)
    for whole, parts in zip(gradients(dy, x), each, strict=True):
        assert torch.equal(whole, torch.stack(parts).sum(0))
