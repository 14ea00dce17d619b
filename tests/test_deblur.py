"""Files and folders of blurred images: each result in its place, whole, made once, and never with random weights."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import evssm.inference
from evssm import build, load, save
from evssm.cli import main
from evssm.deblur import deblur, plan
from evssm.images import read_image, write_image
from evssm.inference import Inference
from evssm.ledger import read_ledger

RNG = np.random.default_rng()


def photo(path, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


class Negative:
    """Turns white into black, and remembers what it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(tuple(x.shape[-2:]))
        return 1 - x


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Counting memory takes a second and has tests of its own."""
    monkeypatch.setattr(evssm.inference, "estimate_memory", lambda net, h, w, channels=3: 1200 * h * w)


# --- places -----------------------------------------------------------------------------------------------------------


def names(source, out, **options):
    jobs, ledger = plan(source, out, **options)
    return [(job.source.relative_to(source.parent).as_posix(), job.result.as_posix()) for job in jobs], ledger.name


def test_a_file_goes_to_a_file_or_into_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = photo(tmp_path / "a.jpg")
    out = type(image)
    assert names(image, out("b.tif")) == ([("a.jpg", "b.tif")], "b_deblurred.csv")
    assert names(image, out("b")) == ([("a.jpg", "b/a.png")], "deblurred.csv")
    (tmp_path / "c.png").mkdir()
    assert names(image, out("c.png"))[0] == [("a.jpg", "c.png/a.png")]


def test_a_folder_keeps_its_tree_and_twins_keep_their_suffixes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/a.png", "in/deep/er/c.PNG", "in/deep/d.webp"):
        photo(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    out = type(tmp_path)("out")
    assert names(tmp_path / "in", out)[0] == [
        ("in/a.jpg", "out/a.jpg.png"),
        ("in/a.png", "out/a.png.png"),
        ("in/deep/d.webp", "out/deep/d.png"),
        ("in/deep/er/c.PNG", "out/deep/er/c.png"),
    ]
    assert names(tmp_path / "in", out, suffix=".jpg")[0][2][1] == "out/deep/d.jpg"


def test_results_inside_the_source_folder_are_no_sources(tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "out" / "a.png")
    jobs, _ = plan(tmp_path, tmp_path / "out")
    assert [job.source for job in jobs] == [tmp_path / "a.png"]


def test_places_that_make_no_sense_are_refused(tmp_path):
    image = photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "in" / "b.png")  # would go to in/b.png, had the results the folder around as theirs
    (tmp_path / "empty").mkdir()
    for source, out, message in (
        (tmp_path / "missing", tmp_path / "out", "there is no"),
        (tmp_path / "empty", tmp_path / "out", "no image in"),
        (tmp_path / "in", tmp_path / "out.png", "names a file"),
        (tmp_path / "in", tmp_path / "in", "among the blurred"),
        (tmp_path / "in", tmp_path, "among the blurred"),
        (image, image, "take the place"),
        (image, tmp_path / "in", "take the place"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            plan(source, out)


# --- running ----------------------------------------------------------------------------------------------------------


def test_every_image_is_made_once_whatever_its_size(tmp_path):
    sizes = {"a.png": (16, 17), "b.png": (33, 70), "s/c.png": (61, 19)}
    for name, size in sizes.items():
        photo(tmp_path / "in" / name, size)
    jobs, ledger = plan(tmp_path / "in", tmp_path / "out")
    net, told = Negative(), []
    made, failures = deblur(net, jobs, ledger, inference=Inference(tile=32, overlap=8), say=told.append)
    assert (failures, len(made)) == ([], 3)
    for name in sizes:
        total = read_image(tmp_path / "in" / name) + read_image(tmp_path / "out" / name)
        torch.testing.assert_close(total, torch.ones_like(total))
    assert [line for line in told if "MiB" in line]
    runs = len(net.seen)
    assert deblur(net, jobs, ledger, inference=Inference(tile=32, overlap=8)) == (made, [])
    assert len(net.seen) == runs
    assert {row["result"] for row in read_ledger(ledger)[1]} == set(sizes)


def test_a_missing_result_and_a_changed_source_are_made_again(tmp_path):
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    jobs, ledger = plan(tmp_path / "in", tmp_path / "out")
    deblur(Negative(), jobs, ledger)
    (tmp_path / "out" / "a.png").unlink()
    photo(tmp_path / "in" / "b.png", (20, 30))
    net = Negative()
    deblur(net, jobs, ledger)
    assert net.seen == [(20, 24), (20, 30)]


def test_images_of_somebody_else_or_made_otherwise_are_kept(tmp_path):
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "b.png")
    theirs = photo(tmp_path / "out" / "b.png")
    before = theirs.read_bytes()
    jobs, ledger = plan(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="not made by this command"):
        deblur(Negative(), jobs, ledger)
    deblur(Negative(), jobs[:1], ledger)
    with pytest.raises(ValueError, match="not made by this command"):
        deblur(Negative(), jobs, ledger)
    with pytest.raises(ValueError, match="inference differ"):
        deblur(Negative(), jobs[:1], ledger, inference=Inference(ensemble="x8"))
    assert theirs.read_bytes() == before
    deblur(Negative(), jobs, ledger, inference=Inference(ensemble="x8"), overwrite=True)
    assert theirs.read_bytes() != before


def test_what_fails_is_told_and_the_others_go_on(tmp_path):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no image at all")
    photo(tmp_path / "in" / "c.png", (20, 40))
    photo(tmp_path / "in" / "d.png")

    def net(x):
        return x * float("nan") if x.shape[-1] == 40 else 3 * x

    jobs, ledger = plan(tmp_path / "in", tmp_path / "out")
    told = []
    made, failures = deblur(net, jobs, ledger, say=told.append)
    assert [path.name for path in made] == ["a.png", "d.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "d.png"]
    assert "b.png" in failures[0]
    assert "c.png" in failures[1]
    assert "not finite" in failures[1]
    assert any("a.png" in line and "beyond [0, 1]" in line for line in told)
    rows = {row["result"]: row for row in read_ledger(ledger)[1]}
    assert rows["c.png"]["not_finite"] == str(3 * 20 * 40)
    assert float(rows["a.png"]["overshoot"]) > 0.3


def test_an_image_too_large_for_the_memory_is_a_failure_with_advice(tmp_path, monkeypatch):
    photo(tmp_path / "a.png", (100, 100))
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: 1200 * 9000)
    jobs, ledger = plan(tmp_path / "a.png", tmp_path / "b.png")
    _, (failure,) = deblur(Negative(), jobs, ledger)
    assert failure.endswith("try --tile 64 --overlap 16")
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: 1200 * 64 * 64 + 56 * 100 * 100)
    made, failures = deblur(Negative(), jobs, ledger, inference=Inference(tile=64, overlap=16), overwrite=True)
    assert (len(made), failures) == (1, [])


def test_random_weights_deblur_nothing(tmp_path):
    jobs, ledger = plan(photo(tmp_path / "a.png"), tmp_path / "b.png")
    with pytest.raises(ValueError, match="no trained weights"):
        deblur(build("nafnet-compact"), jobs, ledger)
    assert not (tmp_path / "b.png").exists()


def test_sixteen_bits_keep_what_eight_lose(tmp_path):
    x = torch.linspace(0, 1, 3 * 20 * 30).reshape(3, 20, 30)
    for suffix in (".png", ".tif"):
        path = write_image(tmp_path / f"a{suffix}", x, bits=16)
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).dtype == np.uint16
        assert torch.equal((read_image(path).double() * 65535).round(), (x.double() * 65535).round())
    jobs, ledger = plan(photo(tmp_path / "in.png"), tmp_path / "out.png")
    deblur(Negative(), jobs, ledger, bits=16)
    assert cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    for name, bits in (("a.jpg", 16), ("a.png", 12)):
        with pytest.raises(ValueError, match="bits"):
            write_image(tmp_path / name, x, bits=bits)


# --- the command line -------------------------------------------------------------------------------------------------


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


def test_the_command_writes_what_the_network_makes(run, tmp_path):
    image = photo(tmp_path / "a.png", (21, 34))
    file = save(build("nafnet-compact"), tmp_path / "w.safetensors", steps=1, data="GoPro")
    status, out, _ = run("deblur", image, "sharp", "--weights", file, "--ensemble", "x4-frames")
    assert (status, out.split()) == (0, ["sharp/a.png"])
    expected = Inference(ensemble="x4-frames")(load(file), read_image(image)[None])[0]
    write_image(tmp_path / "expected.png", expected)
    assert (tmp_path / "sharp" / "a.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert json.loads((tmp_path / "sharp" / "deblurred.json").read_text())["results"] == 1


def test_a_network_of_ones_own_deblurs(run, tmp_path):
    (tmp_path / "own_negative.py").write_text("def net(x):\n    return 1 - x\n")
    photo(tmp_path / "in" / "a.png")
    status, *_ = run("deblur", "in", "out", "--network", "own_negative:net", "--suffix", "tif", "--bits", 16)
    assert status == 0
    total = read_image(tmp_path / "in" / "a.png") + read_image(tmp_path / "out" / "a.tif")
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("missing.png", "out.png", "--network", "evssm"), "there is no missing.png"),
        (("a.png", "out.png", "--network", "evssm"), "no trained weights of evssm"),
        (("a.png", "out.png", "--network", "evsm"), "evsm"),
        (("a.png", "out.png", "--weights", "none.pth"), "none.pth"),
        (("a.png", "out.png", "--weights", "random.safetensors"), "no trained weights"),
        (("a.png", "out.png", "--weights", "w.safetensors", "--ensemble", "x3"), "x4-frames"),
        (("a.png", "out.png", "--weights", "w.safetensors", "--tile", "7"), "too small"),
        (("a.png", "out.png", "--weights", "w.safetensors", "--tile", "64", "--overlap", "64"), "cannot overlap"),
        (("a.png", "out.jpg", "--weights", "w.safetensors", "--bits", "16"), "16 in .png"),
        (("a.png", "a.png", "--weights", "w.safetensors"), "take the place"),
        (("bad.png", "out.png", "--weights", "w.safetensors"), "1 of 1 images not deblurred"),
    ],
)
def test_what_the_caller_got_wrong_is_one_line_and_leaves_no_image(run, tmp_path, words, part):
    photo(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("text")
    save(build("nafnet-compact"), tmp_path / "random.safetensors")
    save(build("nafnet-compact"), tmp_path / "w.safetensors", steps=1)
    status, out, err = run("deblur", *words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("evssm: ")
    assert part in err
    assert not list(tmp_path.glob("out*.[pj][np]g"))


def test_without_any_weights_the_line_says_what_to_give(run, tmp_path, monkeypatch):
    monkeypatch.setattr("evssm.weights.bundled", lambda: {})
    photo(tmp_path / "a.png")
    status, _, err = run("deblur", "a.png", "out.png")
    assert status == 2
    assert err == ("evssm: no trained network comes with this installation; give --weights FILE (and --network NAME)\n")
