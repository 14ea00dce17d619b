"""Maps judged by deletion and insertion: closed forms for linear networks, and maps that must fail."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analysis.deletion import BASELINES, area, compared, counts_of, curve, replacement
from analysis.order_check import Faithfulness, faithfulness
from analysis.orders import at_random, box_of, by_map, nearest_first

H, W = 12, 15


class Linear(nn.Module):
    """Every output pixel is the same weighted sum of the input; the input is added to it where asked."""

    def __init__(self, weights, residual=False):
        super().__init__()
        self.weights, self.residual = nn.Parameter(weights), residual

    def forward(self, x):
        y = (self.weights * x).sum(dim=(1, 2, 3), keepdim=True).expand_as(x)
        return x + y if self.residual else y


def positive(*size):
    return torch.rand(*size, dtype=torch.float64) + 0.1


def far_sighted():
    """Weights that grow away from the query, so that distance knows nothing, and the map they make."""
    y, x = np.mgrid[:H, :W]
    weights = torch.from_numpy(np.hypot(y - 5, x - 6) + 0.1 * np.random.default_rng().random((H, W)))
    return Linear(weights, residual=True), weights.numpy()


def test_the_deletion_curve_of_a_linear_network_is_the_cumulative_sum_of_what_was_deleted():
    weights, x = positive(H, W), positive(1, 3, H, W)
    net, other = Linear(weights), torch.zeros_like(x)
    parts = (weights * x).sum(dim=1)[0].detach().numpy().ravel()
    order = np.argsort(-parts)
    counts = counts_of(H * W, 9)
    found = curve(lambda x: net(x)[..., 2, 3].detach(), x, other, net(x)[..., 2, 3].detach(), order, counts, batch=4)
    np.testing.assert_allclose(found, np.cumsum(parts[order])[counts - 1], rtol=1e-12)


def test_of_a_linear_network_with_equal_steps_its_own_weights_are_the_best_order():
    weights = positive(H, W)
    net, x = Linear(weights), torch.ones(1, 3, H, W, dtype=torch.float64)
    judged = faithfulness(net, x, (2, 3), weights.numpy(), baseline=torch.zeros(3, H, W), residual="include")
    # Each pixel moves the answer by its weight: deletion is the cumulative sum of the sorted weights, and so is
    # insertion, of the whole.
    shares = np.cumsum(np.sort(weights.numpy().ravel())[::-1]) / weights.sum().item()
    np.testing.assert_allclose(judged.deletion[0, 0], shares[judged.counts - 1], rtol=1e-12)
    np.testing.assert_allclose(judged.insertion[0, 0], shares[judged.counts - 1], rtol=1e-12)
    best = judged.areas()[0, 0]
    for _ in range(5):
        other = faithfulness(
            net, x, (2, 3), np.random.default_rng().random((H, W)), baseline=torch.zeros(3, H, W), residual="include"
        )
        assert other.areas()[0, 0] < best
        assert other.gain("nearest") < judged.gain("nearest")


def test_a_true_map_is_shown_and_the_same_map_shuffled_or_turned_around_is_not():
    net, field = far_sighted()
    images, queries = positive(6, 3, H, W), [(5, 6)] * 6
    generator = np.random.default_rng()
    options = {"baseline": "noise", "steps": 8}
    true = faithfulness(net, images, queries, field, **options)
    assert true.verdict("nearest").word == "shown"
    assert true.verdict("random").word == "shown"
    assert true.word == "shown, beyond distance"
    backwards = faithfulness(net, images, queries, 1 / field, **options)
    # Backwards the map is nearest-first order but for its own noise: nearly a tie, and an interval over six images
    # is on one side of zero by chance now and then. So the size is asked about, not the word.
    assert abs(backwards.gain("nearest")) < 0.25 * true.gain("nearest")
    assert backwards.verdict("random").word == "contradicted"
    # A shuffled map is a draw of chance itself; six of them reached half the true gain now and then.
    shuffled = [generator.permuted(field.ravel()).reshape(H, W) for _ in range(24)]
    lost = faithfulness(net, positive(24, 3, H, W), (5, 6), shuffled, random_orders=6, **options)
    assert lost.gain("random") < 0.75 * true.gain("random")


def test_a_shuffled_map_loses_to_nearest_first_where_nearness_matters():
    weights = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    weights[0, 0] = torch.exp(-torch.hypot(*torch.meshgrid(*2 * [torch.arange(-4.0, 5)], indexing="ij")))
    net = lambda x: F.conv2d(x, weights, padding=4)  # noqa: E731
    field = np.zeros((H, W))
    field[1:10, 2:11] = weights[0, 0].numpy()
    images = positive(20, 1, H, W)  # gains are 0.3 +- 0.2 an image: with five, chance hid one in forty times
    generator = np.random.default_rng()
    shuffled = [generator.permuted(field.ravel()).reshape(H, W) for _ in range(20)]
    options = {"residual": "include", "baseline": "mean", "steps": 10}
    lost = faithfulness(net, images, (5, 6), shuffled, **options)
    assert lost.verdict("nearest").word == "contradicted"
    assert lost.word == "contradicted"
    assert str(lost).startswith("order of importance contradicted: replacing pixels by it moves the output -")
    own = faithfulness(net, images, (5, 6), field, **options)
    assert own.verdict("random").word == "shown"
    assert own.gain("nearest") > lost.gain("nearest")


def test_outside_the_support_nothing_goes():
    net, field = far_sighted()
    support = np.zeros((H, W), dtype=bool)
    support[:6] = True
    seen = []

    def watching(x):
        seen.append(x.clone())
        return net(x)

    x = positive(1, 3, H, W)
    judged = faithfulness(watching, x, (5, 6), field, support=support, baseline="mean", steps=5, batch=3)
    assert judged.counts[-1] == support.sum()
    for each in seen:
        assert torch.equal(each[..., 6:, :], x[..., 6:, :].expand_as(each[..., 6:, :]))
    assert any((one[:, :6] != x[0, :, :6]).all() for each in seen for one in each)


def test_residual_and_select_ask_about_the_part_that_they_say():
    net, field = far_sighted()
    x = positive(1, 3, H, W)
    alone, both = (faithfulness(net, x, (5, 6), field, residual=r, steps=6) for r in ("exclude", "include"))
    assert not np.allclose(alone.deletion, both.deletion)
    chosen = faithfulness(lambda x: {"small": x[..., ::2], "full": net(x)}, x, (5, 6), field, select="full", steps=6)
    np.testing.assert_array_equal(chosen.deletion, alone.deletion)


def test_a_region_is_all_its_pixels_and_nearest_means_nearest_to_it():
    box = box_of((3, 4, 6, 9), H, W)
    order = nearest_first(box, np.ones((H, W), dtype=bool), np.random.default_rng(0))
    rows, columns = np.divmod(order, W)
    assert set(zip(rows[:15], columns[:15], strict=True)) == {(r, c) for r in range(3, 6) for c in range(4, 9)}
    gaps = np.hypot(np.maximum(0, np.maximum(3 - rows, rows - 5)), np.maximum(0, np.maximum(4 - columns, columns - 8)))
    assert (np.diff(gaps) >= 0).all()
    shift = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.constant_(shift.weight, 2)
    field = np.zeros((H, W))
    field[3:6, 4:9] = 1
    judged = faithfulness(shift, positive(1, 1, H, W), (3, 4, 6, 9), field, baseline="mean", steps=40)
    whole = judged.deletion[0, 0, judged.counts >= 15]
    np.testing.assert_allclose(whole, whole[0], rtol=1e-12)  # a pointwise network: nothing else counts


def test_equal_values_are_put_in_random_order():
    field = np.zeros((H, W))
    field[0, 0] = -5
    first, second = (by_map(field, np.ones((H, W), dtype=bool), np.random.default_rng(seed)) for seed in (1, 2))
    assert first[0] == second[0] == 0
    assert (first != second).any()
    assert sorted(first) == list(range(H * W))


def test_the_area_counts_every_doubling_alike():
    counts = np.array([1, 2, 4, 8])
    assert area(np.array([0.0, 1, 1, 1]), counts) == pytest.approx((0.5 + 1 + 1) / 3)
    assert area(np.ones(4), counts) == pytest.approx(1)


def test_baselines_are_what_they_say():
    x = positive(1, 2, 40, 41)
    torch.testing.assert_close(replacement(x, "mean")[0, 1, 7, 9], x[0, 1].mean())
    torch.testing.assert_close(replacement(x, "local mean")[0, 1, 20, 20], x[0, 1, 12:29, 12:29].mean())
    torch.testing.assert_close(replacement(x, "local mean")[0, 1, 0, 0], x[0, 1, :9, :9].mean())
    noise = (replacement(x, "noise", 3) - x) / x.std(correction=0)
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(replacement(x, "noise", 3), replacement(x, "noise", 3))
    assert set(BASELINES) == {"mean", "local mean", "noise"}
    with pytest.raises(ValueError, match="choose from local mean, mean, noise"):
        replacement(x, "black")
    with pytest.raises(ValueError, match="has its size"):
        replacement(x, torch.zeros(2, 4, 4))


def judged(gains, images):
    """Curves whose areas differ from those of nearest-first order by `gains`."""
    n = len(gains)
    curves = np.full((n, 3, 3), 0.5)
    curves[:, 0] += np.asarray(gains)[:, None]
    return Faithfulness(np.array([1, 2, 4]), curves, curves, np.asarray(images), "mean")


def test_the_interval_draws_images_and_their_queries_with_them():
    # Queries of an image agree, images do not: as if there were only as many as images.
    nested = judged(np.repeat([0.3, -0.3, 0.1, -0.1], 25), np.repeat(range(4), 25))
    single = judged([0.3, -0.3, 0.1, -0.1], range(4))
    np.testing.assert_allclose(nested.interval(), single.interval(), atol=1e-12)
    assert nested.verdict().word == nested.word == "not shown"
    of_one_image = judged(np.repeat([0.3, 0.2], 5), [0] * 10)
    assert of_one_image.verdict().word == "shown"


def test_no_better_than_nearest_first_but_better_than_chance_is_said_so():
    curves = np.full((4, 3, 3), 0.5)
    curves[:, 2] = 0.2
    curves[:2, 0] += 0.01
    curves[2:, 0] -= 0.01
    found = Faithfulness(np.array([1, 2, 4]), curves, curves, np.arange(4), "mean")
    assert found.word == "shown, as far as distance goes"
    assert found.as_dict()["interval_over_nearest"] == pytest.approx([-0.01, 0.01])
    assert found.as_dict()["deletion"]["random"] == pytest.approx([0.2, 0.2, 0.2])


def test_a_single_query_has_no_interval_and_no_verdict():
    single = judged([0.3], [0])
    assert single.verdict() is None
    assert single.word == "not judged"
    assert "+0.300 over nearest order (one query: no interval)" in str(single)
    with pytest.raises(ValueError, match="two images or more"):
        single.interval()


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_handed_back_as_it_was(fails):
    class Fragile(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if fails and self.calls == 4:
                raise RuntimeError("broken")
            return super().forward(x)

    net = Fragile(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5)).double()
    net[0].bias.requires_grad_(False)
    x = positive(1, 3, H, W).requires_grad_()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        if fails:
            with pytest.raises(RuntimeError, match="broken"):
                faithfulness(net, x, (5, 6), np.random.default_rng().random((H, W)), steps=4)
        else:
            faithfulness(net, x, (5, 6), np.random.default_rng().random((H, W)), steps=4)
        assert not torch.is_grad_enabled()
    assert all(module.training for module in net.modules())
    assert [p.requires_grad for p in net.parameters()] == [True, False]
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is None
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_progress_counts_every_run():
    calls = []
    net, field = far_sighted()
    faithfulness(
        net, positive(2, 3, H, W), (5, 6), field, steps=5, random_orders=3, progress=lambda *c: calls.append(c)
    )
    assert calls == [(k, 100) for k in range(1, 101)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"map": np.ones((H, W))}, "one value at every pixel"),
        ({"map": np.full((H, W), np.nan)}, "finite values only"),
        ({"map": np.ones((H, W + 1))}, "does not lie over an image of 12 x 15 px"),
        ({"map": np.zeros(5)}, "array with 2 axes"),
        ({"query": (12, 0)}, "no place in an image of 12 x 15 px"),
        ({"query": (3, 3, 3, 5)}, "no place"),
        ({"query": [(1, 1), (2, 2), (3, 3)]}, "2 images, 3 queries and 1 maps do not go together"),
        ({"residual": "both"}, "choose from exclude, include"),
        ({"steps": 1}, "two steps"),
        ({"random_orders": 0}, "one random order or more"),
        ({"net": lambda x: torch.zeros_like(x), "residual": "include"}, "changes the answer by 0.0e\\+00"),
        ({"net": lambda x: [x, x]}, "say which is the image"),
        ({"net": lambda x: torch.rand_like(x)}, "two runs on the same image differ"),
        ({"support": np.ones((3, 3), dtype=bool)}, "the support of 3 x 3"),
    ],
)
def test_what_cannot_be_judged_is_refused(change, says):
    net, field = far_sighted()
    arguments = {"net": net, "image": positive(2, 3, H, W), "query": (5, 6), "map": field, "steps": 4, **change}
    with pytest.raises(ValueError, match=says):
        faithfulness(**arguments)


def test_orders_without_a_map_are_the_scale():
    x, weights = positive(1, 1, H, W), positive(H, W)
    net = Linear(weights)
    within = np.ones((H, W), dtype=bool)
    found = compared(
        lambda x: net(x)[..., 0, 0].detach(),
        x,
        torch.zeros_like(x),
        weights.detach().numpy(),
        (0, 0, 1, 1),
        counts_of(H * W, 6),
        within=within,
        random_orders=1,
        batch=6,
        seed=0,
        done=lambda runs: None,
    )
    assert found.deletion[1:].max() == pytest.approx(1)
    np.testing.assert_allclose(found.deletion[:, -1], 1, rtol=1e-12)
    np.testing.assert_allclose(found.insertion[:, -1], 1, rtol=1e-12)
    assert len(at_random(within, np.random.default_rng())) == H * W
