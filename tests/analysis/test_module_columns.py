"""Columns of whole mixers: the rows read the other way, the Jacobian by autograd, differences, and windows."""

from itertools import product

import pytest
import torch
from mixer_sites import CELLS, MIXERS, a_site, scan_of_values, whole
from torch import nn
from torch.testing import assert_close

from analysis import module_columns, scan_rows
from analysis.module_columns import module_column
from analysis.module_rows import LEVELS, Site, module_row
from analysis.scan_branches import SS2DBranch, take_apart
from analysis.scan_rows import SCAN_LEVELS


def answers(site, x):
    return (x + site.mixer(site.norm(x)))[0]


@pytest.mark.parametrize(("kind", "level", "residual"), [
    *product(MIXERS, LEVELS, (True,)), *product(MIXERS, ("A6", "A7"), (False,)),
])  # fmt: skip
def test_a_column_at_a_pixel_is_that_pixels_row_at_the_query(kind, level, residual):
    h, w = 3, 5
    site = a_site(kind, h, w)
    rows = [module_row(site, cell, level, residual=residual) for cell in product(range(h), range(w))]
    for r, c in ((0, 0), (1, 3), (2, 4)):
        column = module_column(site, (r, c), level, residual=residual)
        gathered = torch.stack([row.per_channel[:, r, c] for row in rows], dim=1)
        assert_close(column.per_channel.flatten(1), gathered, rtol=1e-9, atol=1e-11)
        assert column.support.flatten().tolist() == [bool(row.support[r, c]) for row in rows]
        assert_close(column.rebuilt, column.output, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MIXERS)
def test_level_a7_is_the_jacobian_along_every_output_and_its_support_is_tight(kind):
    site = a_site(kind)
    jacobian = torch.autograd.functional.jacobian(lambda x: answers(site, x), site.x)[:, :, :, 0]
    to = answers(site, site.x)
    along = torch.einsum("ohw,ohwcij->chwij", to / to.norm(dim=0), jacobian)
    for r, c in CELLS:
        line = module_column(site, (r, c), "A7")
        assert_close(line.per_channel, along[..., r, c], rtol=1e-9, atol=1e-12)
        assert torch.equal(line.support, (jacobian[..., r, c] != 0).any(-1).any(0))


@pytest.mark.parametrize("kind", MIXERS)
def test_level_a7_is_what_differences_tend_to(kind):
    site, (r, c) = a_site(kind), (1, 4)
    to = answers(site, site.x)
    column = module_column(site, (r, c), "A7").per_channel
    for channel in range(len(column)):
        step = torch.zeros_like(site.x)
        step[0, channel, r, c] = 1e-5
        change = (answers(site, site.x + step) - answers(site, site.x - step)) / 2e-5
        assert_close(column[channel], (to / to.norm(dim=0) * change).sum(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", MIXERS)
def test_level_a5_is_the_jacobian_with_gate_and_activation_detached(kind):
    site = a_site(kind)
    branch = whole(site)
    jacobian = torch.autograd.functional.jacobian(
        lambda a: branch.gate() * scan_of_values(site.mixer, branch, a), branch.values, vectorize=False
    )
    for r, c in CELLS:
        line = module_column(site, (r, c), "A5")
        own = torch.stack([jacobian[d, :, :, d, r, c] for d in range(len(jacobian))])
        assert_close(line.per_channel, own, rtol=1e-9, atol=1e-11)
        assert_close(line.rebuilt, line.output, rtol=1e-9, atol=1e-10)


WINDOWED = list(product(("one direction", "four directions", "kernel over the map", "mamba-2"), LEVELS))


@pytest.mark.parametrize(("kind", "level"), WINDOWED)
def test_windows_are_stitched_as_the_mixer_averages_them(kind, level):
    h, w, edge, cell = 7, 9, 4, (3, 5)
    site = a_site(kind, h, w, window=edge)
    site.mixer.window = edge
    line = module_column(site, cell, level)
    assert_close(line.rebuilt, line.output, rtol=1e-5, atol=1e-6)
    inside = torch.zeros(h, w, dtype=torch.bool)
    for window in site.around(cell):
        inside[window] = True
    assert not line.support[~inside].any()
    for at in (cell, (1, 2), (2, 7), (6, 8), (4, 4)):
        row = module_row(site, at, level)
        assert_close(line.per_channel[(..., *at)], row.per_channel[(..., *cell)], rtol=1e-9, atol=1e-11)
        assert line.support[at] == row.support[cell]
    if level == "A7":
        jacobian = torch.autograd.functional.jacobian(lambda x: answers(site, x), site.x)[:, :, :, 0]
        to = answers(site, site.x)
        expected = torch.einsum("ohw,ohwc->chw", to / to.norm(dim=0), jacobian[..., *cell])
        assert_close(line.per_channel, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", ["A6", "A7"])
@pytest.mark.parametrize("kind", ["one direction", "mamba-2"])
def test_without_a_norm_the_mixer_itself_is_the_module(kind, level):
    site = a_site(kind)
    bare = Site("here", site.mixer, None, site.x)
    line = module_column(bare, (1, 4), level)
    assert_close(line.rebuilt, line.output, rtol=1e-5, atol=1e-6)
    for at in CELLS:
        assert_close(line.per_channel[(..., *at)], module_row(bare, at, level).per_channel[:, 1, 4])


def test_a_pixel_that_answers_zero_hears_nothing():
    site = a_site("one direction")
    site.x[..., 2, 3] = 0
    site.norm.bias.zero_()  # so that the pixel's gate is zero, and with it the branch's output
    line = module_column(site, (1, 4), "A7")
    assert (line.per_channel[:, 2, 3] == 0).all()
    assert line.per_channel.isfinite().all()
    assert (line.per_channel[:, 2, 4] != 0).all()
    with pytest.raises(ValueError, match="has no direction"):
        module_row(site, (2, 3), "A7")


def test_single_precision_is_enough():
    site = a_site("four directions")
    single = Site("here", site.mixer.float(), site.norm.float(), site.x.float())
    for level in LEVELS:
        line = module_column(single, (1, 4), level)
        assert (line.rebuilt - line.output).norm() < 1e-4 * line.output.norm(), level


# The check can fail: each fault leaves out something that a level contains.


def wrong_by(line):
    return float((line.rebuilt - line.output).norm() / line.output.norm())


@pytest.mark.parametrize("level", [*SCAN_LEVELS, "A5", "A6"])
def test_the_check_notices_a_column_that_forgets_nothing(level, monkeypatch):
    site = a_site("one direction")
    site.mixer.dt_projs_bias += 3  # steps long enough to count
    site.mixer.Ds.zero_()  # which from A5 on is part of what is checked
    column = scan_rows.column
    assert wrong_by(module_column(site, (0, 2), level)) < 1e-10
    monkeypatch.setattr(
        scan_rows, "column", lambda scan, s, level="A3": column(scan._replace(A=torch.zeros_like(scan.A)), s, level)
    )
    assert wrong_by(module_column(site, (0, 2), level)) > 1e-3


def test_the_check_notices_a_norm_whose_mean_is_forgotten(monkeypatch):
    site = a_site("one direction")
    after = SS2DBranch.after

    def slipped(branch, y, gate, direction):
        weights, constant = after(branch, y, gate, direction)
        return weights + weights.abs().mean(dim=0), constant

    monkeypatch.setattr(SS2DBranch, "after", slipped)
    assert wrong_by(module_column(site, (1, 4), "A6", residual=False)) > 1e-3


@pytest.mark.parametrize("part", ["u", "delta", "B", "C"])
def test_the_check_notices_a_derivative_that_lacks_a_part(part, monkeypatch):
    site = a_site("one direction")
    site.mixer.dt_projs_bias += 3
    tangent = module_columns.tangent

    def without(scan, nudges, weights):
        blind = {s: nudge._replace(**{part: torch.zeros_like(getattr(nudge, part))}) for s, nudge in nudges.items()}
        return tangent(scan, blind, weights)

    assert wrong_by(module_column(site, (1, 4), "A7", residual=False)) < 1e-6
    monkeypatch.setattr(module_columns, "tangent", without)
    assert wrong_by(module_column(site, (1, 4), "A7", residual=False)) > 1e-4


def test_the_check_notices_a_gate_that_is_held(monkeypatch):
    site = a_site("one direction")
    heard = SS2DBranch.heard
    monkeypatch.setattr(SS2DBranch, "heard", lambda *args: (heard(*args)[0], torch.zeros_like(site.x[0])))
    assert wrong_by(module_column(site, (1, 4), "A7", residual=False)) > 1e-3


def test_what_cannot_be_asked_is_refused():
    site = a_site("one direction")
    with pytest.raises(ValueError, match="A0, A1, A2, A3, A4, A5, A6, A7"):
        module_column(site, (0, 0), "A8")
    with pytest.raises(ValueError, match="Conv2d is not known to scan"):
        take_apart(nn.Conv2d(3, 3, 1), site.x)
    nn.init.zeros_(site.mixer.out_proj.weight)
    for level in ("A6", "A7"):
        with pytest.raises(ValueError, match="answers zero everywhere"):
            module_column(site, (0, 0), level, residual=False)
