from itertools import product

import pytest
import torch

from evssm.geometry import ANTI_TRANSPOSE, GROUP, HALF_TURN, IDENTITY, TRANSPOSE


@pytest.mark.parametrize(("g", "h"), list(product(GROUP, repeat=2)))
def test_a_product_acts_right_to_left(g, h):
    x = torch.arange(6).reshape(2, 3)
    assert torch.equal((g @ h)(x), g(h(x)))


@pytest.mark.parametrize("g", GROUP)
def test_an_inverse_undoes(g):
    x = torch.arange(24).reshape(2, 2, 2, 3)
    assert torch.equal(g.inverse(g(x)), x)
    assert g.inverse @ g == g @ g.inverse == IDENTITY


def test_the_eight_symmetries_act_differently():
    x = torch.arange(9).reshape(3, 3)
    assert len({tuple(g(x).flatten().tolist()) for g in GROUP}) == 8


@pytest.mark.parametrize("g", GROUP)
def test_points_follow_their_pixels(g):
    h, w = 3, 5
    turned = g(torch.arange(h * w).reshape(h, w))
    assert tuple(turned.shape) == g.size(h, w)
    where = g.points(torch.cartesian_prod(torch.arange(h), torch.arange(w)), h, w)
    assert torch.equal(turned[where[:, 0], where[:, 1]], torch.arange(h * w))
    for r, c in product(range(h), range(w)):
        assert g.points((r, c), h, w) == tuple(where[r * w + c].tolist())
    assert torch.equal(g.points(where.reshape(h, w, 2), h, w), g.points(where, h, w).reshape(h, w, 2))
    assert torch.equal(g.points(where[7], h, w), g.points(where, h, w)[7])
    assert g.inverse.points(g.points((1.5, 0.25), h, w), *g.size(h, w)) == (1.5, 0.25)


def test_the_turns_of_evssm_form_a_klein_group():
    assert TRANSPOSE @ HALF_TURN == HALF_TURN @ TRANSPOSE == ANTI_TRANSPOSE
    assert all(g @ g == IDENTITY for g in (TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE))


def test_the_anti_transpose_mirrors_in_the_anti_diagonal():
    h, w = 2, 3
    image = torch.arange(h * w).reshape(h, w)
    stored = ANTI_TRANSPOSE(image)
    assert all(stored[p, q] == image[h - 1 - q, w - 1 - p] for p in range(w) for q in range(h))


def test_every_symmetry_has_its_own_name():
    assert len({str(g) for g in GROUP}) == 8
