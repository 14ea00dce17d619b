"""The page without a kernel: the explorer's answers in one file that asks for nothing else."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from analysis.explorer import Explorer
from analysis.explorer_page import GREY, grid_pixels, steps_picture, write_page
from evssm import build


def an_explorer(*networks):
    nets = {"turning": build("evssm", width=4, depths=(1, 1, 1)), "conv": nn.Conv2d(3, 3, 3, padding=1)}
    return Explorer(
        {"<b>&photo": lambda: torch.linspace(0, 1, 3 * 16 * 24).reshape(3, 16, 24)},
        {name: lambda net=net: net for name, net in nets.items()},
        networks=networks,
    )


def opened(picture):
    return Image.open(BytesIO(b64decode(picture)))


def data_of(text):
    return json.loads(re.search(r"const data = (.*);\n", text)[1])


def test_pixels_lie_in_the_middles_of_equal_cells():
    assert grid_pixels(10, 9, 2, 3) == [(2, 1), (2, 4), (2, 7), (7, 1), (7, 4), (7, 7)]
    assert grid_pixels(96, 128, 1, 1) == [(48, 64)]
    with pytest.raises(ValueError, match="grid of 11 x 1 pixels does not fit"):
        grid_pixels(10, 10, 11, 1)


def test_a_map_is_shown_in_255_steps_over_four_decades_and_grey_where_nothing_can_be():
    field = np.array([[1.0, -1e-2, 1e-4], [1e-9, 0.0, 1.0]])
    picture = opened(steps_picture(field, np.array([[True, True, True], [True, True, False]])))
    assert np.asarray(picture).tolist() == [[254, 127, 0], [0, 0, 255]]
    assert picture.convert("RGB").getpixel((2, 1)) == GREY


def test_every_tile_holds_what_the_explorer_answers_and_a_rerun_gives_the_same_bytes(tmp_path):
    explorer, told = an_explorer("turning", "conv"), []
    page = write_page(explorer, tmp_path / "page.html", (2, 2), progress=lambda *at: told.append(at))
    text = page.read_text()
    data = data_of(text)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert data["queries"] == [[4, 6], [4, 18], [12, 6], [12, 18]]
    turning, conv = data["networks"]
    assert [tile["name"] for tile in conv["tiles"]] == ["receptive field"]
    assert len(turning["tiles"]) == 1 + len(explorer.stages())
    rows = explorer.rows(replace(explorer.panel, query=(12, 6)))["turning"]
    for tile, row in zip(turning["tiles"][1:], rows.values(), strict=True):
        shown = steps_picture(row.map[row.inside], row.support[row.inside])
        assert tile["maps"][2] == shown
        assert tile["notes"][2] == f"max {np.abs(row.map).max():.1e}"
    assert turning["untrained"] is True
    assert write_page(an_explorer("turning", "conv"), tmp_path / "again.html", (2, 2)) != page
    again = (tmp_path / "again.html").read_text().replace("again.html", "page.html")
    weights = re.compile(r"(weights )[0-9a-f]{12}")  # the second explorer's networks were drawn anew
    assert len(again) == pytest.approx(len(text), rel=0.2)
    assert write_page(explorer, tmp_path / "page.html", (2, 2)).read_text() == text
    assert weights.search(text)


def test_the_field_of_a_convolution_is_its_square_around_the_pixel(tmp_path):
    data = data_of(write_page(an_explorer("conv"), tmp_path / "page.html", (2, 2)).read_text())
    (tile,) = data["networks"][0]["tiles"]
    for (row, column), picture in zip(data["queries"], tile["maps"], strict=True):
        lit = np.argwhere(np.asarray(opened(picture)) > 0)
        assert lit.min(axis=0).tolist() == [row - 1, column - 1]
        assert lit.max(axis=0).tolist() == [row + 1, column + 1]


class Wanted(HTMLParser):
    """Collects what a page would ask a server for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.asked += [given[key] for key in ("src", "href", "action", "data") if key in given]
        self.asked += [tag] * (tag in ("link", "iframe", "object", "base"))


def test_the_page_asks_for_nothing_and_names_cannot_break_it(tmp_path):
    text = write_page(an_explorer("conv"), tmp_path / "page.html", (1, 1)).read_text()
    wanted = Wanted()
    wanted.feed(text)
    assert wanted.asked
    assert all(address.startswith("data:") for address in wanted.asked)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert "<b>&photo" not in text
    assert "&lt;b&gt;&amp;photo" in text
    assert "%%" not in text
    assert "evssm explore conv --image" in text
    assert "untrained weights" in text
