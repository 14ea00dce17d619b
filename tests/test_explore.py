"""`evssm explore` without a page: the panel as a figure, the static page, and one line for what is wrong."""

import json
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from evssm.cli import main, page


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evssm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def photo(path):
    Image.fromarray(np.random.default_rng().integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path.name


def test_a_saved_panel_s_own_command_makes_the_same_files(run, tmp_path):
    name = photo(tmp_path / "a photo.png")
    status, out, err = run(
        "explore",
        "evssm-compact",
        "--image",
        name,
        "--size",
        "16x20",
        "--view",
        "module",
        "--query",
        "3,4",
        "--save",
        "p",
    )
    assert (status, err) == (0, "")
    files = [tmp_path / line for line in out.split()]
    assert [file.name for file in files] == ["p.png", "p.pdf", "p.json"]
    before = [file.read_bytes() for file in files]
    command = json.loads(before[2])["command"]
    assert "'a photo.png'" in command
    assert "--stage decoder.2.1.mixer" in command
    for file in files:
        file.unlink()
    assert run(*shlex.split(command)[1:])[0] == 0
    assert [file.read_bytes() for file in files] == before


def test_untrained_networks_are_drawn_where_that_is_asked_for_and_their_seed_is_in_the_command(run, tmp_path):
    name = photo(tmp_path / "photo.png")
    words = ("explore", "nafnet-compact", "--image", name, "--untrained", "--seed", 5, "--view", "field", "--save", "p")
    assert run(*words)[0] == 0
    facts = json.loads((tmp_path / "p.json").read_text())
    assert facts["command"].endswith("--untrained --seed 5 --save p")
    assert facts["networks"]["nafnet-compact"]["made"]["trained"] is False


def test_the_static_page_says_which_command_wrote_it(run, tmp_path):
    name = photo(tmp_path / "photo.png")
    words = ("explore", "nafnet-compact", "--image", name, "--static", "page.html", "--grid", "1x2")
    assert run(*words)[:2] == (0, "page.html\n")
    first = (tmp_path / "page.html").read_text()
    assert "--static page.html --grid 1x2" in first
    assert run(*words)[0] == 0
    assert (tmp_path / "page.html").read_text() == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--image", "nowhere.png"), "neither a file nor one of chelsea-blurred"),
        (("--query", "a,b"), "neither ROW,COLUMN nor centre"),
        (("--query", "96,0"), "outside the image of 96 x 128 px"),
        (("--box", "1,2,3"), "not ROW,COLUMN,HEIGHT,WIDTH"),
        (("--level", "A9"), 'no level "A9"'),
        (("--view", "clouds"), "choose from maps, module, field, region"),
        (("evssm-compact", "nafnet-compact", "stripformer-compact"), "one network, or two"),
        (("--static", "page.html", "--grid", "3"), "not ROWSxCOLUMNS"),
        (("--view", "module", "--stage", "middle"), "no module middle scans here; there are encoder.0.0.mixer"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run, words, message):
    status, out, err = run("explore", *words, *(() if "--static" in words else ("--save", "p")))
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("lab", "missing"), [(False, "voila"), (True, "jupyterlab")])
def test_missing_packages_are_named_with_what_installs_them(run, monkeypatch, lab, missing):
    found = page.find_spec
    monkeypatch.setattr(page, "find_spec", lambda name: None if name in ("ipympl", missing) else found(name))
    status, _, err = run("explore", *(["--lab"] if lab else []))
    assert status == 2
    assert f"needs ipympl, {missing}, not installed here: pip install 'evssm-lab[explore]'" in err
