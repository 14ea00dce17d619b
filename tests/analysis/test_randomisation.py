"""Maps before and after redrawing weights: what ignores them is flagged, and measures of likeness obey their laws."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analysis.cascade import cascade, last_first
from analysis.randomisation import weight_randomisation
from analysis.similarity import MEASURES, decades

SHAPE, QUERY = (14, 17), (7, 8)
ALL = np.ones(SHAPE, dtype=bool)


class Weighted(nn.Module):
    """A network whose map is its own table of weights."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.rand(SHAPE, dtype=torch.float64) ** 3)

    def forward(self, x):
        return x * self.table


def its_weights(net):
    return net.table.detach().numpy().copy()


def distance_only(net):
    """What an input that falls with distance looks like, whatever the network."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.exp(-np.hypot(y - QUERY[0], x - QUERY[1]))


IMAGE = torch.rand(3, *SHAPE, dtype=torch.float64)


def test_a_map_of_the_weights_depends_on_them_and_one_that_ignores_them_is_flagged():
    net = Weighted()
    honest = weight_randomisation(net, IMAGE, QUERY, its_weights)
    assert honest.word == "depends on the weights"
    assert str(honest).startswith("depends on the weights: with all of them redrawn")
    blind = weight_randomisation(net, IMAGE, QUERY, distance_only)
    assert blind.word == "ignores the weights"
    for values in blind.final.values():
        np.testing.assert_allclose(values, 1)


def test_a_map_with_a_little_of_the_weights_is_neither():
    def mostly_distance(net):
        return distance_only(net) * (1 + 0.2 * its_weights(net))

    assert weight_randomisation(Weighted(), IMAGE, QUERY, mostly_distance, draws=5).word != "ignores the weights"


def test_a_map_that_is_new_each_time_is_refused_rather_than_said_to_depend():
    with pytest.raises(ValueError, match="two maps of the same network differ"):
        weight_randomisation(Weighted(), IMAGE, QUERY, lambda net: np.random.default_rng().random(SHAPE))


def test_only_the_support_is_compared():
    support = np.zeros(SHAPE, dtype=bool)
    support[:7] = True

    def half(net):
        return np.where(support, distance_only(net), its_weights(net))

    net = Weighted()
    # SSIM looks through windows that cross the border of the support; everything else stays inside.
    inside = weight_randomisation(net, IMAGE, QUERY, half, support=support)
    for name in ("rank correlation", "rank correlation beyond distance", "overlap of mass"):
        np.testing.assert_allclose(inside.final[name], 1, atol=1e-2)
    assert weight_randomisation(net, IMAGE, QUERY, half).word != "ignores the weights"


def test_several_maps_are_compared_one_by_one():
    found = weight_randomisation(Weighted(), IMAGE, QUERY, lambda net: np.stack([its_weights(net)] * 3), draws=2)
    assert all(values.shape == (6,) for values in found.final.values())
    facts = found.as_dict()
    assert facts["share_of_modules_redrawn"] == [1.0]
    assert set(facts["likeness"]) == set(MEASURES)


def test_weights_are_redrawn_from_the_output_to_the_input_and_only_in_the_copy():
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    found = []
    for share, copy in cascade(net, lambda net: net(torch.rand(1, 3, 8, 8)), 4):
        changed = {key[0] for key, value in copy.state_dict().items() if not torch.equal(value, before[key])}
        found.append((share, changed))
        for key, value in copy.state_dict().items():  # the same values, at other places
            assert torch.equal(value.flatten().sort().values, before[key].flatten().sort().values)
    assert found == [(0.25, {"3"}), (0.5, {"3", "2"}), (0.75, {"3", "2", "1"}), (1.0, {"3", "2", "1", "0"})]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in net.modules())


class Fused(nn.Module):
    """Uses the weights of the convolution that it holds, without calling it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return F.conv2d(x, self.inner.weight, self.inner.bias)


def test_modules_whose_weights_are_used_without_a_call_go_with_the_module_around_them():
    # Registered in another order than that in which they answer.
    net = nn.ModuleDict({"last": nn.Conv2d(3, 3, 1), "first": nn.Conv2d(3, 3, 1), "middle": Fused()})
    names = last_first(net, lambda net: net["last"](net["middle"](net["first"](torch.rand(1, 3, 8, 8)))))
    assert names == ["last", "middle.inner", "first"]


def test_order_hooks_are_gone_after_an_exception():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(4, 3, 1))
    with pytest.raises(RuntimeError):
        last_first(net, lambda net: net(torch.rand(1, 3, 8, 8)))
    assert not any(module._forward_hooks for module in net.modules())
    assert all(module.training for module in net.modules())


def test_what_has_no_weights_to_redraw_is_refused():
    with pytest.raises(ValueError, match=r"only an nn\.Module with parameters"):
        weight_randomisation(nn.Identity(), IMAGE, QUERY, distance_only)
    constant = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.ones_(constant.weight)
    with pytest.raises(ValueError, match="none can be redrawn"):
        weight_randomisation(constant.double(), IMAGE, QUERY, distance_only)
    with pytest.raises(ValueError, match="two draws"):
        weight_randomisation(Weighted(), IMAGE, QUERY, its_weights, draws=1)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_likeness_is_one_for_equal_maps_in_any_unit_symmetric_and_less_for_others(measure):
    a, b = np.random.default_rng().random((2, *SHAPE))
    assert measure(a, -3 * a, ALL, QUERY) == pytest.approx(1)
    assert measure(a, b, ALL, QUERY) == pytest.approx(measure(b, a, ALL, QUERY))
    assert measure(a, b, ALL, QUERY) < 0.9


def test_rank_correlation_is_that_of_ranks_and_is_minus_one_for_the_reverse_order():
    rank = MEASURES["rank correlation"]
    a = np.random.default_rng().random(SHAPE) + 1
    assert rank(a, a**5, ALL, QUERY) == pytest.approx(1, abs=1e-3)  # up to the rounding of decades
    assert rank(a, 1 / a, ALL, QUERY) == pytest.approx(-1, abs=1e-3)
    four = np.array([[1.0, 2, 2, 4]])
    other = np.array([[2.0, 1, 4, 4]])
    # Ranks 0, 1.5, 1.5, 3 and 1, 0, 2.5, 2.5: covariance 2.25 / 4 and variances 4.5 / 4, by hand.
    assert rank(four, other, np.ones((1, 4), dtype=bool), (0, 0)) == pytest.approx(1 / 2)


def test_what_distance_explains_does_not_count_beyond_distance():
    near, wide = distance_only(None), np.sqrt(distance_only(None))
    plain, beyond = MEASURES["rank correlation"], MEASURES["rank correlation beyond distance"]
    assert plain(near, wide, ALL, QUERY) == pytest.approx(1)
    assert beyond(near, wide, ALL, QUERY) == 1
    one, two = (near * np.exp(0.2 * np.random.default_rng().normal(size=SHAPE)) for _ in range(2))
    assert plain(one, two, ALL, QUERY) > 0.8
    assert abs(beyond(one, two, ALL, QUERY)) < 0.3
    assert beyond(one, near, ALL, QUERY) == 0


def test_overlap_is_one_less_the_mass_that_would_have_to_move():
    a, b = np.zeros(SHAPE), np.zeros(SHAPE)
    a[0, :4] = 1
    b[0, 3:5] = 1
    assert MEASURES["overlap of mass"](a, b, ALL, QUERY) == pytest.approx(0.25)


def test_structural_similarity_needs_a_window_that_counts():
    a = np.random.default_rng().random(SHAPE)
    border = np.zeros(SHAPE, dtype=bool)
    border[0] = True
    assert np.isnan(MEASURES["SSIM"](a, a, border, QUERY))


def test_gradients_that_all_point_one_way_have_known_correlations():
    size = (24, 32)
    y, x = np.mgrid[: size[0], : size[1]]
    down, across = (10.0 ** (axis / 40 + np.random.default_rng().random()) for axis in (y, x))
    every = np.ones(size, dtype=bool)
    hog = MEASURES["HOG"]
    assert hog(down, 2 * down, every, (0, 0)) == pytest.approx(1)
    # One of nine directions has all the weight in either: covariance -1/81, variances 8/81.
    assert hog(down, across, every, (0, 0)) == pytest.approx(-1 / 8)
    left = every.copy()
    left[:, 16:] = False
    mixed = np.where(left, down, across)
    assert hog(down, mixed, left & (x < 8), (0, 0)) == pytest.approx(1)  # what does not count is not compared
    assert np.isnan(hog(down, down, x < 7, (0, 0)))


def test_rounding_makes_no_order():
    a = distance_only(None)
    noisy = a * (1 + 1e-9 * np.random.default_rng().normal(size=SHAPE))
    assert np.abs(decades(a) - decades(noisy)).max() <= 1e-3
    with pytest.raises(ValueError, match=r"which is 0\.0 here"):
        decades(np.zeros(SHAPE))
