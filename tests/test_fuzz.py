"""Files of any content: a reader gives what is in the file, or says in a line that names the file what is wrong.

More inputs: `EVSSM_FUZZ=100000 python -m pytest tests/test_fuzz.py`, and led by what they reach,
`tests/benchmarks/fuzz.py`.
"""

import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import READERS, Trap

from evssm.provenance import Provenance
from evssm.training.recipes import TrainConfig

CORPUS = Path(__file__).parent / "corpus"
many = settings(max_examples=int(os.environ.get("EVSSM_FUZZ", "60")))

edits = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "cut", "repeat", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"PK\x03\x04"])),
    ),
    max_size=4,
)


def seeds(kind):
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


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


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_seed_is_read_or_refused(path):
    READERS[path.parent.name](path.read_bytes())


@many
@given(st.sampled_from(seeds("images")), edits)
def test_an_image_is_read_whole_or_refused(data, changes):
    READERS["images"](edited(data, changes))


@many
@given(st.sampled_from(seeds("checkpoints")), edits)
def test_weights_are_read_whole_or_refused_and_nothing_runs(data, changes):
    READERS["checkpoints"](edited(data, changes))


def test_the_trap_springs_for_whoever_is_careless():
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False


def test_a_reader_that_fails_is_noticed(monkeypatch):
    monkeypatch.setattr("readers.decode_image", lambda data, name: json.loads("{")[0])
    with pytest.raises(AssertionError, match="Expecting property name"):
        READERS["images"](b"")
    monkeypatch.setattr("readers.decode_image", lambda data, name: [][0])
    with pytest.raises(AssertionError, match="IndexError instead of a refusal"):
        READERS["images"](b"")


@many
@given(st.sampled_from(seeds("results")), edits)
def test_what_a_run_goes_on_from_is_read_or_refused(data, changes):
    READERS["results"](edited(data, changes))


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
nested = st.recursive(plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))
known = {**TrainConfig().as_dict(), "model": "nafnet", "weights": "trained", "sha256": "", "tensors_sha256": None}
known |= {"format": 1, "name": "nafnet-compact", "overrides": {"width": 2}, "provenance": {}, "packed": "torch.float32"}


def changed(values):
    """A description of some of the known settings, with other values in place of some."""
    return {**{key: known[key] for key in values[0]}, **values[1]}


keys = st.sampled_from(sorted(known))
described = st.tuples(st.lists(keys), st.dictionaries(keys | st.text(max_size=4), nested, max_size=4)).map(changed)


@many
@given(
    st.one_of(
        st.tuples(st.sampled_from(seeds("settings")), edits).map(lambda one: edited(*one)),
        st.one_of(described, nested).map(lambda values: json.dumps(values).encode()),
    )
)
def test_settings_are_read_or_refused(data):
    READERS["settings"](data)


@given(st.sampled_from(sorted(TrainConfig().as_dict())), nested)
def test_a_recipe_has_the_kinds_of_its_defaults_or_is_refused(name, value):
    default = TrainConfig().as_dict()
    made, refusal = default, ""
    try:
        made = TrainConfig.from_dict({**default, name: value}).as_dict()
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert name in refusal or type(value) is type(default[name])
    else:
        assert type(made[name]) is type(default[name])
        assert made[name] == value or value != value


def test_a_provenance_of_other_kinds_is_refused():
    with pytest.raises(ValueError, match="of the wrong type: steps='many'"):
        Provenance.from_dict({"model": "a", "weights": "trained", "sha256": "", "steps": "many"})
