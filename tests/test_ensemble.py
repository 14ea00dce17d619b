"""Self-ensembles: every turn is undone exactly, and the mean is that of the positions that its name says."""

import pytest
import torch
from torch.nn import functional as F

from evssm.ensemble import ENSEMBLES, self_ensemble
from evssm.geometry import GROUP, IDENTITY

SHAPES = [(2, 3, 5, 7), (1, 3, 8, 8), (1, 1, 1, 6)]


@pytest.mark.parametrize("g", GROUP, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_position_is_turned_back_exactly(g, shape):
    x = torch.rand(shape)
    assert torch.equal(self_ensemble(lambda y: y, x, [g]), x)


@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_that_treats_all_pixels_alike_comes_out_as_it_is(name, shape):
    x = torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(self_ensemble(lambda y: y, x, name), x, rtol=1e-15, atol=0)
    torch.testing.assert_close(self_ensemble(torch.sin, x, name), x.sin(), rtol=1e-15, atol=0)


def shift(x):
    """A network that looks one pixel to the left."""
    return F.pad(x, (1, 0))[..., :-1]


def test_quarter_turns_of_a_look_to_the_left_look_in_all_four_directions():
    x = torch.zeros(1, 1, 5, 9, dtype=torch.float64)
    x[..., 2, 4] = 4
    expected = torch.zeros_like(x)
    expected[..., 1, 4] = expected[..., 3, 4] = expected[..., 2, 3] = expected[..., 2, 5] = 1
    assert torch.equal(self_ensemble(shift, x, "x4"), expected)
    assert torch.equal(self_ensemble(shift, x, "x4-frames"), expected)  # a left look is its own mirror image
    assert torch.equal(self_ensemble(shift, x, "x8"), expected)


def knight(x):
    """A network that looks one row up and two pixels to the left."""
    return F.pad(x, (2, 0, 1, 0))[..., :-1, :-2]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("none", {(5, 6)}),
        ("x4", {(5, 6), (3, 2), (6, 3), (2, 5)}),  # quarter turns keep the hand of the knight's move
        ("x4-frames", {(5, 6), (3, 2), (6, 5), (2, 3)}),  # the two diagonals mirror it
        ("x8", {(4 + a, 4 + b) for a in (-2, -1, 1, 2) for b in (-2, -1, 1, 2) if abs(a) != abs(b)}),
    ],
)
def test_a_name_means_these_positions(name, places):
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 4] = 1
    found = self_ensemble(knight, x, name)[0, 0]
    assert {tuple(place) for place in found.nonzero().tolist()} == places
    assert torch.equal(found[found > 0], torch.full((len(places),), 1 / len(places)))


@pytest.mark.parametrize("name", ["x4", "x4-frames", "x8"])
def test_an_ensemble_over_a_group_commutes_with_the_group(name):
    x = torch.rand(1, 2, 9, 12, dtype=torch.float64)
    for g in ENSEMBLES[name]:
        torch.testing.assert_close(
            self_ensemble(knight, g(x), name), g(self_ensemble(knight, x, name)), rtol=1e-14, atol=1e-15
        )


def test_positions_run_one_at_a_time():
    seen = []
    self_ensemble(lambda y: seen.append(tuple(y.shape)) or y, torch.rand(2, 3, 5, 7), "x4")
    assert sorted(seen) == [(2, 3, 5, 7)] * 2 + [(2, 3, 7, 5)] * 2


def test_names_positions_and_views_that_make_no_sense_are_refused():
    x = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="x4-frames"):
        self_ensemble(shift, x, "x16")
    with pytest.raises(ValueError, match="a symmetry"):
        self_ensemble(shift, x, [])
    views = torch.rand(1, 6, 4, 4)
    with pytest.raises(ValueError, match="dual-pixel"):
        self_ensemble(shift, views, "x8")
    assert torch.equal(self_ensemble(shift, views, [IDENTITY]), shift(views))
