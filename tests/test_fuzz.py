"""Files of any content: a reader gives what is in the file, or says in a line that names the file what is wrong.

More inputs: `EVSSM_FUZZ=100000 python -m pytest tests/test_fuzz.py`.
"""

import io
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as serialised

from analysis.attribution import load_attributions
from analysis.field import ERF
from analysis.kept_rows import load_rows
from evssm import build, load, save
from evssm.images import decode_image
from evssm.ledger import Ledger, read_ledger
from evssm.training.checkpoint import Checkpoint
from evssm.weights import from_official, to_official

many = settings(max_examples=int(os.environ.get("EVSSM_FUZZ", "60")))

edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "cut", "repeat", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"PK\x03\x04"])),
    ),
    max_size=4,
)


def edited(data, changes):
    """`data`, damaged: pieces overwritten, put in, cut off, repeated or swapped, the first kilobyte most of all."""
    data = bytes(data)
    for kind, where, piece in changes:
        place = int(where**3 * len(data))
        if kind == "overwrite":
            data = data[:place] + piece + data[place + len(piece) :]
        elif kind == "insert":
            data = data[:place] + piece + data[place:]
        elif kind == "cut":
            data = data[: max(place, 1)]
        elif kind == "repeat":
            data = data[:place] + data[max(0, place - 64) :]
        else:
            data = data[place : place + 16] + data[16:place] + data[:16] + data[place + 16 :]
    return data


def images():
    """A small picture in every format that is read, and in some that are not."""
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (18, 17, 3), dtype=np.uint8))
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (18, 17), dtype=np.uint16))
    made = []
    for picture, kinds in (
        (colours, ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "ICO")),
        (grey, ("PNG", "TIFF")),
    ):
        for kind in kinds:
            file = io.BytesIO()
            picture.save(file, kind)
            made.append(file.getvalue())
    return [*made, b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a"]


def one_line_about(error, name):
    assert "\n" not in str(error)
    assert name in str(error)


@many
@given(st.sampled_from(images()), edits)
def test_an_image_is_read_whole_or_refused(data, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            x = decode_image(edited(data, changes), "odd name.png")
        except ValueError as error:
            one_line_about(error, "odd name.png")
        else:
            assert x.dtype == torch.float32
            assert x.shape[0] == 3
            assert 0 <= float(x.min()) <= float(x.max()) <= 1


class Trap:
    """Runs code where it is unpickled carelessly."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Our own weights and official ones in every container, and traps in two of them."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    net = build("nafnet-compact", width=2, encoder_depths=(1,), middle_depth=1, decoder_depths=(1,))
    state = to_official(net)
    made = [save(net, folder / "own.safetensors").read_bytes(), serialised(state)]
    for content in (state, {"params": state, "trap": Trap()}):
        file = io.BytesIO()
        torch.save(content, file)
        made.append(file.getvalue())
    made += [pickle.dumps({"trap": Trap()}), (10**12).to_bytes(8, "little") + b"{" + bytes(100)]
    made.append(
        (40).to_bytes(8, "little")
        + json.dumps({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}}).encode()
    )
    return folder, made


@many
@given(st.integers(0, 6), edits, st.booleans())
def test_weights_are_read_whole_or_refused_and_nothing_runs(checkpoints, which, changes, own):
    folder, made = checkpoints
    path = folder / "odd name.pth"
    path.write_bytes(edited(made[which], changes))
    read = load if own else lambda path: from_official("nafnet-compact", path)
    try:
        net = read(path)
    except ValueError as error:
        one_line_about(error, "odd name.pth")
    else:
        assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())
    assert not Trap.sprung


def test_the_trap_springs_for_whoever_is_careless():
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A file of each kind that a run goes on from, and its reader."""
    folder = tmp_path_factory.mktemp("results")
    noise = np.random.default_rng(0).random((1, 4, 5))
    ERF(noise, np.ones(1), noise[0], {"a": 1}).save(folder / "field.npz")
    Checkpoint({"seed": 0}, 1, {"a": torch.ones(3)}, {}, {}).save(folder / "state.pt")
    Ledger(folder / "rows.csv", {"data": "a"}, ("name", "psnr")).append({"name": "a", "psnr": 1.0})
    readers = {
        "field.npz": (ERF.load, load_rows, load_attributions),
        "state.pt": (lambda path: Checkpoint.load(path, {"seed": 0}),),
        "rows.csv": (read_ledger,),
    }
    return [(folder, (folder / name).read_bytes(), reader) for name, of_file in readers.items() for reader in of_file]


@many
@given(st.integers(0, 4), edits)
def test_what_a_run_goes_on_from_is_read_or_refused(results, which, changes):
    folder, data, reader = results[which]
    path = Path(folder) / "odd name"
    path.write_bytes(edited(data, changes))
    try:
        reader(path)
    except ValueError as error:
        one_line_about(error, "odd name")
