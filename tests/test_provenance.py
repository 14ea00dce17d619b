"""What is said about weights, and files that are whole or absent."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from evssm.provenance import (
    Provenance,
    existing_file,
    file_sha256,
    kind_of_content,
    sha256_of,
    written_whole,
)

TRAINED = Provenance("evssm-compact", "trained", "ab" * 32, data="synthetic shake", steps=2000, seed=3)


def test_a_provenance_survives_being_written_as_json_values():
    assert Provenance.from_dict(TRAINED.as_dict()) == TRAINED


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": "trained"}, "unknown: 'weight'"),
        ({"sha256": ...}, "missing: sha256"),
        ({"steps": "2000"}, "of the wrong type: steps='2000'"),
        ({"steps": True}, "of the wrong type: steps=True"),
        ({"weights": "fine-tuned"}, "untrained, trained, official release"),
    ],
)
def test_a_wrong_field_is_named(change, complaint):
    values = {k: v for k, v in {**TRAINED.as_dict(), **change}.items() if v is not ...}
    with pytest.raises(ValueError, match=complaint):
        Provenance.from_dict(values)


def test_untrained_weights_cannot_have_been_trained_for_steps():
    with pytest.raises(ValueError, match="2000 steps"):
        replace(TRAINED, weights="untrained")
    assert not replace(TRAINED, weights="untrained", steps=0).trained
    assert TRAINED.trained
    assert replace(TRAINED, weights="official release").trained


def test_the_hash_is_that_of_name_type_shape_and_bytes_in_the_order_of_names():
    state = {"b": torch.arange(3.0), "a": torch.tensor(7)}
    text = b"a\ntorch.int64\n()\n" + np.int64(7).tobytes()
    text += b"b\ntorch.float32\n(3,)\n" + np.arange(3, dtype=np.float32).tobytes()
    assert sha256_of(state) == hashlib.sha256(text).hexdigest()


def test_the_hash_ignores_order_and_memory_layout_and_nothing_else():
    x = torch.rand(2, 3, 4, 5)
    same = [
        {"x": x, "y": x[0]},
        {"y": x[0].clone(), "x": x.to(memory_format=torch.channels_last)},
        {"x": nn.Parameter(x), "y": x.flip(0)[1]},
    ]
    other = [
        {"x": x, "z": x[0]},
        {"x": x.double(), "y": x[0]},
        {"x": x.reshape(2, 3, 20), "y": x[0]},
        {"x": x.nextafter(x + 1), "y": x[0]},
    ]
    assert len({sha256_of(state) for state in same}) == 1
    assert len({sha256_of(state) for state in [same[0], *other]}) == 1 + len(other)


def test_a_provenance_describes_a_network_until_a_weight_changes():
    net = nn.Linear(3, 2)
    origin = replace(TRAINED, tensors_sha256=sha256_of(net.state_dict()))
    assert origin.describes(net)
    with torch.no_grad():
        net.bias[0] += 1
    assert not origin.describes(net)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 999)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(bytes(range(256)) * 999).hexdigest()


def test_a_missing_file_is_told_with_its_neighbours(tmp_path):
    (tmp_path / "net_g_GoPro.pth").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"net_g_gopro\.pth; near it: net_g_GoPro\.pth"):
        existing_file(tmp_path / "net_g_gopro.pth", "a checkpoint")
    with pytest.raises(FileNotFoundError, match="no folder"):
        existing_file(tmp_path / "nowhere" / "net.pth", "a checkpoint")
    assert existing_file(str(tmp_path / "net_g_GoPro.pth"), "a checkpoint") == tmp_path / "net_g_GoPro.pth"


def test_folders_pipes_and_empty_files_are_no_files_to_read(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, complaint in (("", "a folder"), ("empty", "0 bytes"), ("pipe", "a pipe")):
        with pytest.raises(ValueError, match=complaint):
            existing_file(tmp_path / name, "an image")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x1f\x8brest", "gzip"),
        (b"\x80\x04rest", "pickle"),
        (b"\x89PNG\r\n", "an image"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        ("# größe\n".encode(), "text that begins '# größe'"),
        (b"\x00\x01\x02\xff", "first bytes 00 01 02 ff"),
    ],
)
def test_content_is_recognised_by_its_beginning(data, kind):
    assert kind in kind_of_content(data)


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "result.txt"
    with written_whole(path) as part:
        part.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), written_whole(path) as part:  # noqa: PT012 (broken off half-way)
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it first"), written_whole(tmp_path / "a" / "b"):
        pytest.fail("the block must not run")
    with pytest.raises(ValueError, match="a folder"), written_whole(tmp_path):
        pytest.fail("the block must not run")
