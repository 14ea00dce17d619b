"""Tiles: what they cover, when they change nothing, and what is refused."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from evssm import build
from evssm.tiles import GRID, Span, spans, tiled


@st.composite
def cuts(draw):
    """A length, a tile and an overlap that go together."""
    tile = draw(st.integers(16, 200))
    return draw(st.integers(1, 700)), tile, draw(st.integers(0, tile - 1))


@given(cuts())
def test_tiles_cover_every_pixel_with_a_weight_and_overlap_enough(cut):
    length, tile, overlap = cut
    found = spans(*cut)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert all(s.stop - s.start <= tile for s in found)
    assert all(a.stop - b.start >= overlap for a, b in pairwise(found))
    if length > 16:
        assert all(s.stop - s.start >= 16 for s in found)
    cover = torch.zeros(length, dtype=torch.float64)
    for s in found:
        cover[s.start : s.stop] += s.weights()
    assert cover.min() > 0


@given(st.integers(16, 200), st.data())
def test_where_two_tiles_overlap_as_asked_their_weights_add_up_to_one(tile, data):
    overlap = data.draw(st.integers(0, tile // 2))
    length = 2 * tile - overlap
    total = torch.zeros(length, dtype=torch.float64)
    for start in (0, tile - overlap):
        span = Span(start, start + tile, length, overlap)
        total[start : start + tile] += span.weights()
    if overlap:
        torch.testing.assert_close(total, torch.ones_like(total))
    assert total.min() > 0


@pytest.mark.parametrize(("h", "w"), [(61, 150), (150, 61), (97, 203), (64, 64)])
@pytest.mark.parametrize(("tile", "overlap"), [(48, 12), (64, 32), (50, 20), (64, 13)])
def test_a_network_that_looks_no_further_than_a_quarter_of_the_overlap_does_not_notice(h, w, tile, overlap):
    radius = overlap // 4
    conv = nn.Conv2d(3, 3, 2 * radius + 1, padding=radius, dtype=torch.float64)
    x = torch.rand(1, 3, h, w, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(tiled(conv, x, tile, overlap), conv(x), rtol=1e-12, atol=1e-13)


def test_one_pixel_further_and_it_does():
    conv = nn.Conv2d(1, 1, 13, padding=6, dtype=torch.float64)
    x = torch.rand(1, 1, 64, 200, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(tiled(conv, x, 64, 20), conv(x), rtol=1e-6, atol=1e-9)


def test_a_network_with_levels_meets_the_same_grid_in_every_tile():
    def blocky(x):
        return F.interpolate(F.avg_pool2d(x, GRID), scale_factor=GRID)

    x = torch.rand(1, 3, 160, 256, dtype=torch.float64)
    torch.testing.assert_close(tiled(blocky, x, 96, 32), blocky(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["mimo-unet-compact", "nafnet-compact"])
def test_a_tile_that_covers_the_image_changes_no_bit(name):
    net, x = build(name), torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(tiled(net, x, 47, 10), net(x))


def test_a_constant_image_stays_constant():
    x = torch.full((1, 3, 133, 90), 0.3)
    assert torch.equal(tiled(lambda y: y, x, 40, 11), x)
    assert torch.equal(tiled(lambda y: y + 0.25, x, 64, 30), x + 0.25)


def test_progress_counts_the_tiles():
    seen = []
    tiled(lambda y: y, torch.rand(1, 3, 40, 70), 32, 0, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(seen) - 1)
    assert seen[-1] == (len(seen) - 1, len(seen) - 1)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"), [(8, 0, "too small"), (64, 64, "cannot overlap"), (64, -1, "cannot overlap")]
)
def test_sizes_that_do_not_go_together_are_refused(tile, overlap, message):
    for x in (torch.rand(1, 3, 100, 100), torch.rand(1, 3, 16, 16)):
        with pytest.raises(ValueError, match=message):
            tiled(lambda y: y, x, tile, overlap)


def test_a_network_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match="keeps the size"):
        tiled(lambda y: y[..., 1:], torch.rand(1, 3, 100, 100), 64, 8)
