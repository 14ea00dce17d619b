"""The selective scan: every backend against the definition, the reference of Mamba, and where scans usually break."""

import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backends import EVERY, FAST, FAST_HERE, needs_numba
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from evssm import scan_choice
from evssm.scan import scan_backends, selective_scan
from evssm.scan_definition import selective_scan_definition

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
# Six channels in two groups, four states, twenty steps: outputs and gradients of the reference scan of
# state-spaces/mamba in float64, every fourth (or so) number: array.ravel()[:: max(1, array.size // 60)].
GOLDEN = np.load(Path(__file__).parent / "golden" / "scan.npz")


def random_inputs(b=2, d=6, l=20, n=4, groups=None, dtype=torch.float64) -> dict[str, Tensor]:
    """Inputs of a scan that neither dies out nor explodes within its length."""
    rows = (b, n, l) if groups is None else (b, groups, n, l)
    shapes = {"u": (b, d, l), "delta": (b, d, l), "A": (d, n), "B": rows, "C": rows, "D": (d,), "delta_bias": (d,)}
    inputs = {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}
    inputs["A"] = -2 * torch.rand(d, n, dtype=dtype)
    return inputs


def outputs_and_gradients(inputs, dy=None, smooth=True, **keywords) -> dict[str, Tensor]:
    """y and the gradient of y . dy in every input."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y = selective_scan(**leaves, delta_softplus=smooth, **keywords)
    gradients = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y) if dy is None else dy)
    return {"y": y.detach(), **{f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}}


def relative_error(x: Tensor, exact: Tensor) -> float:
    """The L2 norm of the difference over that of `exact`; of the difference itself where `exact` is zero."""
    size = exact.double().norm()
    return float((x.double() - exact.double()).norm() / (size if size > 0 else 1))


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("case", ["b", "c", "d"])
def test_the_reference_scan_of_mamba_is_met_in_value_and_gradient(backend, case):
    inputs = {name: GOLDEN[f"{case}.{name}"] for name in (*NAMES, "z") if f"{case}.{name}" in GOLDEN}
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        leaves = {name: torch.from_numpy(x).to(dtype).requires_grad_() for name, x in inputs.items()}
        scanned = {name: x for name, x in leaves.items() if name != "z"}
        y = selective_scan(**scanned, delta_softplus=case != "c", backend=backend)
        y = y * F.silu(leaves["z"]) if "z" in leaves else y
        (y * torch.from_numpy(GOLDEN[f"{case}.w"]).to(dtype)).sum().backward()
        found = {"out": y.detach(), **{f"grad_{name}": x.grad for name, x in leaves.items()}}
        for name, x in found.items():
            slice_ = x.flatten()[:: max(1, x.numel() // 60)]
            assert relative_error(slice_, torch.from_numpy(GOLDEN[f"{case}.{name}"])) < tolerance, name


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    b=st.integers(1, 3),
    per_group=st.sampled_from([1, 2, 5, 8, 17, 64, 70]),
    groups=st.sampled_from([None, 1, 2, 3]),
    l=st.sampled_from([1, 2, 31, 32, 33, 70]),
    n=st.sampled_from([1, 4, 8, 11, 40]),
    smooth=st.booleans(),
    skip=st.booleans(),
    biased=st.booleans(),
    growing=st.booleans(),
    layout=st.sampled_from(["b d l", "b l d", "slice", "expanded"]),
)
def test_every_backend_agrees_with_the_definition(b, per_group, groups, l, n, smooth, skip, biased, growing, layout):
    inputs = random_inputs(b, per_group * (groups or 1), l, n, groups)
    if growing:
        inputs["A"] = 0.2 * inputs["A"].neg()
    if not smooth:
        inputs["delta"] = inputs["delta"].abs()
    for name, wanted in (("D", skip), ("delta_bias", biased)):
        if not wanted:
            del inputs[name]
    if layout == "b l d":
        inputs |= {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "B", "C")}
    if layout == "slice":
        both = torch.cat((inputs["u"], inputs["delta"]), dim=1).mT.contiguous().mT
        inputs["u"], inputs["delta"] = both.chunk(2, dim=1)
    if layout == "expanded":
        inputs |= {name: inputs[name][:, :1].expand_as(inputs[name]) for name in ("u", "delta")}
    dy = torch.randn_like(inputs["u"])
    expected = outputs_and_gradients(inputs, dy, smooth, backend="reference")
    for backend in FAST_HERE:
        found = outputs_and_gradients(inputs, dy, smooth, backend=backend)
        for name, x in expected.items():
            assert found[name].shape == x.shape
            assert relative_error(found[name], x) < 1e-11, (backend, name)


@pytest.mark.parametrize("backend", FAST)
def test_single_precision_loses_almost_nothing_on_a_long_sequence(backend):
    inputs = random_inputs(b=1, d=50, l=4096, n=8, dtype=torch.float32)
    inputs["A"] = -torch.arange(1.0, 9.0).expand(50, 8)  # EVSSM's first values
    inputs["delta_bias"] -= 4  # steps of about a hundredth, as networks take them
    dy = torch.randn_like(inputs["u"])
    exact = outputs_and_gradients({name: x.double() for name, x in inputs.items()}, dy.double(), backend="torch")
    found = outputs_and_gradients(inputs, dy, backend=backend)
    assert relative_error(found["y"], exact["y"]) < 1e-6
    assert max(relative_error(found[name], x) for name, x in exact.items()) < 2e-6


@pytest.mark.parametrize("backend", EVERY)
def test_gradients_are_those_of_finite_differences(backend):
    inputs = {name: x.requires_grad_() for name, x in random_inputs(b=1, d=3, l=5, n=2, groups=3).items()}
    names, tensors = list(inputs), tuple(inputs.values())

    def scanned(*values):
        return selective_scan(**dict(zip(names, values, strict=True)), delta_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(scanned, tensors)
    assert torch.autograd.gradgradcheck(scanned, tensors)


@pytest.mark.parametrize("backend", EVERY)
def test_the_answer_to_an_impulse_is_a_geometric_series(backend):
    u = torch.zeros(1, 1, 40, dtype=torch.float64)
    u[..., 3] = 1
    one = torch.ones(1, 1, 40, dtype=torch.float64)
    y = selective_scan(u, 0.25 * one, -one[0, :, :1], 3 * one, 2 * one, backend=backend)
    expected = 6 * 0.25 * torch.exp(-0.25 * torch.arange(37, dtype=torch.float64))
    assert not y[..., :3].any()
    assert_close(y[0, 0, 3:], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_decay_too_small_for_numbers_forgets_everything_at_once(backend, dtype):
    inputs = random_inputs(l=70, dtype=dtype)
    inputs["A"] = torch.full_like(inputs["A"], -1e4)
    inputs["delta"] = 1 + inputs["delta"].abs()
    inputs["delta_bias"] = inputs["delta_bias"].abs()
    delta = inputs["delta"] + inputs["delta_bias"][:, None]
    found = outputs_and_gradients(inputs, smooth=False, backend=backend)
    instant = torch.einsum("bnl,bnl->bl", inputs["B"], inputs["C"])[:, None] * delta + inputs["D"][:, None]
    assert relative_error(found["y"], instant * inputs["u"]) < 1e-6
    assert not found["dA"].any()
    assert all(x.isfinite().all() for x in found.values())


@pytest.mark.parametrize("backend", EVERY)
def test_no_step_at_all_keeps_the_state(backend):
    inputs = random_inputs(l=70)
    inputs["delta"][..., 1:] = 0
    del inputs["D"], inputs["delta_bias"]
    found = outputs_and_gradients(inputs, smooth=False, backend=backend)
    first = inputs["delta"][..., :1, None] * inputs["u"][..., :1, None] * inputs["B"][:, None, :, 0][:, :, None]
    assert_close(found["y"], torch.einsum("bdxn,bnl->bdl", first, inputs["C"]))
    assert all(x.isfinite().all() for x in found.values())


@pytest.mark.parametrize("backend", EVERY)
def test_a_growing_state_overflows_no_earlier_than_it_has_to(backend):
    u = torch.zeros(1, 1, 64)
    u[..., -1] = 1
    row, A = torch.ones(1, 1, 64), torch.full((1, 1), 4.0)  # e^4 a step: 32 steps of it are beyond float32
    y = selective_scan(u, torch.ones_like(u), A, row, row, backend=backend)
    assert_close(y, u)


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["u", "delta"])
def test_nan_spreads_to_later_steps_of_its_channel_and_nowhere_else(backend, name):
    inputs = random_inputs(d=20, l=80, dtype=torch.float32)
    inputs[name][1, 17, 37] = torch.nan
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    expected = torch.zeros_like(y, dtype=torch.bool)
    expected[1, 17, 37:] = True
    assert torch.equal(y.isnan(), expected)


@pytest.mark.parametrize("backend", EVERY)
def test_no_step_depends_on_a_later_one(backend):
    inputs = random_inputs(l=80)
    for x in inputs.values():
        x.requires_grad_()
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    moving = [inputs[name] for name in ("u", "delta", "B", "C")]
    for gradient in torch.autograd.grad(y[..., 40].sum(), moving):
        assert not gradient[..., 41:].any()
        assert gradient[..., 40].any()


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("empty", ["b", "d", "l", "n"])
def test_nothing_in_gives_nothing_out(backend, empty):
    inputs = random_inputs(**{"l": 40, empty: 0}, groups=None)
    found = outputs_and_gradients(inputs, backend=backend) if empty == "n" else None
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert y.shape == inputs["u"].shape
    if found:
        assert_close(y, inputs["D"][:, None] * inputs["u"])


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_expanded_inputs_are_summed(backend):
    inputs = random_inputs(b=3, d=40, l=33)
    single = {name: x[:1].clone().requires_grad_() for name, x in inputs.items() if name in ("u", "delta", "B", "C")}
    gradients = []
    for how in ("expand", "repeat"):
        wide = {name: x.expand(3, -1, -1) if how == "expand" else x.repeat(3, 1, 1) for name, x in single.items()}
        y = selective_scan(**(inputs | wide), delta_softplus=True, backend=backend)
        gradients.append(torch.autograd.grad(y.square().sum(), list(single.values())))
    for expanded, repeated in zip(*gradients, strict=True):
        assert_close(expanded, repeated)


@pytest.mark.parametrize("backend", FAST)
def test_channels_last_memory_stays_channels_last(backend):
    inputs = random_inputs(d=20)
    inputs |= {name: inputs[name].mT.contiguous().mT.requires_grad_() for name in ("u", "delta")}
    y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    du, ddelta = torch.autograd.grad(y.sum(), [inputs["u"], inputs["delta"]])
    assert all(x.mT.is_contiguous() for x in (y, du, ddelta))


@pytest.mark.parametrize("backend", EVERY)
def test_half_precision_is_computed_in_single(backend):
    inputs = random_inputs(dtype=torch.float32)
    half = {name: x if name in ("A", "D", "delta_bias") else x.bfloat16() for name, x in inputs.items()}
    found = outputs_and_gradients(half, backend=backend)
    exact = outputs_and_gradients({name: x.double() for name, x in half.items()}, backend="reference")
    for name, x in exact.items():
        dtype = half["u" if name == "y" else name[1:]].dtype
        assert found[name].dtype == dtype
        assert relative_error(found[name], x) < (3e-3 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("backend", EVERY)
def test_autocast_does_not_reach_inside(backend):
    inputs = {name: x.requires_grad_() for name, x in random_inputs(dtype=torch.float32).items()}
    outside = selective_scan(**inputs, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert_close(inside, outside)
    leaves = list(inputs.values())
    gradients = (torch.autograd.grad(y.sum(), leaves) for y in (inside, outside))
    assert_close(*gradients)


@needs_numba
def test_the_number_of_threads_changes_no_bit():
    inputs = random_inputs(b=2, d=96, l=1024, n=8, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(inputs, backend="numba"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0)


@needs_numba
def test_two_python_threads_may_scan_at_once():
    threads = torch.get_num_threads()
    several = [random_inputs(b=2, d=96, l=1024, n=8, dtype=torch.float32) for _ in range(4)]
    alone = [outputs_and_gradients(inputs, backend="numba") for inputs in several]
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda inputs: outputs_and_gradients(inputs, backend="numba"), several))
    finally:
        torch.set_num_threads(threads)
    assert_close(together, alone, rtol=0, atol=0)


class Scanned(Dataset):
    """Scans, each run with two threads in whatever process asks for it."""

    def __init__(self, inputs):
        self.inputs = inputs

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.set_num_threads(2)
        return selective_scan(**self.inputs, delta_softplus=True, backend="numba")


@needs_numba
def test_a_forked_data_loader_worker_can_scan():
    inputs = random_inputs(b=2, d=96, l=1024, n=8, dtype=torch.float32)
    # In channels-last memory, so that torch itself copies nothing: its own OpenMP threads do not survive a fork.
    inputs |= {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "B", "C")}
    threads = torch.get_num_threads()
    try:
        here = Scanned(inputs)[0]  # this process's pool has its threads now; the worker inherits none of them
    finally:
        torch.set_num_threads(threads)
    for y in DataLoader(Scanned(inputs), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60):
        assert torch.equal(y, here)


@pytest.mark.parametrize("backend", FAST)
def test_checkpointing_gives_the_same_gradients(backend):
    inputs = random_inputs(l=70)
    expected = outputs_and_gradients(inputs, backend=backend)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    y = checkpoint(selective_scan, **leaves, delta_softplus=True, backend=backend, use_reentrant=False)
    y.sum().backward()
    assert_close({f"d{name}": x.grad for name, x in leaves.items()}, {k: x for k, x in expected.items() if k != "y"})


@pytest.mark.parametrize("backend", FAST)
def test_little_is_kept_for_the_backward_pass(backend):
    inputs = random_inputs(b=1, d=64, l=2048, n=8, dtype=torch.float32)
    own = {x.data_ptr() for x in inputs.values()}
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selective_scan(**leaves, delta_softplus=True, backend=backend)
    assert sum(x.numel() for x in kept if x.data_ptr() not in own) <= inputs["u"].numel() / 2


@pytest.mark.parametrize("backend", FAST)
def test_operators_describe_themselves_rightly(backend):
    u, delta, B, C = (torch.rand(2, 40, *rest) for rest in ((6,), (6,), (2, 8), (2, 8)))
    inputs = (u, delta, -torch.rand(6, 8), B, C, torch.rand(6), None, True)
    _, borders = torch.ops.evssm.scan(*inputs, True, backend)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.evssm.scan.default, (*inputs, True, backend), test_utils=checks)
    torch.library.opcheck(
        torch.ops.evssm.scan_backward.default,
        (torch.rand_like(u), *inputs[:-1], borders, True, backend),
        test_utils=checks,
    )


@pytest.mark.parametrize("backend", FAST)
def test_shapes_can_be_traced_without_running(backend):
    with torch.device("meta") if backend == "torch" else torch._subclasses.FakeTensorMode():
        inputs = {name: torch.empty(x.shape, requires_grad=True) for name, x in random_inputs().items()}
        y = selective_scan(**inputs, delta_softplus=True, backend=backend)
        gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
    assert y.shape == inputs["u"].shape
    assert [g.shape for g in gradients] == [x.shape for x in inputs.values()]


@pytest.mark.parametrize("backend", FAST)
def test_flops_are_counted_by_the_usual_formula(backend):
    b, d, l, n = 2, 6, 20, 4
    inputs = {name: x.requires_grad_() for name, x in random_inputs(b, d, l, n).items()}
    with FlopCounterMode(display=False) as forward:
        y = selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert forward.get_total_flops() == 9 * b * l * d * n + b * l * d
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 3 * forward.get_total_flops()


@needs_numba
def test_auto_is_numba_on_the_cpu_and_torch_without_it(monkeypatch):
    inputs = {**random_inputs(), "delta_softplus": True}
    assert scan_backends()["numba"] == "available"
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend="numba"))
    ours = {"evssm.lanes", "evssm.scan_numba"}
    for module in [name for name in sys.modules if name.split(".")[0] == "numba" or name in ours]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "numba", None)  # an import of it fails from now on
    functions = (scan_choice.backend_module, scan_choice._state)
    for function in functions:
        function.cache_clear()
    try:
        assert "pip install numba" in scan_backends()["numba"]
        assert_close(selective_scan(**inputs), selective_scan(**inputs, backend="torch"))
        with pytest.raises(ValueError, match="'numba' is not available"):
            selective_scan(**inputs, backend="numba")
    finally:
        monkeypatch.undo()
        for function in functions:
            function.cache_clear()


def test_importing_the_scan_does_not_import_numba():
    code = "import sys, evssm.scan; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    assert {"reference", "torch"} <= set(scan_backends())
    with pytest.raises(ValueError, match=r"'cuda'.*'reference', 'torch', 'numba', 'triton', 'mamba_ssm' and 'auto'"):
        selective_scan(**random_inputs(), backend="cuda")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 6), r"u has shape \(2, 6\), expected \(b, d, l\)"),
        ("delta", (2, 6, 19), r"delta has shape \(2, 6, 19\), expected \(2, 6, 20\)"),
        ("A", (5, 4), r"A has shape \(5, 4\), expected \(d, n\) with d = 6"),
        ("B", (2, 3, 20), r"B has shape \(2, 3, 20\), expected \(2, 4, 20\), or \(b, g, n, l\)"),
        ("B", (2, 4, 4, 20), r"B has shape \(2, 4, 4, 20\), expected"),
        ("C", (2, 2, 4, 20), r"C has shape \(2, 2, 4, 20\), expected \(2, 4, 20\)"),
        ("D", (7,), r"D has shape \(7,\), expected \(6,\)"),
        ("delta_bias", (1, 6), r"delta_bias has shape \(1, 6\), expected \(6,\)"),
    ],
)
def test_a_wrong_shape_is_named_with_what_was_expected(name, shape, message):
    inputs = random_inputs() | {name: torch.zeros(shape)}
    # Under the tests' import hook the annotations would refuse the shapes first; users run without it.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(selective_scan)(**inputs)


def test_a_tensor_on_another_device_is_named():
    inputs = random_inputs()
    with pytest.raises(ValueError, match="B is on meta, and u on cpu"):
        selective_scan(**inputs | {"B": inputs["B"].to("meta")})


@needs_numba
def test_a_tensor_off_the_cpu_is_named_by_the_backend_for_the_cpu():
    inputs = random_inputs()
    with pytest.raises(ValueError, match="'numba' runs on the CPU, and u is on meta"):
        selective_scan(**{name: x.to("meta") for name, x in inputs.items()}, backend="numba")


def test_the_definition_itself_is_the_recurrence():
    inputs = random_inputs(b=1, d=1, l=5, n=1)
    y = selective_scan_definition(**inputs).flatten().tolist()
    u, delta, B, C = (inputs[name].flatten().tolist() for name in ("u", "delta", "B", "C"))
    A, D, bias = (inputs[name].item() for name in ("A", "D", "delta_bias"))
    h = 0.0
    for t in range(5):
        h = float(np.exp((delta[t] + bias) * A)) * h + (delta[t] + bias) * B[t] * u[t]
        assert y[t] == pytest.approx(C[t] * h + D * u[t], rel=1e-12)
