"""The chunked scan of Mamba-2 against its recurrence, the scan of Mamba-1, and the official functions.

`golden/ssd.npz` holds the inputs (float32) and the float64 results, first batch item, of `ssd_minimal_discrete`
(`minimal.*`) and `ssd_chunk_scan_combined_ref` (`chunk.*`) of github.com/state-spaces/mamba, e9594ce.
"""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import grad, gradcheck
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import evssm.ssd
from evssm.scan import selective_scan
from evssm.ssd import CHUNK, ssd_recurrence, ssd_scan, ssd_scan_from

GOLDEN = {
    key: torch.from_numpy(value).double()
    for key, value in np.load(Path(__file__).parent / "golden" / "ssd.npz").items()
}


def problem(b=1, l=7, heads=2, groups=1, p=3, n=4, *, skip="head", seed=None, dtype=torch.float64):
    """Random tensors (x, dt, A, B, C, D); decays per step between none and nearly all."""
    draw = torch.Generator()
    draw.seed() if seed is None else draw.manual_seed(seed)
    x, B, C, D = (
        torch.randn(*shape, generator=draw, dtype=dtype)
        for shape in ((b, l, heads, p), (b, l, groups, n), (b, l, groups, n), (heads, p))
    )
    dt = F.softplus(2 * torch.randn(b, l, heads, generator=draw, dtype=dtype) - 2)
    A = -16 * torch.rand(heads, generator=draw, dtype=dtype)
    return x, dt, A, B, C, {"none": None, "head": D[:, 0], "channel": D}[skip]


def learnable(tensors):
    return tuple(t.requires_grad_() for t in tensors if t is not None)


def relative(ours, truth):
    return ((ours.double() - truth.double()).norm() / truth.double().norm()).item()


problems = st.builds(
    lambda b, l, per_group, groups, p, n, skip, seed: problem(
        b, l, groups * per_group, groups, p, n, skip=skip, seed=seed
    ),
    *(st.integers(1, top) for top in (2, 70, 3, 3, 5, 5)),
    st.sampled_from(["none", "head", "channel"]),
    st.integers(0, 2**31),
)


@given(problems, st.integers(1, 40), st.sampled_from([1, 2**12, 2**20]))
def test_the_chunked_scan_and_its_gradients_are_the_recurrence_s(tensors, chunk, segment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evssm.ssd, "SEGMENT", segment)  # down to one chunk at a time
        inputs = learnable(tensors)
        chunked, definition = ssd_scan(*inputs, chunk=chunk), ssd_recurrence(*inputs)
        assert_close(chunked, definition, rtol=1e-10, atol=1e-10)
        weight = torch.randn_like(chunked)
        ours, truth = (grad((y * weight).sum(), inputs) for y in (chunked, definition))
    for g, t in zip(ours, truth, strict=True):
        assert_close(g, t, rtol=1e-9, atol=1e-9 * max(1.0, t.abs().max().item()))


@pytest.mark.parametrize("l", [1, CHUNK - 1, CHUNK, CHUNK + 1, 97, 3 * CHUNK])
def test_no_length_is_special(l):
    tensors = problem(b=2, l=l, heads=4, groups=2)
    assert_close(ssd_scan(*tensors), ssd_recurrence(*tensors), rtol=1e-10, atol=1e-10)


def test_the_chunk_does_not_change_the_result():
    tensors = problem(l=61)
    first, *others = (ssd_scan(*tensors, chunk=chunk) for chunk in (1, 2, 3, 16, 60, 61, 62, 1000))
    for other in others:
        assert_close(other, first, rtol=1e-11, atol=1e-11)


def test_all_gradients_are_those_of_finite_differences():
    state, inputs = torch.randn(1, 4, 3, 2, dtype=torch.float64), problem(heads=4, groups=2, n=2)
    assert gradcheck(lambda *t: ssd_scan_from(*t, chunk=3), learnable([state, *inputs]))


@pytest.mark.parametrize("groups", [1, 3])
def test_it_is_the_selective_scan_of_mamba_1_with_equal_decays_in_a_head(groups):
    x, dt, A, B, C, D = problem(b=2, l=50, heads=6, groups=groups, p=4, n=5)
    u = x.flatten(2).mT
    delta, A_all, D_all = (t.repeat_interleave(4, dim=-1) for t in (dt, A, D))
    y = selective_scan(u, delta.mT, A_all[:, None].expand(-1, 5), *(t.permute(0, 2, 3, 1) for t in (B, C)), D_all)
    assert_close(ssd_scan(x, dt, A, B, C, D).flatten(2).mT, y, rtol=1e-9, atol=1e-9)


def minimal():
    """The golden's inputs x dt and dt A, as x, dt and A: with A = -1, dt is minus the log decay."""
    dt = -GOLDEN["minimal.A"]
    A = -torch.ones(3, dtype=torch.float64)
    return GOLDEN["minimal.X"] / dt[..., None], dt, A, GOLDEN["minimal.B"], GOLDEN["minimal.C"]


@pytest.mark.parametrize("chunk", [8, 5])
def test_it_is_the_official_minimal_ssd(chunk):
    start = torch.zeros(1, 3, 5, 4, dtype=torch.float64)
    for suffix, state in (("", start), ("_init", GOLDEN["minimal.init"][:, 0])):
        y, end = ssd_scan_from(state, *minimal(), chunk=chunk)
        assert relative(y, GOLDEN[f"minimal.Y{suffix}_f64"]) < 1e-13
        assert relative(end, GOLDEN[f"minimal.final_state{suffix}_f64"]) < 1e-13


def test_it_is_the_scan_inside_the_official_chunked_reference():
    x, raw, A, B, C, D, bias, z = (GOLDEN[f"chunk.{name}"] for name in ("x", "dt", "A", "B", "C", "D", "dt_bias", "z"))
    y = ssd_scan(x, F.softplus(raw + bias), A, B, C, D)
    assert relative(y, GOLDEN["chunk.y_f64"]) < 1e-13
    assert relative(y * F.silu(z), GOLDEN["chunk.y_z_f64"]) < 1e-13


def test_without_a_step_only_the_skip_is_left():
    x, dt, A, B, C, D = problem(l=50, skip="channel")
    assert torch.equal(ssd_scan(x, torch.zeros_like(dt), A, B, C, D), D * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_after_huge_steps_each_step_sees_itself_alone(dtype):
    x, dt, A, B, C, _ = problem(l=50, dtype=dtype)
    inputs = learnable([x, torch.full_like(dt, 1e30), A - 1, B, C])
    y = ssd_scan(*inputs)
    assert_close(y / 1e30, x * (B * C).sum(dim=-1)[..., None])
    assert all(g.isfinite().all() for g in grad(y.sum(), inputs))


@pytest.mark.parametrize("large", [40.0, 1e30])
def test_a_large_decay_does_not_blur_the_small_ones_after_it(large):
    x, dt, A, B, C, D = problem(l=256, heads=4, p=8, n=16, dtype=torch.float32)
    dt = torch.where(torch.rand_like(dt) < 0.2, large, 0.01)
    inputs = learnable([x / dt[..., None], dt, A - 1, B, C, D])
    truth = tuple(t.detach().double().requires_grad_() for t in inputs)
    ours, exact = ssd_scan(*inputs), ssd_recurrence(*truth)
    assert relative(ours, exact) < 1e-6
    for ours_grad, exact_grad in zip(grad(ours.square().sum(), inputs), grad(exact.square().sum(), truth), strict=True):
        assert relative(ours_grad, exact_grad) < 1e-5


def test_pieces_handed_over_with_their_state_give_the_whole():
    x, dt, A, B, C, D = problem(b=2, l=90, heads=4, groups=2)
    state, ys = torch.randn(2, 4, 3, 4, dtype=torch.float64), []
    whole, end = ssd_scan_from(state, x, dt, A, B, C, D)
    for x_part, dt_part, B_part, C_part in zip(*(t.split([40, 1, 49], dim=1) for t in (x, dt, B, C)), strict=True):
        y, state = ssd_scan_from(state, x_part, dt_part, A, B_part, C_part, D)
        ys.append(y)
    assert_close(torch.cat(ys, dim=1), whole)
    assert_close(state, end)


def test_little_is_kept_for_the_backward_pass():
    kept = 0

    def count(t):
        nonlocal kept
        kept += t.numel()
        return t

    inputs = learnable(problem(l=4096, heads=8, p=12, n=16, dtype=torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        ssd_scan(*inputs)
    assert kept < 6 * sum(t.numel() for t in inputs)  # a chunk's matrices alone would be 8 x 32 numbers per step


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_summed_in_single_precision(dtype):
    tensors = [t.to(dtype) for t in problem(l=64)]
    wide = ssd_scan(*(t.float() for t in tensors))
    assert torch.equal(ssd_scan(*tensors), wide.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssd_scan(*(t.float() for t in tensors)), wide)


def test_shapes_and_operations_are_known_without_running():
    shapes = {"x": (2, 50, 4, 3), "dt": (2, 50, 4), "A": (4,), "B": (2, 50, 2, 5), "C": (2, 50, 2, 5)}
    with FlopCounterMode(display=False) as counted:
        y = ssd_scan(*(torch.empty(shape, device="meta") for shape in shapes.values()), chunk=8)
    assert y.shape == shapes["x"]
    products, own, states = 2 * 5 * 8, 4 * 3 * 8, 2 * 4 * 3 * 5  # C with B, matrix with x, and to and from the state
    assert counted.get_total_flops() == 2 * (2 * 50) * (products + own + states)


def test_the_operators_keep_pytorch_s_rules():
    x, dt, A, B, C, _ = problem()
    state = torch.randn(1, 1, 4, 6, dtype=torch.float64)
    inputs = learnable([x, (dt * A).detach(), B, C, state])
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.evssm.ssd.default, (*inputs, 3), test_utils=checks)


def test_a_second_derivative_is_refused():
    inputs = learnable(problem())
    (first,) = grad(ssd_scan(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        grad(first.sum(), inputs[0])


bare = {f: inspect.unwrap(f) for f in (ssd_scan, ssd_recurrence, ssd_scan_from)}
"""The functions as a user has them, without the suite's checks of annotated shapes, which would answer first."""


@pytest.mark.parametrize("function", [ssd_scan, ssd_recurrence])
@pytest.mark.parametrize(("name", "position"), [("dt", 1), ("A", 2), ("B", 3), ("C", 4), ("D", 5)])
def test_a_tensor_that_does_not_fit_is_named(function, name, position):
    tensors = list(problem())
    tensors[position] = torch.cat([tensors[position]] * 2)
    with pytest.raises(ValueError, match=rf"{name} is \({tensors[position].shape[0]}, ?.*\), not"):
        bare[function](*tensors)


def test_a_state_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"state is \(1, 2, 4, 3\), not \(1, 2, 3, 4\)"):
        bare[ssd_scan_from](torch.zeros(1, 2, 4, 3, dtype=torch.float64), *problem())


def test_heads_that_cannot_share_the_groups_are_refused():
    with pytest.raises(ValueError, match="5 heads cannot share 2 groups"):
        ssd_scan(*problem(heads=5, groups=2))


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk=0"):
        ssd_scan(*problem(), chunk=0)
