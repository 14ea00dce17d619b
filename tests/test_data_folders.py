"""Readers of published data sets: recognised in each real layout, exact, labelled, and never a guess."""

import os
import pickle
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_layouts import (
    SEQUENCES,
    Camera,
    as_tensor,
    crops,
    database,
    dpdd,
    dpdd_restormer,
    encoded,
    gopro,
    hide,
    mprnet,
    pairs,
    realblur,
    views,
    write,
)

from evssm.data.contents import bare_name, partners
from evssm.data.folders import paired_folder
from evssm.data.layouts import PLAIN, SPECIAL
from evssm.data.lmdb import LmdbImages
from evssm.data.pairs import Pairs, each
from evssm.data.published import SPLITS, named_dataset, named_sequence
from evssm.data.recognise import recognise
from evssm.data.sets import find_sets


def found(root, **kwargs):
    return {
        (s.label.dataset, s.label.split, s.label.variant): len(s.listing.items) for s in find_sets(root, **kwargs)[0]
    }


LAYOUTS = {
    "gopro": (
        lambda root: gopro(root / "GOPRO_Large"),
        {("GoPro", s, v): n for s, n in (("train", 6), ("test", 4)) for v in ("blur", "blur_gamma")},
    ),
    "mprnet": (
        lambda root: mprnet(root / "Datasets"),
        {
            ("GoPro", "train", "blur"): 6,
            ("GoPro", "test", "blur"): 4,
            ("HIDE", "test", "blur"): 4,
            ("RealBlur-J", "test", "blur"): 2,
            ("RealBlur-R", "test", "blur"): 2,
        },
    ),
    "hide": (lambda root: hide(root / "HIDE_dataset"), {("HIDE", "train", "blur"): 3, ("HIDE", "test", "blur"): 4}),
    "realblur": (
        lambda root: realblur(root / "RealBlur"),
        {(f"RealBlur-{k}", s, "blur"): n for k in "JR" for s, n in (("train", 4), ("test", 2))},
    ),
    "dpdd": (
        lambda root: dpdd(root / "dd_dp_dataset_png"),
        {("DPDD", s, "blur"): n for s, n in (("train", 3), ("val", 2), ("test", 4))},
    ),
    "dpdd_restormer": (lambda root: dpdd_restormer(root / "Datasets"), {("DPDD", "test", "blur"): 4}),
    "lmdb": (lambda root: crops(root / "datasets")[0], {("GoPro", "train", "blur"): 3}),
    "evssm_test_script": (
        lambda root: pairs(root / "data" / "test", ["a", "b"]).parent,
        {(None, "test", "blur"): 2},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised_from_above_and_unrelated_things_do_not_matter(tmp_path, layout):
    make, expected = LAYOUTS[layout]
    root = make(tmp_path)
    assert found(root) == expected
    assert found(tmp_path) == expected
    rng = np.random.default_rng()
    folders = [folder for folder in root.rglob("*") if folder.is_dir() and not any(folder.glob("*.[pm][nd]*"))]
    for k, folder in enumerate([root, *folders]):  # not among the images: beside them
        (folder / f"README{k}.txt").write_text("read me")
        (folder / f"results_{rng.integers(1000)}").mkdir()
        write(folder / f"results_{k} new" / "picture.png", Camera().pair()[0])
        (folder / ".cache").mkdir()
    assert found(root) == expected


ROLES = {part.lower() for row in (*SPECIAL, *PLAIN) for path in row[1:5] for part in path.split("/")}
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name.lower() not in {*ROLES, *SPLITS, ".", ".."} and not (named_dataset(name) or named_sequence(name))
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(NAMES, st.booleans(), st.integers(0, 99)), max_size=8))
def test_no_name_of_an_unrelated_file_or_folder_changes_what_is_recognised(extras):
    with TemporaryDirectory() as folder:
        root = hide(mprnet(Path(folder)) / "HIDE_dataset").parent
        expected = found(root)
        homes = [root, *(root / place for place in ("test", "test/GoPro", "train/GoPro", "HIDE_dataset", "test/HIDE"))]
        for name, is_folder, place in extras:
            path = homes[place % len(homes)] / name
            if not path.exists() and not path.is_symlink():
                path.mkdir() if is_folder else path.touch()
        assert found(root) == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_the_search_begins_does_not_change_what_a_set_is(tmp_path, layout):
    make, _ = LAYOUTS[layout]
    make(tmp_path)
    for group in recognise(tmp_path).groups:
        again = {(g.dataset, g.split, g.scene, g.variant, g.single, g.sharp) for g in recognise(group.base).groups}
        assert (group.dataset, group.split, group.scene, group.variant, group.single, group.sharp) in again


def test_pairs_are_those_of_the_files_in_order_of_names(tmp_path):
    made = {}
    for name in ("b 2", "ä", "a_1"):
        made[name] = Camera().pair()
        write(tmp_path / "test" / "input" / f"{name}.png", made[name][0])
        write(tmp_path / "test" / "target" / f"{name}.PNG", made[name][1])
    read = paired_folder(tmp_path)
    assert read.names == sorted(made)
    assert len(read) == 3
    for name, pair in zip(read.names, read, strict=True):
        assert pair.name == name
        assert torch.equal(pair.blurred, as_tensor(made[name][0]))
        assert torch.equal(pair.sharp, as_tensor(made[name][1]))
    assert torch.equal(read[-1].sharp, read[2].sharp)
    with pytest.raises(IndexError):
        read[3]


def test_gopro_offers_blur_unless_asked_for_blur_gamma(tmp_path):
    root = gopro(tmp_path / "GOPRO_Large")
    blur = paired_folder(root, split="test")
    gamma = paired_folder(root, split="test", variant="blur_gamma")
    assert (str(blur.label), str(gamma.label)) == ("GoPro test (blur, single)", "GoPro test (blur_gamma, single)")
    assert blur.names == gamma.names == sorted(f"{SEQUENCES['test'][k % 2]}/{k:06d}" for k in range(4))
    for a, b in zip(blur, gamma, strict=True):
        assert torch.equal(a.sharp, b.sharp)
        assert b.blurred.mean() > a.blurred.mean()  # a power mean lies above the mean


def test_a_sequence_without_one_variant_still_belongs_to_the_set_of_the_other(tmp_path):
    gopro(tmp_path)
    shutil.rmtree(tmp_path / "test" / SEQUENCES["test"][1] / "blur_gamma")
    assert len(paired_folder(tmp_path, split="test")) == 4
    assert len(paired_folder(tmp_path, split="test", variant="blur_gamma")) == 2


def test_a_scene_that_lost_its_sharp_folder_is_not_left_out_in_silence(tmp_path):
    gopro(tmp_path)
    shutil.rmtree(tmp_path / "test" / SEQUENCES["test"][1] / "sharp")
    with pytest.raises(ValueError, match="blur is one half of pairs"):
        paired_folder(tmp_path, split="test")
    assert len(paired_folder(tmp_path, split="train")) == 6


def test_dpdd_keeps_every_level_of_16_bits(tmp_path):
    levels = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    picture = np.stack([levels, levels.T, levels[::-1]], axis=2)
    for folder in ("inputC", "target"):
        write(tmp_path / "test" / "DPDD" / folder / "000.png", picture)
    blurred, sharp, _ = paired_folder(tmp_path, dataset="DPDD")[0]
    assert len(blurred[0].unique()) == 65536
    back = (sharp.double() * 65535).round().permute(1, 2, 0).numpy()[..., ::-1]
    assert np.array_equal(back, picture)


@pytest.mark.parametrize("make", [dpdd, dpdd_restormer])
def test_single_and_dual_pixel_views_are_modes_with_labels(tmp_path, make):
    root = make(tmp_path / "data")
    single = paired_folder(root, dataset="dpdd", split="test")
    dual = paired_folder(root, dataset="dpdd", split="test", mode="dual-pixel")
    assert (str(single.label), str(dual.label)) == ("DPDD test (single)", "DPDD test (dual-pixel)")
    assert single[0].blurred.shape[0] == 3
    assert dual[0].blurred.shape[0] == 6
    assert torch.equal(single[0].sharp, dual[0].sharp)
    middle = (dual[0].blurred[:3] + dual[0].blurred[3:]) / 2
    off = (single[0].blurred - middle).abs().mean()
    assert off < (dual[0].blurred[:3] - dual[0].blurred[3:]).abs().mean()


def test_left_comes_first(tmp_path):
    blurred, sharp = views(Camera(16))
    for folder, levels in (("inputL", blurred["l"]), ("inputR", blurred["r"]), ("target", sharp)):
        write(tmp_path / "DPDD" / folder / "a.png", levels)
    (pair,) = paired_folder(tmp_path, mode="dual-pixel")
    assert torch.equal(pair.blurred, torch.cat([as_tensor(blurred["l"]), as_tensor(blurred["r"])]))


def test_one_view_alone_is_never_taken_for_the_single_one(tmp_path):
    dpdd(tmp_path / "dd")
    assert paired_folder(tmp_path / "dd" / "test_c").label.dataset == "DPDD"
    for view in "lr":
        with pytest.raises(ValueError, match=r"only the views (left|right); use mode='dual-pixel'"):
            paired_folder(tmp_path / "dd" / f"test_{view}")


def test_realblur_keeps_j_and_r_apart_and_follows_the_lists(tmp_path):
    realblur(tmp_path)
    for kind in "JR":
        test = paired_folder(tmp_path, dataset=f"RealBlur_{kind}", split="test")
        assert str(test.label) == f"RealBlur-{kind} test (single)"
        assert test.names == ["scene050/blur_1", "scene050/blur_2"]
    both = [paired_folder(tmp_path, dataset=f"RealBlur-{kind}", split="test")[0].sharp.mean() for kind in "JR"]
    assert both[0] > 2 * both[1]


def test_databases_give_what_was_put_in(tmp_path):
    root, made = crops(tmp_path)
    read = paired_folder(root)
    assert str(read.label) == "GoPro train (blur, single, crops, LMDB)"
    assert read.names == sorted(made)
    for pair in read:
        assert torch.equal(pair.blurred, as_tensor(made[pair.name][0]))
        assert torch.equal(pair.sharp, as_tensor(made[pair.name][1]))


@pytest.mark.parametrize("make", [lambda root: crops(root)[0], lambda root: pairs(root, ["a", "b"])])
def test_a_folder_of_pairs_travels_to_other_processes(tmp_path, make):
    read = paired_folder(make(tmp_path))
    assert isinstance(read, Pairs)
    sent = pickle.loads(pickle.dumps(read))
    assert sent.label == read.label
    for there, here in zip(sent, each(read), strict=True):
        assert there.name == here.name
        assert torch.equal(there.blurred, here.blurred)
        assert torch.equal(there.sharp, here.sharp)


def test_files_and_databases_of_one_set_are_told_apart_on_demand(tmp_path):
    root, made = crops(tmp_path)
    for name, (b, s) in made.items():
        write(root / "GoPro" / "train" / "blur_crops" / f"{name}.png", b)
        write(root / "GoPro" / "train" / "sharp_crops" / f"{name}.png", s)
    pairs(root / "GoPro" / "train", ["000001"], "blur", "sharp")
    with pytest.raises(ValueError, match="holds 3 sets"):
        paired_folder(root)
    with pytest.raises(ValueError, match="holds 2 sets with variant=blur, crops=True"):
        paired_folder(root, crops=True)
    for storage in ("files", "lmdb"):
        read = paired_folder(root, crops=True, storage=storage)
        assert torch.equal(read[0].blurred, as_tensor(made[read.names[0]][0]))
    assert paired_folder(root, crops=False).names == ["000001"]


def test_a_name_for_unnamed_folders_yields_to_folders_of_that_name(tmp_path):
    pairs(tmp_path / "mine", ["a"])
    assert paired_folder(tmp_path, dataset="gopro").label.dataset == "GoPro"
    assert paired_folder(tmp_path, dataset="holidays").label.dataset == "holidays"
    pairs(tmp_path / "GoPro", ["b"])
    assert paired_folder(tmp_path, dataset="gopro").names == ["b"]
    with pytest.raises(ValueError, match=r"no HIDE under .*GoPro"):
        paired_folder(tmp_path / "GoPro", dataset="HIDE")


@pytest.mark.parametrize(
    ("make", "asked", "part"),
    [
        (lambda root: None, {}, "no known layout under .* holds nothing.*Known: GoPro, original"),
        (lambda root: pairs(root / "x", ["a"], "input", "result"), {}, "no known layout"),
        (lambda root: pairs(root, ["a"]), {"mode": "dual-pixel"}, "no left and no right view.*mode='single'"),
        (lambda root: pairs(root, ["a"]), {"mode": "stereo"}, "single, dual-pixel"),
        (lambda root: pairs(root, ["a"]), {"storage": "zip"}, "'files' or 'lmdb'"),
        (lambda root: pairs(root, ["a"]), {"variant": "gamma"}, "blur, blur_gamma"),
        (lambda root: pairs(root, ["a"]), {"variant": "blur_gamma"}, "nothing with variant=blur_gamma, but"),
        (
            lambda root: pairs(root / "GoPro" / "test", ["a"]),
            {"split": "train"},
            "nothing with .*split=train, but GoPro test",
        ),
        (lambda root: mprnet(root), {}, "holds 5 sets"),
        (lambda root: (pairs(root, ["a"]), pairs(root, ["a"], "blur", "sharp")), {}, "can be read as"),
        (lambda root: (pairs(root, ["a"]), pairs(root, ["a"], "Input")), {}, "differ only by case"),
        (
            lambda root: (pairs(root, ["a"]), (root / "input" / "a.png").unlink()),
            {},
            "1 sharp images without a partner",
        ),
        (lambda root: [(root / folder).mkdir() for folder in ("input", "target")], {}, "no images"),
        (
            lambda root: dpdd_restormer(root / "GoPro").rename(root / "x") and dpdd_shaped(root / "GoPro"),
            {},
            "rename it",
        ),
    ],
)
def test_what_cannot_be_understood_in_one_way_is_refused_in_a_line(tmp_path, make, asked, part):
    make(tmp_path)
    with pytest.raises(ValueError, match=part) as refused:
        paired_folder(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def dpdd_shaped(folder):
    pairs(folder, ["a"], "inputC")
    shutil.rmtree(folder.parent / "x")


def test_a_file_or_nothing_is_no_root(tmp_path):
    (tmp_path / "GoPro.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="unpack it"):
        paired_folder(tmp_path / "GoPro.zip")
    with pytest.raises(FileNotFoundError, match="no folder"):
        paired_folder(tmp_path / "GoPro")
    pairs(tmp_path / "set", ["a"])
    with pytest.raises(ValueError, match="name the folder above it"):
        paired_folder(tmp_path / "set" / "input")


def test_images_of_a_pair_must_be_of_one_size_and_dpdd_of_16_bits(tmp_path):
    pairs(tmp_path / "a", ["x"])
    write(tmp_path / "a" / "input" / "x.png", np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="measure 20 x 30 and 24 x 40"):
        paired_folder(tmp_path / "a")[0]
    pairs(tmp_path / "DPDD" / "test", ["x"], "inputC")
    with pytest.raises(ValueError, match="has 8 bits where DPDD has 16"):
        paired_folder(tmp_path / "DPDD")[0]


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda home: (home / "meta_info.txt").unlink(), "no meta_info.txt"),
        (lambda home: (home / "data.mdb").unlink(), "no data.mdb"),
        (lambda home: (home / "data.mdb").write_bytes(os.urandom(9000)), "no LMDB database"),
        (lambda home: (home / "data.mdb").write_bytes((home / "data.mdb").read_bytes()[:-4096]), "cut short"),
        (lambda home: (home / "data.mdb").write_bytes((home / "data.mdb").read_bytes()[:8192]), "cut short"),
        (lambda home: (home / "meta_info.txt").write_bytes(b"\xff\xfe"), "no text"),
        (lambda home: (home / "meta_info.txt").write_text("a.png 24 40 3\n"), "line 1, is not"),
    ],
)
def test_a_damaged_database_is_refused_in_a_line(tmp_path, spoil, part):
    root, _ = crops(tmp_path)
    spoil(root / "GoPro" / "train" / "blur_crops.lmdb")
    with pytest.raises((ValueError, FileNotFoundError), match=part) as refused:
        paired_folder(root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("meta", "part"),
    [
        ({0: ""}, "holds 3 entries and its meta_info.txt lists 2"),
        ({1: "000001_s001.png (24,40,3) 1"}, "a second time"),
        ({1: "000001_s009.png (24,40,3) 1"}, "blur.*without a partner"),
    ],
)
def test_a_list_that_disagrees_with_the_database_is_refused(tmp_path, meta, part):
    root, _ = crops(tmp_path, meta=meta)
    with pytest.raises(ValueError, match=part.replace("blur.*", "")):
        paired_folder(root)


def test_a_size_that_the_list_invents_is_refused_on_reading(tmp_path):
    root, _ = crops(tmp_path, meta={0: "000001_s001.png (512,512,3) 1"})
    read = paired_folder(root)
    with pytest.raises(ValueError, match=r"is 24 x 40 and its meta_info.txt says 512 x 512"):
        read[0]
    assert read[1].blurred.shape == (3, 24, 40)


def test_a_database_of_something_else_is_refused_on_reading(tmp_path):
    for half in ("input", "target"):
        database(tmp_path / f"{half}.lmdb", {"a": b"{'label': 3}", "b": encoded(Camera().pair()[0])[:-200]})
    read = paired_folder(tmp_path)
    with pytest.raises(ValueError, match=r"input\.lmdb:a is no image but text"):
        read[0]
    with pytest.raises(ValueError, match=r"input\.lmdb:b is an image cut short or damaged"):
        read[1]


def test_a_database_that_the_process_holds_open_is_refused_not_shared(tmp_path):
    import lmdb

    root, _ = crops(tmp_path)
    read = paired_folder(root)
    home = root / "GoPro" / "train" / "blur_crops.lmdb"
    with lmdb.open(str(home), readonly=True, lock=False), pytest.raises(ValueError, match="already open"):
        read[0]
    assert read[0].blurred.shape == (3, 24, 40)


def test_reading_changes_nothing_in_a_database(tmp_path):
    root, _ = crops(tmp_path)
    home = root / "GoPro" / "train" / "blur_crops.lmdb"
    (home / "lock.mdb").unlink()
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    for key in LmdbImages(home).claims:
        LmdbImages(home).content(key)
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_without_the_package_the_message_names_the_extra(tmp_path, monkeypatch):
    import sys

    root, _ = crops(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match=r"evssm-lab\[data\]"):
        paired_folder(root)


def test_names_are_matched_as_they_are_then_without_their_role_then_in_order_only_where_allowed():
    assert partners(["a", "b"], ["b", "c"], by_order=True) == ("by name", {"b": "b"})
    assert partners(["blur_1", "blur_2"], ["gt_2", "gt_1"], by_order=False)[1] == {"blur_1": "gt_1", "blur_2": "gt_2"}
    assert partners(["3", "1"], ["2", "4"], by_order=True) == ("in sorted order", {"1": "2", "3": "4"})
    assert partners(["3", "1"], ["2", "4"], by_order=False) == ("not at all", {})
    assert partners(["3", "1"], ["2"], by_order=True) == ("not at all", {})
    assert partners(["blur_1", "1_blur"], ["gt_1", "gt_2"], by_order=False) == ("not at all", {})
    assert bare_name("scene1_blur-3") == "scene1_3"
    assert bare_name("blurring_target2") == "blurring_target2"
