"""Input that somebody made on purpose, or a system by accident: nothing of it runs, and a line says what it is."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from readers import tiny

from evssm import from_official, load, to_official
from evssm.data.folders import paired_folder
from evssm.deblur import LEDGER, deblur, plan
from evssm.images import LARGEST, read_image
from evssm.weights import save

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path):
    """A folder whose name has a space and letters of three scripts."""
    (tmp_path / "größe 夜 ночь").mkdir()
    return tmp_path / "größe 夜 ночь"


def picture(kind="RGB"):
    return Image.fromarray(np.random.default_rng().integers(0, 256, (20, 28, 3), dtype=np.uint8)).convert(kind)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def refused(read, path, complaint):
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as found:
        read(path)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)


# --- images


def test_links_that_lead_nowhere_are_told_from_missing_files(place):
    (place / "loop.png").symlink_to("loop.png")
    (place / "there.png").symlink_to("back.png")
    (place / "back.png").symlink_to("there.png")
    (place / "gone.png").symlink_to("away.png")
    for name in ("loop", "there", "gone"):
        refused(read_image, place / f"{name}.png", r"is a link to \w+\.png, which leads to no file")
        refused(load, place / f"{name}.png", "is a link to")
        refused(lambda path: plan(path, place / "out"), place / f"{name}.png", "is a link to .* leads nowhere")


def test_a_folder_that_contains_itself_is_gone_through_once(place):
    picture().save(place / "a.png")
    (place / "again").symlink_to(place)
    (place / "again.png").symlink_to("again.png")
    jobs, _ = plan(place, place.parent / "out")
    assert [job.name for job in jobs] == ["a.png"]


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (lambda data: gzip.compress(data), "a gzip archive"),
        (lambda data: packed(data, zipfile.ZipFile), "a zip archive"),
        (lambda data: packed(data, tarfile.open), "a tar archive"),
    ],
)
def test_archives_are_no_images_no_weights_and_no_data_set(place, pack, kind):
    path = place / "photo.png"
    path.write_bytes(pack(encoded(picture(), "PNG")))
    refused(read_image, path, f"no image but {kind}")
    refused(lambda path: from_official("nafnet-compact", path), path, f"{kind}|zip archive of a.png")
    refused(paired_folder, path, "is a file, where the folder of a data set was asked for; unpack it")


def packed(data, opened):
    file = io.BytesIO()
    if opened is zipfile.ZipFile:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png", data)
    else:
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("a.png")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def test_a_file_of_many_gigabytes_is_refused_unread(place):
    path = place / "huge.png"
    with path.open("wb") as file:
        file.write(encoded(picture(), "PNG"))
        file.truncate(16 * LARGEST + 1)  # a hole, which takes no room on the disk
    refused(read_image, path, "too many for an image")


def test_moving_pictures_inks_and_numbers_that_are_none(place):
    path = place / "a.webp"
    path.write_bytes(encoded(picture(), "WEBP", save_all=True, append_images=[picture()]))
    refused(read_image, path, "holds 2 pictures")
    path.write_bytes(encoded(Image.fromarray(np.full((20, 28), np.nan, np.float32)), "TIFF"))
    refused(read_image, path, "has 560 values that are not finite")
    path.write_bytes(encoded(Image.new("CMYK", (28, 20), (255, 0, 0, 0)), "TIFF"))
    red, green, blue = read_image(path).mean(dim=(1, 2)).tolist()
    assert (round(red), round(green), round(blue)) == (0, 1, 1)
    path.write_bytes(encoded(picture("1"), "PNG"))
    assert set(read_image(path).unique().tolist()) <= {0.0, 1.0}


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_name_that_is_no_text_costs_its_own_image_alone(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "in").mkdir()
    picture().save(tmp_path / "in" / "a.png")
    odd = os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.png")
    Path(odd).write_bytes((tmp_path / "in" / "a.png").read_bytes())
    jobs, _ = plan(tmp_path / "in", tmp_path / "out")
    made, failures = deblur(torch.nn.Conv2d(3, 3, 3, padding=1), jobs, tmp_path / "out" / LEDGER)
    assert [path.name for path in made] == ["a.png"]
    assert len(failures) == 1
    assert "\\udcff.png' is no name in UTF-8, which a table needs; rename the file" in failures[0]
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


# --- weights


def official(path):
    return from_official("nafnet-compact", path)


def test_weights_that_share_one_memory_come_apart(place):
    state = to_official(tiny())
    flat = torch.rand(sum(value.numel() for value in state.values()))
    parts = flat.split([value.numel() for value in state.values()])
    shared = {key: part.view(state[key].shape) for key, part in zip(state, parts, strict=True)}
    torch.save({**shared, "intro.bias": shared["ending.weight"].flatten()[:2]}, place / "a.pth")
    net = official(place / "a.pth")
    places = {value.untyped_storage().data_ptr() for value in net.parameters()}
    assert len(places) == len(list(net.parameters()))
    found = to_official(net)
    assert all(torch.equal(found[key], shared[key]) for key in shared if key != "intro.bias")
    assert torch.equal(found["intro.bias"], found["ending.weight"].flatten()[:2])


def test_a_few_bytes_that_stand_for_terabytes_are_refused(place):
    state = to_official(tiny())
    path = place / "a.pth"
    for repeated in (torch.zeros(1).expand(10**6, 10**6), torch.zeros(2 * 10**6).as_strided((10**6, 10**6), (1, 1))):
        torch.save({**state, "intro.weight": repeated}, path)
        refused(official, path, r"1 entries that repeat the same memory.*intro\.weight; save them with \.contiguous")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(file, header)
    refused(official, path, "cut short or damaged")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # in the directory: the size that the entry unpacks to
    content[at : at + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    refused(official, path, rf"has {len(content)} bytes and would unpack to {2**31}, as no weights do")


@pytest.mark.parametrize("length", [99_999_999, 2**31, 2**62])
def test_headers_of_gigabytes_are_not_believed(place, length):
    path = place / "a.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(2**31 + 100)
    refused(official, path, "cut short or damaged|no checkpoint")
    refused(load, path, "cut short or damaged|no checkpoint")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (lambda value: value.to(torch.float8_e4m3fn), "of a type that weights cannot have.*float8"),
        (lambda value: value.to(torch.int8), "of a type that weights cannot have.*int8"),
        (lambda value: value.to("meta"), "no tensors with values"),
        (lambda value: torch.full_like(value, torch.nan), "NaN or infinite values in"),
        (lambda value: value[None, ..., None], "61 misshapen"),
    ],
)
def test_weights_of_other_types_are_refused(place, kind, complaint):
    path = place / "a.pth"
    torch.save({key: kind(value) for key, value in to_official(tiny()).items()}, path)
    refused(official, path, complaint)


def test_wrappers_around_wrappers_end(place):
    inside, state = {}, to_official(tiny())
    inside["params"] = inside
    torch.save(inside, place / "a.pth")
    refused(official, place / "a.pth", r"1 entries that are no tensors with values: params \(dict\)")
    for _ in range(3):
        state = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(state, place / "b.pth")
    assert official(place / "b.pth").provenance.file == "b.pth"


def test_a_training_that_its_file_does_not_describe_is_refused(place):
    from evssm.training.rerun import repeated

    for note in ("trained with love", '{"steps": "many"}', '{"speed": 1}'):
        path = save(tiny(), place / "a.safetensors", data="a", steps=1, seed=0, note=note)
        refused(lambda path: repeated(path, 1), path, "does not say how it was trained")


# --- data sets and settings


def databases(place, write, listed=("a.png (20,28,3) 1",)):
    """A pair of folders `*.lmdb`, filled by `write`, with a list of what they should hold."""
    for half in ("input", "target"):
        home = place / f"{half}.lmdb"
        home.mkdir(parents=True)
        write(home)
        if listed:
            (home / "meta_info.txt").write_text("\n".join(listed))
    return place


def lmdb_of(entries, name=None):
    def write(home):
        lmdb = pytest.importorskip("lmdb")
        with lmdb.open(str(home), max_dbs=2) as database:
            inner = database.open_db(name) if name else None
            with database.begin(write=True, db=inner) as writing:
                for key, value in entries.items():
                    writing.put(key, value)

    return write


@pytest.mark.parametrize(
    ("write", "listed", "complaint"),
    [
        (lmdb_of({b"\0\0\0\1": b"x"}), (), "no database of images as BasicSR makes them"),
        (lmdb_of({b"\0\0\0\1": b"x"}), ("a.png (20,28,3) 1",), "lists a in meta_info.txt but does not hold it"),
        (lmdb_of({b"a": b"\x80\x04N."}), ("a.png (20,28,3) 1",), "is no image but a Python pickle"),
        (lmdb_of({b"a": b"x"}, name=b"a"), ("a.png (20,28,3) 1",), "is no image but something unknown"),
        (lmdb_of({}), ("a.png (20,28,3) 1",), "holds 0 entries and its meta_info.txt lists 1"),
        (
            lambda home: (home / "data.mdb").write_bytes(b"SQLite format 3\0" + bytes(9000)),
            ("a.png (20,28,3) 1",),
            "is no LMDB database that can be read",
        ),
    ],
)
def test_databases_of_another_kind_are_refused(place, write, listed, complaint):
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as found:
        _ = paired_folder(databases(place / "set", write, listed))[0]
    assert "\n" not in str(found.value)
    assert "input.lmdb" in str(found.value)


def test_yaml_is_read_by_dask_alone_which_runs_no_tags(place):
    for package in ("evssm", "analysis", "figures"):
        sources = (path.read_text("utf-8") for path in (ROOT / package).rglob("*.py"))
        assert not [text for text in sources if "import yaml" in text or "from yaml" in text]
    (place / "settings.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {place / 'sprung'}']\n")
    words = [sys.executable, "-m", "evssm", "erf", "nafnet-compact", "--untrained", "--size", "16"]
    words += ["--cluster", "local", "--workers", "1", "--out", str(place / "out")]
    search = os.pathsep.join([str(ROOT), *sys.path])
    there = {**os.environ, "DASK_CONFIG": str(place), "PYTHONPATH": search, "PYTHONUTF8": "1"}
    done = subprocess.run(words, env=there, capture_output=True, text=True)
    assert done.returncode == 2
    assert "\n" not in done.stderr.strip()
    assert "settings.yaml' is malformed" in done.stderr
    assert not (place / "sprung").exists()


@pytest.mark.parametrize("words", [("1 " * 3, "-1"), ("a.png", "(1,2)"), ("{", "}")])
def test_a_list_of_anything_is_named(place, words):
    def write(home):
        (home / "meta_info.txt").write_text(json.dumps(words))

    with pytest.raises(ValueError, match=r"meta_info\.txt, line 1, is not"):
        paired_folder(databases(place / "set", write, ()))
