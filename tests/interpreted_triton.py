"""What `test_scan_triton.py` runs in a process where Triton interprets its kernels (`TRITON_INTERPRET=1`).

The interpreter takes milliseconds for what a processor does in nanoseconds, so tiles and inputs are tiny.
"""

import pytest
import torch
from test_scan import outputs_and_gradients, random_inputs, relative_error
from torch.testing import assert_close

from evssm import scan_triton
from evssm.mixer import SS2D
from evssm.scan import scan_backends, scanning_with, selective_scan


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(scan_triton, "STEPS", 4)
    monkeypatch.setattr(scan_triton, "WIDE", 2)


@pytest.mark.parametrize(
    ("b", "d", "l", "n", "groups", "smooth", "without", "growing"),
    [
        (2, 3, 9, 2, None, True, (), False),  # the last tile has a step and a channel only
        (1, 6, 8, 1, 2, True, (), False),  # groups of channels that fill no whole tiles
        (1, 2, 19, 2, 1, False, ("D",), False),  # more chunks than one tile of the carry has lines
        (1, 1, 1, 3, None, True, ("delta_bias",), False),
        (1, 2, 3, 2, None, True, ("D", "delta_bias"), True),
    ],
)
def test_values_and_gradients_are_those_of_the_definition(b, d, l, n, groups, smooth, without, growing):
    inputs = random_inputs(b, d, l, n, groups)
    if growing:
        inputs["A"] = 0.2 * inputs["A"].neg()
    if not smooth:
        inputs |= {name: inputs[name].abs() for name in ("delta", "delta_bias")}
    for name in without:
        del inputs[name]
    dy = torch.randn_like(inputs["u"])
    expected = outputs_and_gradients(inputs, dy, smooth, backend="reference")
    found = outputs_and_gradients(inputs, dy, smooth, backend="triton")
    for name, x in expected.items():
        assert found[name].shape == x.shape
        assert relative_error(found[name], x) < 1e-12, name


def test_single_precision_loses_almost_nothing():
    inputs = random_inputs(b=1, d=2, l=41, n=2, dtype=torch.float32)
    inputs["delta_bias"] -= 4  # steps of about a hundredth, as networks take them
    dy = torch.randn_like(inputs["u"])
    exact = outputs_and_gradients({name: x.double() for name, x in inputs.items()}, dy.double(), backend="reference")
    found = outputs_and_gradients(inputs, dy, backend="triton")
    assert relative_error(found["y"], exact["y"]) < 1e-6
    assert max(relative_error(found[name], x) for name, x in exact.items()) < 2e-5  # sums over few, of any sign


def test_softplus_is_exact_from_end_to_end():
    """With l = 1, A = 0 and all else one, y is softplus(delta), and its gradient the sigmoid."""
    delta = torch.linspace(-80, 40, 61, dtype=torch.float32)[:, None, None].requires_grad_()
    one = torch.ones(61, 1, 1)
    y = selective_scan(one, delta, torch.zeros(1, 1), one, one, delta_softplus=True, backend="triton")
    assert_close(y, torch.nn.functional.softplus(delta.double()).float(), rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(y.sum(), delta)
    assert_close(slope, torch.sigmoid(delta.detach().double()).float(), rtol=1e-6, atol=0)


def test_the_tile_is_no_part_of_the_result(monkeypatch):
    inputs = random_inputs(b=1, d=3, l=11, n=1)
    found = []
    for steps, wide in ((2, 4), (8, 1), (16, 2)):
        monkeypatch.setattr(scan_triton, "STEPS", steps)
        monkeypatch.setattr(scan_triton, "WIDE", wide)
        found.append(outputs_and_gradients(inputs, backend="triton"))
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-12, atol=1e-13)


def test_a_decay_too_small_for_numbers_forgets_everything_at_once():
    inputs = random_inputs(b=1, d=2, l=10, n=1, dtype=torch.float32)
    inputs["A"] = torch.full_like(inputs["A"], -1e4)
    inputs |= {"delta": 1 + inputs["delta"].abs(), "delta_bias": inputs["delta_bias"].abs()}
    delta = inputs["delta"] + inputs["delta_bias"][:, None]
    found = outputs_and_gradients(inputs, smooth=False, backend="triton")
    instant = (inputs["B"] * inputs["C"]).sum(1)[:, None] * delta + inputs["D"][:, None]
    assert relative_error(found["y"], instant * inputs["u"]) < 1e-6
    assert not found["dA"].any()
    assert all(x.isfinite().all() for x in found.values())


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # by NumPy, in which Triton interprets
def test_a_growing_state_overflows_no_earlier_than_it_has_to():
    u = torch.zeros(1, 1, 40)
    u[..., -1] = 1
    row, A = torch.ones(1, 1, 40), torch.full((1, 1), 40.0)  # three steps of e^40 are beyond float32
    assert_close(selective_scan(u, torch.ones_like(u), A, row, row, backend="triton"), u)


def test_a_mode_grows_in_double_precision_as_far_as_that_goes():
    inputs = random_inputs(b=1, d=1, l=6, n=1)
    inputs |= {"A": torch.full((1, 1), 40.0, dtype=torch.float64), "delta": torch.ones_like(inputs["delta"])}
    inputs["delta_bias"] = torch.zeros_like(inputs["delta_bias"])  # e^160 over a chunk, far beyond float32
    expected = outputs_and_gradients(inputs, smooth=False, backend="reference")
    found = outputs_and_gradients(inputs, smooth=False, backend="triton")
    assert expected["y"].abs().max() > 1e60
    assert max(relative_error(found[name], x) for name, x in expected.items()) < 1e-12


@pytest.mark.parametrize("name", ["u", "delta"])
def test_nan_spreads_to_later_steps_of_its_channel_and_nowhere_else(name):
    inputs = random_inputs(b=1, d=3, l=11, n=1, dtype=torch.float32)
    inputs[name][0, 1, 5] = torch.nan
    y = selective_scan(**inputs, delta_softplus=True, backend="triton")
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[0, 1, 5:] = True
    assert torch.equal(y.isnan(), expected)


def test_the_gradient_before_a_nan_is_nan_too():
    """Where a step size is not a number, no earlier input's influence on later outputs is."""
    inputs = random_inputs(b=1, d=1, l=11, n=1)
    inputs["delta"][0, 0, 5] = torch.nan
    du = outputs_and_gradients(inputs, backend="triton")["du"]
    assert du[0, 0, :6].isnan().all()
    assert du[0, 0, 6:].isfinite().all()


@pytest.mark.parametrize("empty", ["b", "d", "l", "n"])
def test_nothing_in_gives_nothing_out(empty):
    inputs = random_inputs(**{"b": 1, "d": 2, "l": 5, "n": 1, empty: 0})
    found = outputs_and_gradients(inputs, backend="triton")
    assert found["y"].shape == inputs["u"].shape
    if empty == "n":
        assert_close(found["y"], inputs["D"][:, None] * inputs["u"])
        assert_close(found["du"], inputs["D"][:, None].expand_as(inputs["u"])[None][0])


def test_it_is_a_backend_here_and_keeps_dtypes_and_memory():
    assert scan_backends()["triton"] == "available"
    inputs = random_inputs(b=1, d=2, l=6, n=1, dtype=torch.float32)
    inputs["u"] = inputs["u"].mT.contiguous().mT
    y = selective_scan(**inputs, delta_softplus=True, backend="triton")
    assert y.mT.is_contiguous()
    half = {name: x.bfloat16() if x.ndim == 3 else x for name, x in inputs.items()}
    y = selective_scan(**half, delta_softplus=True, backend="triton")
    assert y.dtype == torch.bfloat16
    assert relative_error(y, selective_scan(**half, delta_softplus=True, backend="reference")) < 3e-3


def test_a_network_s_scans_go_through_it_where_that_is_said():
    mixer, x = SS2D(2, state=2).double(), torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    wanted = [x, *mixer.parameters()]
    expected = [y := mixer(x), *torch.autograd.grad(y.square().sum(), wanted)]
    ran = []
    forward = scan_triton.forward
    with pytest.MonkeyPatch.context() as patch, scanning_with("triton"):
        patch.setattr(scan_triton, "forward", lambda *inputs: ran.append(1) or forward(*inputs))
        found = [y := mixer(x), *torch.autograd.grad(y.square().sum(), wanted)]
    assert ran == [1]
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-11)
