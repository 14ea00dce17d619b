"""What a figure leaves behind, read back: pictures that say what made them, and a card that names all it needs."""

import json

import card
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from evssm.stamp import image_sha256

ORIGIN = {"file": "a.safetensors", "model": "a", "tensors_sha256": "5" * 64, "weights": "trained"}


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "HERE", tmp_path)
    image, values = torch.rand(3, 8, 9), np.random.default_rng().random((4, 5))

    def drawn(captioned, narrow):
        figure, ax = plt.subplots(figsize=(2, 1) if narrow else (4, 1))
        ax.imshow(values)
        ax.set_title("words" if captioned else "other words")
        return figure

    def make():
        return card.save_card(
            "name",
            [card.Picture(drawn, "what it shows"), card.Picture(drawn, "the same", "otherwise", "_paper")],
            script="erf_networks",
            table="| a |\n|---|\n| 1 |\n",
            caption="a caption",
            weights=[ORIGIN],
            images={"coffee-straight-8px-0": image},
            facts={"claims": []},
        )

    return make, image, tmp_path


def test_pictures_have_command_weights_and_images_inside(made):
    make, image, folder = made
    files = make()
    assert {path.name for path in files} == {path.name for path in folder.iterdir()}
    assert {path.name for path in files} == {
        *("name.md", "name.json"),
        *(f"name{suffix}.{kind}" for suffix in ("", "_paper") for kind in ("png", "pdf", "svg")),
        *("name_narrow.svg", "name_paper_narrow.svg"),
    }
    with Image.open(folder / "name.png") as picture:
        inside = picture.info
    assert inside["evssm:command"] == "python figures/make.py erf_networks"
    about = json.loads(inside["evssm:made"])
    assert about["weights"] == {"a.safetensors": "5" * 64}
    assert about["images"] == {"coffee-straight-8px-0": image_sha256(image[None])}
    assert about["caption"] == "a caption"
    assert "torch" in about["versions"]
    document = (folder / "name.pdf").read_bytes()
    assert b"python figures/make.py erf_networks" in document
    assert b"5" * 64 in document
    drawing = (folder / "name.svg").read_text()
    assert "5" * 64 in drawing
    assert "<text" not in drawing, "fonts differ from machine to machine, outlines do not"


def test_the_card_says_what_the_page_needs(made):
    make, _, folder = made
    make()
    written = json.loads((folder / "name.json").read_text())
    assert [one["alt"] for one in written["pictures"]] == ["what it shows", "the same"]
    assert [one["as"] for one in written["pictures"]] == ["name", "name_paper"]
    assert written["images"][0]["licence"] == "CC0"
    assert written["images"][0]["size"] == "8 x 9"
    assert written["weights"] == [ORIGIN]
    assert len(written["sources"]) == 64
    assert written["claims"] == []


def test_a_rerun_gives_the_same_bytes(made):
    make, _, folder = made
    make()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
