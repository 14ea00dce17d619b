"""`verify`: clean copies pass in every layout, and each defect that a copy may have is named."""

import errno
import os
import re
import shutil
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_layouts import (
    SEQUENCES,
    SMALL,
    Camera,
    as_tensor,
    crops,
    database,
    dpdd,
    dpdd_restormer,
    encoded,
    gopro,
    hide,
    linked,
    mprnet,
    pairs,
    realblur,
    write,
)

from evssm.cli import main
from evssm.data.brightness import kind_of_blur, measure
from evssm.data.published import PUBLISHED
from evssm.data.verify import verify

MAKERS = {
    "gopro": gopro,
    "mprnet": mprnet,
    "hide": lambda root: hide(root / "HIDE_dataset"),
    "realblur": realblur,
    "dpdd": dpdd,
    "dpdd_restormer": dpdd_restormer,
    "lmdb": lambda root: crops(root)[0],
}


@pytest.mark.parametrize("layout", MAKERS)
@pytest.mark.parametrize("everything", [False, True])
def test_a_clean_copy_has_no_findings(tmp_path, layout, everything):
    MAKERS[layout](tmp_path)
    counted = []
    report = verify(
        tmp_path, published=SMALL, everything=everything, sample=2, progress=lambda *state: counted.append(state)
    )
    assert report.findings == ()
    assert all(line.pairs == line.published for line in report.sets)
    assert all(line.decoded == (line.pairs if everything else 2) for line in report.sets)
    assert counted[-1][0] == counted[-1][1] == len(counted)
    assert report.summary().endswith("nothing wrong")


def test_copies_side_by_side_are_checked_each_for_itself(tmp_path):
    mprnet(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    report = verify(tmp_path, published=SMALL)
    assert report.findings == ()
    assert len(report.sets) == 10
    assert len({line.where for line in report.sets}) == 10


def test_a_palette_is_no_other_depth(tmp_path):
    pairs(tmp_path, ["a", "b"])
    with Image.open(tmp_path / "input" / "a.png") as picture:
        palette = picture.quantize(16)
    palette.save(tmp_path / "input" / "a.png", bits=4)
    report = verify(tmp_path)
    assert report.findings == ()
    assert report.sets[0].bits == "4 and 8"


def test_the_sample_is_spread_evenly(tmp_path):
    pairs(tmp_path, [f"{k:02d}" for k in range(12)])
    for k in (0, 1, 3, 4, 5, 7, 8, 9, 11):
        (tmp_path / "input" / f"{k:02d}.png").write_bytes(rotten(tmp_path / "input" / f"{k:02d}.png"))
    assert not verify(tmp_path, sample=3).errors  # 2, 6, 10 are decoded
    assert len(verify(tmp_path, everything=True).errors) == 9
    with pytest.raises(ValueError, match="known are GoPro, HIDE"):
        verify(tmp_path, dataset="gopr0")
    with pytest.raises(ValueError, match="at least 1"):
        verify(tmp_path, sample=0)


def rotten(path):
    """The file with a changed byte amid its pixels; header and end are as they were."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def first(root, pattern):
    return sorted(root.glob(pattern))[0]


def cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def rewrite(path, levels):
    path.unlink()
    write(path, levels)


def noise(h=24, w=40, bits=8):
    return np.random.default_rng().integers(0, 1 << bits, (h, w, 3), dtype=f"uint{bits}")


def rename(path, name):
    path.rename(path.with_name(name))


def swap(a, b):
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


def each_sequence(root, change):
    for folder in [folder for names in SEQUENCES.values() for name in names for folder in root.glob(f"*/{name}")]:
        change(folder)


def copied(source, target):
    target.write_bytes(source.read_bytes())


GO = "test/GoPro"
DEFECTS = {
    "one pair missing": (
        mprnet,
        lambda r: [first(r, f"{GO}/{half}/*").unlink() for half in ("input", "target")],
        "error: GoPro test (blur): 3 pairs, published are 4: incomplete, 1 missing",
    ),
    "one pair too many": (mprnet, lambda r: pairs(r / GO, ["extra"]), "GoPro test (blur): 5 pairs.*1 too many"),
    "no partner": (
        mprnet,
        lambda r: first(r, f"{GO}/input/*").unlink(),
        "error: GoPro test (blur): 1 sharp image without a partner: GOPR0384_11_00-000000",
    ),
    "no partner, blurred": (
        gopro,
        lambda r: first(r, "test/*/sharp/*").unlink(),
        "error: GoPro test (blur_gamma): 1 blurred image without a partner: GOPR0384_11_00/000000",
    ),
    "sizes differ": (
        mprnet,
        lambda r: rewrite(first(r, f"{GO}/input/*"), noise(24, 39)),
        "error: GoPro test (blur): 1 pair with images that differ in size: .*single 24 x 39 and sharp 24 x 40",
    ),
    "resized": (
        mprnet,
        lambda r: pairs(r / GO, ["GOPR0384_11_00-000000"]) and shrink(r / GO, "GOPR0384_11_00-000000"),
        "error: GoPro test (blur): 1 pair not of 24 x 40, as published, but 20 x 30",
    ),
    "too small": (
        mprnet,
        lambda r: rewrite(first(r, "test/RealBlur_J/input/*"), noise(15, 40)),
        "error: RealBlur-J test: 1 image unreadable: .* has 15 x 40 pixels",
    ),
    "same file": (
        mprnet,
        lambda r: copied(first(r, f"{GO}/input/*"), first(r, f"{GO}/target/*")),
        "error: GoPro test (blur): blurred and sharp are the same file in 1 pair",
    ),
    "same pixels": (
        mprnet,
        lambda r: rewrite_as_tiff(first(r, "test/HIDE/target/*"), first(r, "test/HIDE/input/*")),
        "error: HIDE test: blurred and sharp show the same pixels in 1 decoded pair",
    ),
    "a sequence without gamma": (
        gopro,
        lambda r: shutil.rmtree(r / "test/GOPR0384_11_00/blur_gamma"),
        "error: GoPro test (blur_gamma): 2 pairs, published are 4: incomplete, 2 missing",
    ),
    "gamma for blur": (
        gopro,
        lambda r: each_sequence(r, lambda f: swap(f / "blur", f / "blur_gamma")),
        "error: GoPro train (blur) and GoPro train (blur_gamma): blur is brighter than blur_gamma in 6 of 6.*swapped",
    ),
    "gamma alone called blur": (
        gopro,
        lambda r: each_sequence(r, lambda f: (shutil.rmtree(f / "blur"), rename(f / "blur_gamma", "blur"))),
        "warning: GoPro train (blur): called blur, but by brightness it is blur_gamma: 6 of 6 images",
    ),
    "blur alone called gamma": (
        gopro,
        lambda r: each_sequence(r, lambda f: (shutil.rmtree(f / "blur_gamma"), rename(f / "blur", "blur_gamma"))),
        "warning: GoPro test (blur_gamma): called blur_gamma, but by brightness it is blur: 0 of 4 images",
    ),
    "J and R swapped": (
        lambda r: five_scenes(r),
        lambda r: swap(r / "test/RealBlur_J", r / "test/RealBlur_R"),
        "error: RealBlur-J test and RealBlur-R test: RealBlur-R is brighter than RealBlur-J in 5 of 5.*swapped",
    ),
    "R alone called J": (
        lambda r: five_scenes(r),
        lambda r: (shutil.rmtree(r / "test/RealBlur_J"), rename(r / "test/RealBlur_R", "RealBlur_J")),
        "warning: RealBlur-J test: by brightness it seems to be RealBlur-R",
    ),
    "J alone called R": (
        lambda r: five_scenes(r),
        lambda r: (shutil.rmtree(r / "test/RealBlur_R"), rename(r / "test/RealBlur_J", "RealBlur_R")),
        "warning: RealBlur-R test: by brightness it seems to be RealBlur-J",
    ),
    "8 bit DPDD": (
        dpdd,
        lambda r: rewrite(first(r, "val_c/source/*"), noise()),
        "error: DPDD val: 1 pair not of 16 bits, as published, but 8",
    ),
    "8 bit DPDD, one view": (
        dpdd_restormer,
        lambda r: [rewrite(path, noise()) for path in (r / "test/DPDD/inputR").iterdir()],
        "error: DPDD test: 4 pairs not of 16 bits",
    ),
    "mixed depth": (
        dpdd,
        lambda r: rewrite(first(r, "val_c/source/*"), noise()),
        "warning: DPDD val: mixed bit depths: images 1 of 8 and 7 of 16 bits",
    ),
    "16 bit GoPro": (
        mprnet,
        lambda r: rewrite(first(r, f"{GO}/target/*"), noise(bits=16)),
        "error: GoPro test (blur): 1 pair of 16 bits, where published are 8",
    ),
    "one view missing": (
        dpdd_restormer,
        lambda r: shutil.rmtree(r / "test/DPDD/inputR"),
        "error: DPDD test: only the left one of the two dual-pixel views is there",
    ),
    "an image of a view missing": (
        dpdd_restormer,
        lambda r: first(r, "test/DPDD/inputR/*").unlink(),
        "error: DPDD test: 1 blurred image without a partner: 000",
    ),
    "left and right the same": (
        dpdd_restormer,
        lambda r: copied(first(r, "test/DPDD/inputL/*"), first(r, "test/DPDD/inputR/*")),
        "error: DPDD test: left and right are the same file in 1 pair: 000",
    ),
    "cut short": (mprnet, lambda r: cut(first(r, f"{GO}/input/*")), "1 image unreadable: .*cut short or damaged"),
    "cut short, JPEG": (
        lambda r: pairs(r / "GoPro/test", "abcd", suffix=".jpg"),
        lambda r: cut(first(r, "GoPro/test/input/*")),
        "error: GoPro test (blur): 1 image unreadable: .*cut short or damaged",
    ),
    "JPEG copies": (
        lambda r: pairs(r / "GoPro/test", "abcd", suffix=".jpg"),
        lambda r: None,
        "error: GoPro test (blur): 4 pairs with JPEG or WebP images, published are PNG: a, b, c and 1 more",
    ),
    "rotten inside": (
        mprnet,
        lambda r: first(r, f"{GO}/input/*").write_bytes(rotten(first(r, f"{GO}/input/*"))),
        "error: GoPro test (blur): .*cut short or damaged",
    ),
    "empty file": (mprnet, lambda r: cut(first(r, f"{GO}/input/*"), 0), "1 image unreadable: .* is empty"),
    "a web page": (
        mprnet,
        lambda r: first(r, f"{GO}/input/*").write_text("<html>404"),
        "1 image unreadable: .* is no image but a web page",
    ),
    "a Git LFS pointer": (
        mprnet,
        lambda r: first(r, f"{GO}/input/*").write_text("version https://git-lfs.github.com/spec/v1"),
        "is no image but a Git LFS pointer",
    ),
    "an image in both splits": (
        mprnet,
        lambda r: copied(first(r, "train/GoPro/target/*"), first(r, f"{GO}/target/*")),
        "error: GoPro test (blur) and GoPro train (blur): 1 sharp image in both splits: "
        "GOPR0384_11_00-000000 = GOPR0372_07_00-000000",
    ),
    "a name in both splits": (
        gopro,
        lambda r: rename(r / "train/GOPR0372_07_00", "GOPR0384_11_00"),
        "warning: GoPro test (blur) and GoPro train (blur): 2 names in both splits, of different images",
    ),
    "an empty folder": (
        mprnet,
        lambda r: [path.unlink() for path in (r / GO / "target").iterdir()],
        "error: GoPro test (blur): .*target holds no image",
    ),
    "a folder without its other half": (
        gopro,
        lambda r: shutil.rmtree(r / "test/GOPR0384_11_00/sharp"),
        "error: .*GOPR0384_11_00/blur_gamma is one half of pairs, and the folder of the other is missing",
    ),
    "a database without its other half": (
        mprnet,
        lambda r: (r / "test/GoPro/input_crops.lmdb").mkdir(),
        "error: .*input_crops.lmdb is one half of pairs",
    ),
    "files that are no images": (
        mprnet,
        lambda r: (r / GO / "input" / "list.txt").touch(),
        "warning: GoPro test (blur): 1 files are no images in .*input: list.txt",
    ),
    "folders among the images": (
        mprnet,
        lambda r: (r / GO / "input" / "more").mkdir(),
        "warning: GoPro test (blur): .*input holds sub-folders, which are not read: more",
    ),
    "suffix in capitals": (
        mprnet,
        lambda r: rename(r / GO / "input/GOPR0384_11_00-000000.png", "GOPR0384_11_00-000000.PNG"),
        "warning: GoPro test (blur): 1 file with a suffix in capitals.*000000.PNG",
    ),
    "name in capitals": (
        lambda r: pairs(r / "GoPro/test", ["a", "b", "c", "d"]),
        lambda r: rename(r / "GoPro/test/input/a.png", "A.png"),
        "error: GoPro test (blur): names differ only by case or Unicode form between the folders: a",
    ),
    "Unicode forms": (
        lambda r: pairs(r / "GoPro/test", [unicodedata.normalize("NFC", "ä"), "b", "c", "d"]),
        lambda r: rename(r / "GoPro/test/input/ä.png", unicodedata.normalize("NFD", "ä.png")),
        "error: GoPro test (blur): names differ only by case or Unicode form",
    ),
    "one name with two suffixes": (
        mprnet,
        lambda r: write(r / GO / "input/GOPR0384_11_00-000000.bmp", noise()),
        "error: GoPro test (blur): 1 names occur with two suffixes in .*input: GOPR0384_11_00-000000.png",
    ),
    "a broken link": (
        mprnet,
        lambda r: (r / GO / "input" / "x.png").symlink_to("nowhere.png"),
        "error: GoPro test (blur): 1 links lead nowhere in .*input: x.png",
    ),
    "a link to itself": (
        mprnet,
        lambda r: (r / GO / "input" / "x.png").symlink_to("x.png"),
        "error: GoPro test (blur): 1 links lead nowhere",
    ),
    "a link to a folder above": (
        mprnet,
        lambda r: (r / "test" / "again").symlink_to(r),
        "error: .*again is a link to a folder above it, and is not followed",
    ),
    "blanks in names": (
        lambda r: pairs(r / "GoPro/test", ["a", "b", "c", "d"]),
        lambda r: [rename(r / "GoPro/test" / half / "a.png", "a 1.png") for half in ("input", "target")],
        "warning: GoPro test (blur): 1 name with spaces or non-ASCII letters, which list files split: a 1",
    ),
    "letters beyond ASCII": (
        lambda r: pairs(r / "GoPro/test", ["a", "b", "c", "d"]),
        lambda r: [rename(r / "GoPro/test" / half / "a.png", "模糊.png") for half in ("input", "target")],
        "warning: GoPro test (blur): 1 name with spaces or non-ASCII letters.*模糊",
    ),
    "pairs mixed up": (
        mprnet,
        lambda r: shifted(r / GO / "input"),
        "blurred and sharp seem to show different scenes in",
    ),
    "fewer on the list": (realblur, lambda r: unlist(r), "error: RealBlur-J test: 1 pair, published are 2"),
    "on no list": (
        realblur,
        lambda r: unlist(r),
        "error: RealBlur-J test: 1 image on no published list: scene050/blur_2",
    ),
    "on no list, and no partner": (
        realblur,
        lambda r: (unlist(r), (first(r, "*-J_*/scene050/gt") / "gt_2.png").unlink()),
        "error: RealBlur-J test: 1 blurred image without a partner: scene050/blur_2",
    ),
    "listed but not there": (
        realblur,
        lambda r: [first(r, f"*-J_*/scene050/{half}/*").unlink() for half in ("gt", "blur")],
        "error: RealBlur-J test: 1 image of the published list missing: scene050/1",
    ),
    "no lists": (
        lambda r: realblur(r, "J", lists=False),
        lambda r: None,
        "warning: RealBlur-J: no folder or list names the split; 6 pairs is the number of all splits together",
    ),
    "no lists, and too few": (
        lambda r: realblur(r, "J", lists=False),
        lambda r: shutil.rmtree(first(r, "*/scene001")),
        "warning: RealBlur-J: no folder or list names the split; 4 pairs is the number of train",
    ),
    "no split, and no published number": (
        lambda r: pairs(r / "GoPro", ["a"]),
        lambda r: None,
        "error: GoPro: 1 pair in no named split; published are 6 train, 4 test|GoPro (blur): 1 pair in no named split",
    ),
    "a split that was not published": (
        lambda r: pairs(r / "GoPro/val", ["a"]),
        lambda r: None,
        "there is no published split val, only train, test",
    ),
    "other crops": (
        lambda r: crops(r, ("1_s001", "1_s002"))[0],
        lambda r: None,
        "warning: GoPro train (blur, crops, LMDB): 2 crops, where 512 x 512 every 256 pixels give 3",
    ),
    "half of a database": (
        lambda r: crops(r)[0],
        lambda r: cut(r / "GoPro/train/blur_crops.lmdb/data.mdb"),
        "error: GoPro train (blur, crops, LMDB): .*data.mdb is cut short",
    ),
    "a list that invents a size": (
        lambda r: crops(r, meta={0: "000001_s001.png (512,512,3) 1"})[0],
        lambda r: None,
        "1 image unreadable: .*is 24 x 40 and its meta_info.txt says 512 x 512",
    ),
    "a list that names others": (
        lambda r: crops(r, meta={0: "other.png (24,40,3) 1"})[0],
        lambda r: None,
        "error: GoPro train (blur, crops, LMDB): 1 sharp image without a partner: 000001_s001",
    ),
    "a database of labels": (
        lambda r: database(r / "GoPro/train/sharp_crops.lmdb", {"a": b"{}"}),
        lambda r: database(r / "GoPro/train/blur_crops.lmdb", {"a": encoded(noise())}),
        "1 image unreadable: .*sharp_crops.lmdb:a is no image but text",
    ),
}


def shrink(folder, name):
    for half in ("input", "target"):
        rewrite(folder / half / f"{name}.png", noise(20, 30))


def unlist(root):
    """Takes the last pair off the test list of RealBlur-J."""
    path = root / "RealBlur_J_test_list.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def five_scenes(root):
    for kind, gain in (("J", 0.7), ("R", 0.1)):
        pairs(root / "test" / f"RealBlur_{kind}", [f"scene00{k}-1" for k in range(5)], camera=Camera(gain=gain))


def rewrite_as_tiff(target, source):
    """The pixels of `source` in place of `target`, in another format."""
    import cv2

    target.unlink()
    write(target.with_suffix(".tif"), cv2.imread(str(source), cv2.IMREAD_UNCHANGED))


def shifted(folder):
    """Every image under the name of the next: as where two lists are sorted differently."""
    paths = sorted(folder.iterdir())
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_named(tmp_path, defect):
    make, spoil, said = DEFECTS[defect]
    make(tmp_path)
    small = dict(SMALL)
    if "RealBlur_J" in {path.name for path in (tmp_path / "test").glob("*")} and make is not mprnet:
        small |= {f"RealBlur-{kind}": SMALL[f"RealBlur-{kind}"]._replace(counts={"test": 5}) for kind in "JR"}
    spoil(tmp_path)
    report = verify(tmp_path, published=small)
    lines = [str(finding) for finding in report.findings]
    assert any(matches(one, line) for one in said.split("|") for line in lines), "\n".join(lines)
    assert all("\n" not in line for line in lines)


def test_folders_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    mprnet(tmp_path)
    real = {"scandir": os.scandir, "listdir": os.listdir}

    def refusing(kind, name):
        def refuse(folder):
            if Path(folder).name == name:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            return real[kind](folder)

        return refuse

    (tmp_path / "private").mkdir()
    monkeypatch.setattr(os, "scandir", refusing("scandir", "private"))
    (error,) = verify(tmp_path, published=SMALL).errors
    assert str(error).endswith("private cannot be searched: Permission denied")
    monkeypatch.setattr(os, "scandir", real["scandir"])
    monkeypatch.setattr(os, "listdir", refusing("listdir", "target"))
    said = [str(error) for error in verify(tmp_path, published=SMALL).errors]
    assert sum(line.endswith("target cannot be read: Permission denied") for line in said) == 5


def matches(said, line):
    """Whether the parts of `said`, which `.*` separates, come in the line in that order."""
    return re.search(".*".join(map(re.escape, said.split(".*"))), line) is not None


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("power", "kind"), [(1.0, "blur"), (2.2, "blur_gamma")])
def test_the_mean_that_averaging_keeps_tells_the_kind_of_blur(bits, power, kind):
    camera = Camera(bits)
    measured = {}
    for k in range(8):
        blurred, sharp = camera.pair(power)
        measured[str(k)] = measure(as_tensor(blurred), as_tensor(sharp))
    assert kind_of_blur(measured)[0] == kind
    assert kind_of_blur(dict(list(measured.items())[:3]))[0] is None


def test_images_without_blur_tell_nothing_of_its_kind():
    sharp = as_tensor(noise())
    assert kind_of_blur({str(k): measure(sharp, sharp) for k in range(9)})[0] is None


def test_an_incomplete_copy_that_is_known_is_called_so(tmp_path):
    facts = {"HIDE": PUBLISHED["HIDE"]._replace(size=None)}
    linked(tmp_path / "test" / "HIDE", 1079)
    (finding,) = verify(tmp_path, published=facts).findings
    assert str(finding).startswith(
        "error: HIDE test: 1079 pairs, published are 2025: incomplete, 946 missing, as in an"
    )


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evssm", "data", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_the_command_ends_with_0_for_a_whole_copy_and_says_what_it_did(run, tmp_path):
    linked(tmp_path / "test" / "RealBlur_J", 980)
    status, out, err = run("verify", tmp_path)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "1 set, 980 pairs, 16 of them decoded: nothing wrong"
    assert "980    980        16" in out


def test_the_command_ends_with_2_and_a_line_for_each_finding(run, tmp_path):
    linked(tmp_path / "test" / "RealBlur_J", 979)
    (tmp_path / "test" / "RealBlur_J" / "input" / "00000.png").unlink()
    status, out, err = run("verify", tmp_path)
    assert status == 2
    *findings, summary = err.splitlines()
    assert findings == [
        "error: RealBlur-J test: 1 sharp image without a partner: 00000",
        "error: RealBlur-J test: 978 pairs, published are 980: incomplete, 2 missing",
    ]
    assert summary == "1 set, 978 pairs, 16 of them decoded: 2 errors, 0 warnings"
    assert "978" in out


def test_warnings_fail_only_when_they_are_asked_to(run, tmp_path):
    pairs(tmp_path / "mine", ["a 1"])
    status, out, err = run("verify", tmp_path)
    assert status == 0
    assert err.startswith("warning: mine: 1 name with spaces")
    assert out.splitlines()[-1].endswith("0 errors, 1 warning; no published number to compare with for mine")
    assert run("verify", tmp_path, "--strict")[0] == 2
    status, _, err = run("verify", tmp_path, "--dataset", "hide", "--all")
    assert status == 2
    assert "HIDE: 1 pair in no named split; published are 6397 train, 2025 test" in err


@pytest.mark.parametrize("root", ["nowhere", "."])
def test_the_command_refuses_what_holds_no_data_set_in_one_line(run, tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("verify", root)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("evssm: ")


def test_the_list_shows_every_layout_and_every_published_number(run):
    status, out, err = run("list")
    assert (status, err) == (0, "")
    assert "GOPRO_Large/{train,test}/SEQUENCE/{blur,blur_gamma,sharp}" in out
    for facts in PUBLISHED.values():
        assert all(f"{split} {count}" in out for split, count in facts.counts.items())
