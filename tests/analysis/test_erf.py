"""Receptive fields with known answers, each estimator against finite differences, and a caller left
undisturbed."""

import json
from dataclasses import dataclass
from functools import reduce

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.queries import centred_on, query_positions

ESTIMATORS = ("rss", "abs", "signed", "replknet", "mambair")


def images(n=2, c=3, h=12, w=15):
    return torch.rand(n, c, h, w, dtype=torch.float64)


def conv(kernel, c=1):
    """A depth-wise convolution with this kernel, zero padding, no bias."""
    kernel = torch.as_tensor(kernel, dtype=torch.float64)
    weight = kernel.expand(c, 1, *kernel.shape)
    return lambda x: F.conv2d(x, weight, padding=[side // 2 for side in kernel.shape], groups=c)


class Restorer(nn.Module):
    """A small restorer with dropout, batch normalisation, a frozen parameter and a switch to recompute its
    body."""

    def __init__(self, c=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.5), nn.Conv2d(6, c, 3, padding=1)
        )
        self.body[0].bias.requires_grad_(False)
        self.checkpoint = False
        self.recomputed = 0
        self.double()

    def forward(self, x):
        if self.checkpoint:
            self.recomputed += 1
            return x + checkpoint(self.body, x, use_reentrant=False)
        return x + self.body(x)


# --- answers in closed form -------------------------------------------------------------------------------------------


def test_a_linear_stack_gives_its_flipped_impulse_response():
    kernels = [torch.randn(3, 5, dtype=torch.float64) for _ in range(3)]

    def net(x):
        return reduce(lambda y, kernel: conv(kernel)(y), kernels, x)

    x = images(1, 1, 17, 31)
    erf = effective_receptive_field(net, x, estimator="signed", residual="include")
    impulse = torch.zeros(1, 1, 17, 31, dtype=torch.float64)
    impulse[..., 8, 15] = 1
    response = net(impulse)[0, 0].flip(0, 1).numpy()  # odd sides: flipping keeps the centre
    np.testing.assert_allclose(erf.raw, response, atol=1e-13 * abs(response).max())
    np.testing.assert_allclose(erf.map, response / abs(response).sum(), atol=1e-13)
    assert erf.mass[0] == pytest.approx(abs(response).sum())


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 3), (5, 3), (3, 5), (2, 7)])
def test_the_variance_of_uniform_convolutions_grows_by_a_twelfth_of_k_squared_minus_one(n, k):
    box = conv(torch.full((k, k), 1 / k**2))
    x = images(1, 1, 31, 33)
    erf = effective_receptive_field(lambda x: reduce(lambda y, _: box(y), range(n), x), x, residual="include")
    assert erf.spread()[:2] == pytest.approx([np.sqrt(n * (k**2 - 1) / 12)] * 2, rel=1e-9)
    assert erf.radius(1.0, norm="chebyshev") == n * (k - 1) / 2


def test_two_box_filters_give_a_tent():
    box = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(box.weight, 1 / 9)
    erf = effective_receptive_field(nn.Sequential(box, box), torch.rand(2, 1, 9, 10), residual="include")
    tent = np.array([1, 2, 3, 2, 1]) / 9
    np.testing.assert_allclose(erf.map[2:7, 3:8], np.outer(tent, tent), rtol=1e-6)
    assert erf.map.sum() == pytest.approx(1)
    assert np.count_nonzero(erf.map) == 25


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_identity_is_a_single_pixel_and_nothing_without_its_residual(estimator):
    erf = effective_receptive_field(nn.Identity(), images(), estimator=estimator, residual="include")
    assert erf.map[6, 7] == 1
    assert np.count_nonzero(erf.map) == 1
    with pytest.raises(ValueError, match=r'image 0 .* map of F\(x\) - x is zero .* residual="include"'):
        effective_receptive_field(nn.Identity(), images(), estimator=estimator)
    with pytest.raises(ValueError, match=r"map of F\(x\) is zero everywhere"):
        effective_receptive_field(lambda x: x * 0, images(), estimator=estimator, residual="include")


def test_the_residual_is_a_spike_at_the_query():
    net, x = Restorer(), images()
    parts = [effective_receptive_field(net, x, estimator="signed", residual=r).raw for r in ("include", "exclude")]
    spike = np.zeros((12, 15))
    spike[6, 7] = 3  # one for each channel
    np.testing.assert_allclose(parts[0] - parts[1], spike, atol=1e-12)


def test_a_residual_is_left_alone_where_shapes_differ():
    def net(x):
        return conv([[1.0, 2, 3]])(x.mean(dim=1, keepdim=True))

    erf = effective_receptive_field(net, images())
    assert erf.provenance["residual"] == "none: shapes differ"
    np.testing.assert_allclose(erf.map[6, 6:9], np.array([1, 2, 3]) / 6)
    assert effective_receptive_field(Restorer(), images()).provenance["residual"] == "exclude"


def test_nothing_is_taken_out_of_a_network_that_says_it_adds_no_input():
    def net(x):
        return conv([[1.0, 2, 3]])(x)

    net.adds_input = False
    erf = effective_receptive_field(net, images(1, 1))
    assert erf.provenance["residual"] == "none: the network adds no input to its output"
    np.testing.assert_array_equal(erf.map, effective_receptive_field(net, images(1, 1), residual="include").map)


@pytest.mark.parametrize("adds", [True, False])
def test_of_two_views_their_mean_is_taken_out_where_it_is_added(adds):
    def net(x):
        left, right = x.chunk(2, dim=1)
        return conv([[1.0, 2, 3]], 3)(left) + (left + right) / 2 * adds

    net.adds_input = adds
    erf = effective_receptive_field(net, images(1, 6))
    assert erf.provenance["residual"] == ("exclude" if adds else "none: the network adds no input to its output")
    np.testing.assert_allclose(erf.map[6, 6:9], np.array([1, 2, 3]) / 6)


def test_opposite_channels_cancel_in_a_sum_and_not_in_rss():
    kernel = torch.randn(3, 3, dtype=torch.float64)

    def net(x):
        return torch.cat([conv(kernel)(x), -conv(kernel)(x)], dim=1)

    x = images(1, 1)
    for estimator in ("signed", "mambair"):
        with pytest.raises(ValueError, match=r'zero everywhere.*estimator="rss"'):
            effective_receptive_field(net, x, estimator=estimator)
    rss, absolute, replknet = (effective_receptive_field(net, x, estimator=e) for e in ("rss", "abs", "replknet"))
    size = kernel.abs().numpy()
    np.testing.assert_allclose(rss.raw[5:8, 6:9], np.sqrt(2) * size)
    np.testing.assert_allclose(absolute.raw[5:8, 6:9], 2 * size)
    assert np.all(replknet.raw[5:8, 6:9] <= size + 1e-12)  # of the one channel that is positive, its positive part


def test_replknet_hears_only_positive_outputs():
    kernel = torch.rand(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match='estimator="rss"'):
        effective_receptive_field(lambda x: -conv(kernel)(x), images(1, 1), estimator="replknet", residual="include")
    with pytest.raises(ValueError, match="zero everywhere"):  # relu has no slope at zero itself
        effective_receptive_field(lambda x: x - x.detach(), images(1, 1), estimator="replknet", residual="include")
    mambair = effective_receptive_field(lambda x: conv(kernel)(x) - 9, images(1, 1), estimator="mambair")
    assert mambair.mass[0] > 0


def test_global_average_pooling_leaves_a_floor():
    kernel = torch.rand(3, 3, dtype=torch.float64)

    def net(x):
        return conv(kernel)(x) + x.mean(dim=(2, 3), keepdim=True)

    erf = effective_receptive_field(net, images(1, 1, 24, 30), residual="include")
    np.testing.assert_allclose(erf.raw[0], 1 / (24 * 30))
    assert erf.floor() == pytest.approx(erf.raw.min() / erf.raw.max())
    local = effective_receptive_field(conv(kernel), images(1, 1, 24, 30), residual="include")
    assert local.floor() == 0


def block_mixing(x):
    """Every pixel becomes the mean of its 8 x 8 block."""
    return F.interpolate(F.avg_pool2d(x, 8), scale_factor=8, mode="nearest")


def test_blocks_show_as_a_block_from_one_phase_and_as_a_tent_from_all():
    x = images(1, 1, 40, 40)
    one = effective_receptive_field(block_mixing, x, queries=[(18, 21)], residual="include")
    block = np.zeros((40, 40))
    block[16:24, 16:24] = 1 / 64
    np.testing.assert_allclose(one.map, centred_on(block, (18, 21)), atol=1e-15)
    phases = [(row, column) for row in range(16, 24) for column in range(16, 24)]
    every = effective_receptive_field(block_mixing, x, queries=phases, residual="include")
    triangle = np.maximum(0, 8 - abs(np.arange(-20, 20))) / 64
    np.testing.assert_allclose(every.map, np.outer(triangle, triangle), atol=1e-15)


def test_nearest_subsampling_never_reads_odd_pixels():
    kernel = torch.rand(5, 5, dtype=torch.float64)

    def net(x):
        half = F.interpolate(x, scale_factor=0.5, mode="nearest")
        return F.interpolate(conv(kernel)(half), scale_factor=2, mode="bilinear")

    erf = effective_receptive_field(net, images(2, 1, 24, 24), residual="include")
    assert np.count_nonzero(erf.map[1::2]) == np.count_nonzero(erf.map[:, 1::2]) == 0
    assert np.count_nonzero(erf.map[::2, ::2]) >= 25


def test_a_pointwise_gate_is_a_spike_as_high_as_its_slope():
    x = images(1, 1)
    erf = effective_receptive_field(lambda x: torch.sin(3 * x) * x, x, residual="include")
    at = x[0, 0, 6, 7].item()
    assert erf.raw[6, 7] == pytest.approx(abs(np.sin(3 * at) + 3 * at * np.cos(3 * at)))
    assert np.count_nonzero(erf.raw) == 1


def causal_scan(x, decay=0.9):
    """y[t] = sum over s <= t of decay^(t - s) x[s], pixels in raster order."""
    y, h = [], 0
    for value in x.flatten(2).unbind(-1):
        h = decay * h + value
        y.append(h)
    return torch.stack(y, dim=-1).reshape(x.shape)


def test_a_causal_scan_reads_only_what_precedes_and_decays_by_rows():
    h, w, decay = 12, 15, 0.9
    erf = effective_receptive_field(causal_scan, images(), residual="include")
    assert erf.asymmetry().raster == 1
    assert erf.asymmetry().vertical == 1
    assert np.count_nonzero(erf.map.ravel()[h // 2 * w + w // 2 + 1 :]) == 0
    np.testing.assert_allclose(erf.map[6, 6] / erf.map[6, 7], decay)
    np.testing.assert_allclose(erf.map[5, 7] / erf.map[6, 7], decay**w)


def test_the_four_frames_of_a_scan_together_have_no_direction():
    frames = ((), (2, 3)), ((), (2, 3))  # as it lies and turned by 180 degrees; the same for the transpose

    def net(x):
        y = 0
        for lies, home in zip((x, x.mT), (lambda t: t, lambda t: t.mT), strict=True):
            for flip in frames[0]:
                y = y + home(causal_scan(lies.flip(flip)).flip(flip))
        return y

    erf = effective_receptive_field(net, images(1, 1, 13, 13), residual="include")
    assert erf.asymmetry() == pytest.approx((0, 0, 0.5), abs=1e-12)


# --- a second derivation ----------------------------------------------------------------------------------------------


def jacobian_by_differences(net, x, query, step=1e-5):
    """J[c, input channel, row, column] by central differences."""
    rows = []
    for k in range(x.numel()):
        nudge = torch.zeros(x.numel(), dtype=x.dtype)
        nudge[k] = step
        nudge = nudge.reshape(x.shape)
        rows.append((net(x + nudge) - net(x - nudge))[0, :, query[0], query[1]] / (2 * step))
    return torch.stack(rows, dim=-1).reshape(-1, *x.shape[1:]).detach().numpy()


def map_by_definition(jacobian, output, estimator):
    if estimator == "rss":
        return np.sqrt((jacobian**2).sum(axis=(0, 1)))
    if estimator == "abs":
        return abs(jacobian).sum(axis=(0, 1))
    if estimator == "signed":
        return jacobian.sum(axis=(0, 1))
    kept = jacobian[output > 0] if estimator == "replknet" else jacobian
    return np.maximum(kept.sum(axis=0), 0).sum(axis=0)


@pytest.mark.parametrize("residual", ["include", "exclude"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_agrees_with_finite_differences(estimator, residual):
    net, x, query = Restorer().eval(), images(2, 3, 6, 7), (3, 3)
    shift = 0.0 if residual == "include" else 1.0

    def response(x):
        return net(x) - shift * x

    with torch.no_grad():
        for last in (net.body[-1],):  # every direction of the output positive at the query for one image at least
            last.bias[:] = torch.tensor([1.0, -3.0, 2.0])
        raw = [
            map_by_definition(jacobian_by_differences(response, i, query), response(i)[0, :, 3, 3].numpy(), estimator)
            for i in x.split(1)
        ]
    erf = effective_receptive_field(net, x, estimator=estimator, residual=residual)
    for k in range(2):
        np.testing.assert_allclose(erf.per_image[k] * erf.mass[k], raw[k], atol=1e-8)
    np.testing.assert_allclose(erf.raw, np.mean(raw, axis=0), atol=1e-8)
    mean = np.mean([field / abs(field).sum() for field in raw], axis=0)
    np.testing.assert_allclose(erf.map, mean / abs(mean).sum(), atol=1e-8)


def test_batches_lists_and_several_queries_are_the_mean_of_single_runs():
    net, x, queries = Restorer(), images(5), [(6, 7), (5, 9), (8, 4)]
    together = effective_receptive_field(net, x, queries=queries, batch=2)
    listed = effective_receptive_field(net, list(x), queries=np.array(queries))
    np.testing.assert_allclose(listed.map, together.map, atol=1e-14)
    for k in range(5):
        total, seen = np.zeros((12, 15)), np.zeros((12, 15))
        for query in queries:
            single = effective_receptive_field(net, x[k], queries=query)
            total += single.raw
            seen += single.coverage
        np.testing.assert_allclose(together.per_image[k] * together.mass[k], total / np.maximum(seen, 1), atol=1e-14)
    np.testing.assert_allclose(together.coverage, seen / 3)


# --- queries ----------------------------------------------------------------------------------------------------------


def test_a_map_is_moved_to_its_query_and_what_leaves_the_frame_is_reported():
    kernel = torch.rand(3, 5, dtype=torch.float64)
    centre = effective_receptive_field(conv(kernel), images(1, 1), residual="include")
    moved = effective_receptive_field(conv(kernel), images(1, 1), queries=[(3, 9)], residual="include")
    np.testing.assert_allclose(moved.map, centre.map, atol=1e-15)
    assert moved.provenance["share_outside_frame"] == pytest.approx(0, abs=1e-12)
    assert moved.coverage[:3].sum() == 0  # above row 0 of the image there is nothing
    corner = effective_receptive_field(lambda x: x + x.mean(), images(1, 1), queries=(0, 0))
    assert corner.provenance["share_outside_frame"] == pytest.approx(1 - 6 * 8 / (12 * 15))
    assert corner.map[:6].sum() == corner.map[:, :7].sum() == 0


@pytest.mark.parametrize("query", [(0, 0), (11, 14), (3, 9)])
def test_in_the_whole_frame_nothing_is_moved_out(query):
    """The map of a query is a part of the frame, as it is before it is moved; a network that sees all shows it."""
    net, image = (lambda x: x * x.mean()), images(1, 1)
    field = effective_receptive_field(net, image, queries=query, frame="whole", residual="include")
    assert field.map.shape == (24, 30)
    assert field.provenance["share_outside_frame"] == pytest.approx(0, abs=1e-12)
    rows, columns = (slice(n - q, 2 * n - q) for n, q in zip((12, 15), query, strict=True))
    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, 0, query[0], query[1]], x)
    np.testing.assert_allclose(field.raw[rows, columns], gradient[0, 0].abs().numpy(), rtol=1e-12)
    assert field.coverage.sum() == field.coverage[rows, columns].sum() == 12 * 15
    cut = effective_receptive_field(net, image, queries=query, residual="include")
    np.testing.assert_allclose(cut.raw, field.raw[6:18, 8:23], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 16, 30])
@pytest.mark.parametrize("size", [(64, 40), (33, 21), (5, 3)])
def test_grid_queries_keep_a_quarter_of_each_side_and_repeat_with_their_seed(n, size):
    positions = query_positions("grid", *size, n_queries=n, seed=3)
    assert len(positions) == n
    for row, column in positions:
        assert size[0] / 4 <= row <= size[0] - 1 - size[0] / 4
        assert size[1] / 4 <= column <= size[1] - 1 - size[1] / 4
    assert positions == query_positions("grid", *size, n_queries=n, seed=3)
    if n == 16 and size == (64, 40):
        assert positions != query_positions("grid", *size, n_queries=n, seed=4)
        assert len({(row // 8, column // 5) for row, column in positions}) == 16  # one in each cell


@pytest.mark.parametrize("queries", [[(12, 0)], [(0, -1)], [(1, 2, 3)], [(0.5, 1)], [], "corner", [(1, 2), (3, 15)]])
def test_queries_outside_the_image_are_refused(queries):
    with pytest.raises(ValueError, match="quer"):
        effective_receptive_field(Restorer(), images(), queries=queries)


# --- the caller's network and images ----------------------------------------------------------------------------------


def condition(net):
    return (
        [module.training for module in net.modules()],
        [(p.requires_grad, p.grad) for p in net.parameters()],
        [value.clone() for value in net.state_dict().values()],
        net.checkpoint,
    )


def same_condition(a, b):
    values = all(torch.equal(*pair) for pair in zip(a[2], b[2], strict=True))
    return values and a[:2] == b[:2] and a[3] == b[3]


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_handed_back_as_it_was(fails):
    net, x = Restorer(), images()
    net.body[3].eval()  # a mixture of modes
    before, state, kept = condition(net), torch.get_rng_state(), x.clone()

    def stop(done, total):
        if fails and done == 3:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            effective_receptive_field(net, x, queries="grid", progress=stop, checkpoint=True)
    else:
        effective_receptive_field(net, x, queries="grid", progress=stop, checkpoint=True)
    assert same_condition(condition(net), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert x.grad is None
    assert torch.is_grad_enabled()


def test_the_comparison_of_conditions_can_fail():
    for change in (
        lambda net: net.body[1].eval(),
        lambda net: net.body[0].weight.requires_grad_(False),
        lambda net: net.body[4](images(1, 6)).sum().backward(),
        lambda net: net.body[1](images(1, 6)),  # batch statistics
        lambda net: setattr(net, "checkpoint", True),
    ):
        net = Restorer()
        before = condition(net)
        change(net)
        assert not same_condition(condition(net), before)


def test_a_network_runs_in_evaluation_mode_whatever_mode_it_is_in():
    net, x = Restorer(), images()
    training = effective_receptive_field(net.train(), x)
    np.testing.assert_array_equal(training.map, effective_receptive_field(net.eval(), x).map)


def test_gradients_are_switched_on_inside_and_off_again_outside():
    net, x = Restorer(), images()
    expected = effective_receptive_field(net, x).map
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            np.testing.assert_array_equal(effective_receptive_field(net, x.clone()).map, expected)
            assert not torch.is_grad_enabled()


def test_recomputing_blocks_changes_nothing_and_follows_the_size():
    net, x = Restorer(), images(1)
    plain = effective_receptive_field(net, x)
    assert net.recomputed == 0
    recomputed = effective_receptive_field(net, x, checkpoint=True, queries="centre")
    assert net.recomputed == 1
    np.testing.assert_allclose(recomputed.map, plain.map, atol=1e-15)
    net.recomputed = 0
    effective_receptive_field(net, torch.rand(1, 3, 161, 160, dtype=torch.float64), estimator="signed")
    assert net.recomputed == 1
    effective_receptive_field(net, torch.rand(1, 3, 160, 160, dtype=torch.float64), estimator="signed")
    assert net.recomputed == 1
    with pytest.raises(ValueError, match="no boolean attribute `checkpoint`"):
        effective_receptive_field(nn.Conv2d(3, 3, 1).double(), x, checkpoint=True)


def test_a_network_may_overwrite_its_input():
    x = images(1)
    kept = x.clone()
    erf = effective_receptive_field(lambda x: x.mul_(2), x, residual="include")
    assert erf.map[6, 7] == 1
    assert torch.equal(x, kept)


def test_the_graph_is_let_go_with_the_last_query():
    outputs = []

    def net(x):
        outputs.append(torch.sin(x))
        return outputs[-1]

    effective_receptive_field(net, images(1), queries=[(4, 4), (5, 5)])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(outputs[-1].sum())


def test_progress_counts_every_product():
    calls = []
    effective_receptive_field(
        Restorer(), images(3), queries=[(4, 4), (5, 5)], batch=2, progress=lambda *call: calls.append(call)
    )
    assert calls == [(k, 2 * 2 * 3) for k in range(1, 13)]
    calls.clear()
    effective_receptive_field(Restorer(), images(3), estimator="signed", progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


# --- what cannot be answered ------------------------------------------------------------------------------------------


def several(x):
    return [F.avg_pool2d(x, 2), torch.sin(x)]


def beside_infinities(x):
    """`x` with a number of every kind that is not finite in its first row."""
    strange = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=x.dtype).expand(*x.shape[:2], 1, 3)
    return torch.cat([torch.cat([strange, x[..., :1, 3:]], dim=-1), x[..., 1:, :]], dim=-2)


def deaf(x):
    """An image that follows from a parameter and not from the input."""
    return torch.ones((), dtype=x.dtype, requires_grad=True) * torch.ones_like(x)


def test_one_of_several_outputs_is_selected():
    x = images()
    by_index = effective_receptive_field(several, x, select=-1, residual="include")
    by_function = effective_receptive_field(several, x, select=lambda out: out[1], residual="include")
    np.testing.assert_array_equal(by_index.map, by_function.map)
    named = effective_receptive_field(lambda x: {"image": torch.sin(x)}, x, select="image", residual="include")
    np.testing.assert_array_equal(by_index.map, named.map)


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (several, {}, r"a list of 2 \(\(1, 3, 6, 7\), \(1, 3, 12, 15\)\).*select=-1"),
        (several, {"select": 2}, "select=2 picks nothing"),
        (several, {"select": 0}, r"made \(1, 3, 6, 7\) of an input \(1, 3, 12, 15\)"),
        (torch.sin, {"select": 0}, "leave `select` out"),
        (lambda x: x.mean(dim=(2, 3)), {}, "b c h w"),
        (lambda x: x.detach(), {}, "no gradient"),
        (lambda x: x.sqrt() / 0 * 0, {}, "image 0 .* not finite"),
        (lambda x: F.dropout(x), {}, "random"),
        (lambda x: beside_infinities(1e-3 * torch.rand_like(x) + x / 2), {}, "random"),
        (deaf, {"residual": "include"}, "zero everywhere"),
        (torch.sin, {"estimator": "grad-cam"}, "choose from rss, abs, signed, replknet, mambair"),
        (torch.sin, {"residual": "yes"}, "choose from exclude, include"),
        (torch.sin, {"checkpoint": "on"}, "checkpoint is True, False"),
        (torch.sin, {"batch": 0}, "batch"),
        (nn.Conv2d(3, 3, 1), {}, "images are torch.float64 on cpu, the network's parameters torch.float32"),
    ],
)
def test_what_has_no_receptive_field_is_refused(net, arguments, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(net, images(), **arguments)


def test_the_image_at_fault_is_named():
    def net(x):
        return x / 0 if x.mean() > 1 else torch.sin(x)

    x = images(4)
    x[2] += 1
    with pytest.raises(ValueError, match="image 2 "):
        effective_receptive_field(net, x)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "no images"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "image / 255"),
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 9)], "image 1 is 3 x 8 x 9 .*crop"),
        ([torch.rand(3, 8, 8), torch.rand(3, 8, 8).double()], "image 1 .*float64"),
        ([torch.rand(2, 3, 8, 8)], r"image 0 is \(2, 3, 8, 8\)"),
        (torch.rand(8, 8), "image 0"),
        (torch.full((1, 3, 8, 8), torch.nan), "not finite"),
    ],
)
def test_unfit_images_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(torch.sin, wrong)


# --- where it comes from, and the file --------------------------------------------------------------------------------


@dataclass
class Record:
    model: str
    trained: bool


def test_the_provenance_says_how_the_field_was_made():
    net, x = Restorer(), images()
    made = effective_receptive_field(net, x, queries="grid", n_queries=4, seed=7, estimator="abs").provenance
    assert made["estimator"] == "abs"
    assert made["queries"] == [list(q) for q in query_positions("grid", 12, 15, n_queries=4, seed=7)]
    assert (made["size"], made["seed"], made["dtype"]) == ([12, 15], 7, "float64")
    assert (made["network"], made["trained"], made["command"]) == ("Restorer", None, None)
    assert len(set(made["images"])) == 2
    assert json.loads(json.dumps(made)) == made
    with torch.no_grad():
        net.body[0].weight[0, 0, 0, 0] += 1e-9
    again = effective_receptive_field(net, x).provenance
    assert again["weights"] != made["weights"]
    assert again["images"] == made["images"]
    assert effective_receptive_field(torch.sin, x).provenance["weights"] == "as given"


@pytest.mark.parametrize("queries", ["centre", "grid"])
def test_unless_said_a_field_is_of_the_centre_without_the_residual_one_image_at_a_time(queries):
    net, x, calls = Restorer(), images(), []
    spelled = {"estimator": "rss", "residual": "exclude", "n_queries": 16, "seed": 0, "frame": "image", "batch": 1}
    short, long = (
        effective_receptive_field(net, x, **asked, progress=lambda *call: calls.append(call)).provenance
        for asked in ({"queries": "grid"} if queries == "grid" else {}, {"queries": queries, **spelled})
    )
    assert {**short, "seconds": 0} == {**long, "seconds": 0}
    assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]


def test_untrained_weights_are_known_from_the_network_or_the_caller():
    net, x = Restorer(), images()
    assert not effective_receptive_field(net, x).untrained
    assert effective_receptive_field(net, x, trained=False).untrained
    net.provenance = None
    assert effective_receptive_field(net, x).untrained
    net.provenance = Record("small", trained=True)
    erf = effective_receptive_field(net, x)
    assert (erf.provenance["trained"], erf.provenance["network"]) == (True, "small")
    net.provenance = Record("small", trained=False)
    assert effective_receptive_field(net, x).untrained


def test_the_package_s_own_provenance_is_understood_and_not_believed_of_other_weights():
    from evssm.provenance import Provenance, sha256_of

    net, x = Restorer(), images()
    digest = sha256_of(net.state_dict())
    net.provenance = Provenance("small", "official release", "0" * 64, tensors_sha256=digest)
    assert effective_receptive_field(net, x).provenance["trained"] is True
    with torch.no_grad():
        net.body[0].weight.normal_()
    assert effective_receptive_field(net, x).provenance["trained"] is None


def test_a_saved_field_comes_back_bit_for_bit(tmp_path):
    erf = effective_receptive_field(Restorer(), images(), queries="grid", estimator="signed")
    back = ERF.load(erf.save(tmp_path / "field.npz"))
    for name in ("per_image", "mass", "coverage", "map", "raw"):
        np.testing.assert_array_equal(getattr(back, name), getattr(erf, name))
    assert back.provenance == erf.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["field.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    erf = effective_receptive_field(torch.sin, images())
    path = erf.save(tmp_path / "field.npz")
    before = path.read_bytes()
    erf.provenance["seconds"] = object()
    with pytest.raises(TypeError):
        erf.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_other_files_are_refused_in_one_line(tmp_path):
    erf = effective_receptive_field(torch.sin, images())
    good = erf.save(tmp_path / "good.npz").read_bytes()
    arrays = {name: getattr(erf, name) for name in ("per_image", "mass", "coverage")}
    path = tmp_path / "bad.npz"
    np.savez(tmp_path / "pickled.npz", **arrays, provenance=np.array({"a": 1}, dtype=object))
    np.savez(tmp_path / "broken text.npz", **arrays, provenance=np.array("{"))
    np.savez(tmp_path / "list.npz", **arrays, provenance=np.array("[1]"))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "shapes.npz", **arrays | {"mass": np.ones(7)}, provenance=np.array("{}"))
    np.savez(tmp_path / "nan.npz", **arrays | {"mass": np.full(2, np.nan)}, provenance=np.array("{}"))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "empty.npz").touch()
    for cut in (10, len(good) // 2, len(good) - 5):
        (tmp_path / f"cut {cut}.npz").write_bytes(good[:cut])
    (tmp_path / "flipped.npz").write_bytes(good[:200] + bytes(b ^ 255 for b in good[200:260]) + good[260:])
    wrong = [path for path in tmp_path.iterdir() if path.name != "good.npz"]
    assert len(wrong) == 13
    for path in wrong:
        with pytest.raises(ValueError, match=path.stem) as refused:
            ERF.load(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(FileNotFoundError, match=r"good\.npz"):
        ERF.load(tmp_path / "goof.npz")


def test_a_field_cannot_be_changed():
    erf = effective_receptive_field(torch.sin, images())
    with pytest.raises(ValueError, match="read-only"):
        erf.per_image[0, 0, 0] = 1
    with pytest.raises(AttributeError):
        erf.mass = np.ones(2)


@pytest.mark.parametrize(("n", "masses", "coverage"), [(0, 0, (4, 5)), (2, 3, (4, 5)), (2, 2, (4, 4))])
def test_maps_masses_and_coverage_belong_together(n, masses, coverage, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # annotations are executed in tests only
    with pytest.raises(ValueError, match="do not belong together"):
        ERF(np.ones((n, 4, 5)), np.ones(masses), np.ones(coverage), {})


def test_unless_said_every_pixel_off_the_query_counts():
    maps = np.zeros((1, 5, 7))
    maps[0, 1, 3], maps[0, 3, 3], maps[0, 2, 2] = 0.5, 0.25, 0.25  # above, below and left of the query, next to it
    erf = ERF(maps, np.full(1, 3.0), np.ones((5, 7)), {})
    assert erf.asymmetry() == pytest.approx((1 / 3, 1, 0.75))
    assert erf.half_planes() == (0.5, 0.25, 0.25, 0)
    assert erf.half_planes(1) == (0, 0, 0, 0)
    assert np.isnan(erf.asymmetry(1)).all()


def test_unless_said_an_area_ratio_is_of_logarithms():
    raw = np.ones((1, 9, 9))
    raw[0, 4, 4] = 1e4
    erf = ERF(raw / raw.sum(), np.full(1, raw.sum()), np.ones((9, 9)), {})
    # Of logarithms 4 lies at the query and 0.3 at each of the others: 3 x 3 hold 23 %, 5 x 5 hold 40 %.
    assert erf.area_ratio(0.3) == 25 / 81
    assert erf.area_ratio(0.3, compress=False) == 9 / 81


def test_statistics_of_a_field_are_those_of_its_map():
    erf = effective_receptive_field(Restorer(), images(4, 3, 20, 25), estimator="abs")
    subset = erf.subset([2, 0])
    np.testing.assert_allclose(subset.map, (erf.per_image[2] + erf.per_image[0]) / 2)
    profile = erf.profile("chebyshev")
    assert profile.share[2] == pytest.approx(1)  # two 3 x 3 convolutions
    assert profile.share[1] == pytest.approx(erf.map[9:12, 11:14].sum())
    assert erf.share_beyond(1, "chebyshev") == pytest.approx(1 - profile.share[1])
    assert erf.area_ratio(0.999, compress=False) == 25 / 500
    assert erf.half_planes().up == pytest.approx(erf.map[:10].sum())
    assert erf.effective_pixels() <= erf.perplexity() <= 25
    assert erf.luo_size() <= 5
    low, high = erf.interval("share_beyond", distance=1, n=100)
    assert low <= high
