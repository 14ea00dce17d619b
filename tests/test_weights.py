"""Weights in and out: strict, exact, in one line where they do not fit, and never running what a file holds."""

import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from evssm import weights
from evssm.models import MODELS, build
from evssm.provenance import Provenance, file_sha256, sha256_of
from evssm.weights import PREFIXES, WRAPPERS, bundled, from_official, load, save, to_official

SMALL = {"width": 8, "depths": (1, 1, 1)}
COMPACT = [name for name in MODELS if name.endswith("-compact")]
OFFICIAL = [name for name in COMPACT if MODELS[name].naming is not None]


def trained(name="evssm", **arguments):
    """A network whose every weight has moved away from where it starts."""
    net = build(name, **(arguments or (SMALL if name == "evssm" else {})))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01 * torch.randn_like(p))  # more would let IFAN's chain of filters overflow
    return net.eval()


@pytest.fixture(scope="module")
def net():
    """A network that no test changes."""
    return trained()


@pytest.fixture
def state(net):
    """Its official state dict, a fresh copy."""
    return {key: value.clone() for key, value in to_official(net).items()}


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


# --- official checkpoints


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_weights_make_the_round_trip_bit_for_bit(name):
    net = trained(name)
    state = to_official(net)
    again = from_official(name, state)
    assert same(net, again)
    assert list(to_official(again)) == list(state)
    assert len(state) == len(net.state_dict())
    assert not any(value.requires_grad for value in state.values())
    x = torch.rand(1, 6 if "dual-pixel" in name else 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))


@pytest.mark.parametrize("name", [name for name in COMPACT if name not in OFFICIAL])
def test_a_network_of_our_own_has_no_official_keys(name):
    with pytest.raises(ValueError, match=f"{name} has no official counterpart"):
        to_official(build(name))
    with pytest.raises(ValueError, match=f"{name} has no official counterpart"):
        from_official(name, build(name).state_dict())


@pytest.mark.parametrize("name", COMPACT)
def test_every_network_can_be_laid_out_without_memory(name):
    with torch.device("meta"):
        net = build(name)
    assert all(value.is_meta for value in net.state_dict().values())


@pytest.mark.parametrize("prefix", ["", *PREFIXES, "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_wrappers_and_prefixes_come_off(net, state, wrapper, prefix):
    entries = {prefix + key: value for key, value in state.items()}
    if wrapper:
        entries = {"epoch": 3, "optimizer": {"lr": 1e-4}, wrapper: entries}
    assert same(from_official("evssm", entries), net)


def test_wrappers_may_be_nested_and_the_running_average_comes_first(net, state):
    other = {key: value + 1 for key, value in state.items()}
    assert same(from_official("evssm", {"params": other, "params_ema": state}), net)
    assert same(from_official("evssm", {"model": {"state_dict": state}, "step": 7}), net)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 16, "depths": (1, 2, 3), "ffn_expansion": 2, "bias": True},
        {"width": 8, "depths": (2, 1, 2), "ffn_expansion": 3, "bias": False},
    ],
)
def test_sizes_are_read_from_the_shapes(arguments):
    net = trained("evssm", **arguments)
    again = from_official("evssm", to_official(net))
    assert same(net, again)
    assert {key: again.recipe.overrides[key] for key in arguments} == arguments


def test_overrides_that_leave_the_weights_alone_are_passed_on(state):
    local = from_official("evssm", state, local=(16, 8, 4))
    assert local.recipe.overrides["local"] == (16, 8, 4)
    assert any(stage.window == 16 for stage in local.stages)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_type_of_the_weights_is_kept(kind):
    net = trained().to(kind)
    assert same(from_official("evssm", to_official(net)), net)


def test_mixed_types_become_the_widest(state):
    first = next(iter(state))
    mixed = {key: value if key == first else value.half() for key, value in state.items()}
    again = to_official(from_official("evssm", mixed))
    assert {value.dtype for value in again.values()} == {torch.float32}
    assert all(torch.equal(again[key], mixed[key].float()) for key in mixed)


def test_the_network_does_not_share_memory_with_the_state_dict(state):
    net = from_official("evssm", state)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for value in state.values():
        value.zero_()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_what_does_not_fit_is_grouped_with_three_examples(state):
    keys = list(state)
    for key in keys[-5:]:
        state[f"other.{key}"] = state.pop(key)
    state[keys[0]] = state[keys[0]][:, :, :2]
    with pytest.raises(ValueError, match="does not fit evssm") as found:
        from_official("evssm", state)
    text = str(found.value)
    assert f"5 missing: {', '.join(keys[-5:-2])}, ...;" in text
    assert f"5 unexpected: {', '.join('other.' + key for key in keys[-5:-2])}, ...;" in text
    assert f"1 misshapen: {keys[0]} is 8x3x2x3 instead of 8x3x3x3" in text
    assert "\n" not in text


def test_any_single_missing_or_additional_key_is_refused(state):
    for key in list(state)[:: max(1, len(state) // 6)]:
        with pytest.raises(ValueError, match=re.escape(key)):
            from_official("evssm", {k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=r"1 unexpected: encoder_level1\.block0\.gate"):
        from_official("evssm", {**state, "encoder_level1.block0.gate": torch.ones(3)})


def test_weights_of_another_network_are_recognised(state):
    other = next(name for name in OFFICIAL if not name.startswith("evssm"))
    with pytest.raises(ValueError, match=r"these are the keys of evssm$"):
        from_official(other, state)
    plain = other.removesuffix("-compact")
    with pytest.raises(ValueError, match=f"these are the keys of {plain}"):
        from_official("evssm", to_official(build(other)))


def test_an_override_against_the_shapes_is_named(state):
    with pytest.raises(ValueError, match=r"misshapen.*without width it would"):
        from_official("evssm", state, width=16)
    with pytest.raises(ValueError, match="no argument depth"):
        from_official("evssm", state, depth=3)


def test_an_unknown_network_is_told_with_its_neighbours(state):
    with pytest.raises(ValueError, match="'evsm'; near it: evssm"):
        from_official("evsm", state)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_located(state, value):
    state["output.weight"] = state["output.weight"].clone().index_fill(0, torch.tensor(1), value)
    with pytest.raises(ValueError, match=r"NaN or infinite values in output\.weight \(72 of 216\)"):
        from_official("evssm", state)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epoch": 3}, r"1 entries that are no tensors with values: epoch \(int\)"),
        ({"output.weight": np.ones((3, 8, 3, 3))}, r"output\.weight \(ndarray\)"),
        ({"output.weight": torch.ones(3, 8, 3, 3, device="meta")}, r"output\.weight \(Tensor\)"),
        ({"output.weight": torch.ones(3, 8, 3, 3).to_sparse()}, r"output\.weight \(Tensor\)"),
        ({7: torch.ones(3)}, r"7 \(Tensor\)"),
        ({"output.weight": torch.ones(3, 8, 3, 3, dtype=torch.int8)}, r"output\.weight is torch\.int8"),
        ({"output.weight": torch.ones(3, 8, 3, 3, dtype=torch.complex64)}, r"output\.weight is torch\.complex64"),
    ],
)
def test_entries_that_are_no_weights_are_named(state, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        from_official("evssm", {**state, **change})


@pytest.mark.parametrize("entries", [{}, {"params": {}}, {"generator": {"w": torch.ones(2)}}])
def test_a_dict_without_weights_is_refused(entries):
    with pytest.raises(ValueError, match=r"the state dict (holds an empty dict|has 1 entries)"):
        from_official("evssm", entries)


def test_the_provenance_says_official_release_on_the_callers_word(tmp_path, state):
    memory = from_official("evssm", state).provenance
    assert (memory.weights, memory.file, memory.sha256) == ("official release", None, memory.tensors_sha256)
    path = tmp_path / "net_g_GoPro.pth"
    torch.save({"params": state}, path)
    net = from_official("evssm", path)
    assert (net.provenance.model, net.provenance.file) == ("evssm", "net_g_GoPro.pth")
    assert net.provenance.sha256 == file_sha256(path)
    assert net.provenance.tensors_sha256 == memory.tensors_sha256 == sha256_of(net.state_dict())
    assert net.provenance.describes(net)
    assert "caller's word" in net.provenance.note


def test_weights_that_nobody_trained_do_not_become_an_official_release():
    fresh = build("evssm", **SMALL)
    assert not from_official("evssm", to_official(fresh)).provenance.trained
    with torch.no_grad():
        next(p for p in fresh.parameters() if p.dim() == 1)[0] += 1e-3
    assert from_official("evssm", to_official(fresh)).provenance.trained


# --- files


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".safetensors"])
@pytest.mark.parametrize("as_text", [False, True])
def test_files_of_every_kind_are_read(tmp_path, net, state, suffix, as_text):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=suffix != ".pkl")
    assert same(from_official("evssm", str(path) if as_text else path), net)


def test_best_scores_saved_as_numpy_scalars_do_no_harm(tmp_path, net, state):
    extra = {"best_psnr": np.float64(33.1), "iteration": np.int64(7), "done": np.bool_(True), "loss": np.float32(1)}
    torch.save({"model": state, **extra}, tmp_path / "a.pth")
    assert same(from_official("evssm", tmp_path / "a.pth"), net)
    old = (tmp_path / "a.pth").read_bytes()
    assert b"numpy._core" in old


def test_a_file_of_ours_is_no_official_checkpoint(tmp_path, net):
    save(net, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"load\('.*a\.safetensors'\) reads it"):
        from_official("evssm", tmp_path / "a.safetensors")


class Trap:
    """An object that creates a file as soon as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Shell:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def write_bad_file(what, path, state):
    """One of the files that people give by mistake, or others on purpose."""
    bait = path.parent / "sprung"
    whole = path.with_suffix(".whole")
    torch.save(state, whole)
    archive = whole.read_bytes()
    torch.save(state, whole, _use_new_zipfile_serialization=False)
    old_style = whole.read_bytes()
    save_file(state, whole)
    tensors = whole.read_bytes()
    whole.unlink()
    contents = {
        "nothing": b"",
        "a word": b"hello",
        "text": b"epoch,psnr\n1,30.2\n" * 9,
        "binary numbers": bytes([0, 1, 2, 254]) * 99,
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
        "a web page": b"<!DOCTYPE html>\n<html><head><title>Google Drive</title></head></html>",
        "half a checkpoint": archive[: len(archive) // 2],
        "half an old checkpoint": old_style[: len(old_style) // 2],
        "half a safetensors file": tensors[: len(tensors) // 2],
        "the head of a safetensors file": tensors[:64],
        "a safetensors header of nonsense": struct.pack("<Q", 9) + b"{nonsense" + bytes(99),
        "a pickled dict": pickle.dumps({"weights": [1, 2, 3]}),
        "a trap": pickle.dumps(Trap(bait), protocol=2),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "a gzip archive": b"\x1f\x8b\x08" + bytes(99),
    }
    if what in contents:
        path.write_bytes(contents[what])
    elif what == "another zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "the weights are elsewhere")
    elif what == "a whole module":
        torch.save(nn.Linear(2, 2), path)
    elif what == "a list":
        torch.save([1, 2, 3], path)
    elif what == "a tensor":
        torch.save(torch.ones(3), path)
    else:
        trap = (Trap if what.startswith("a path") else Shell)(bait)
        torch.save({"params": state, "meta": trap}, path, _use_new_zipfile_serialization="old" not in what)


BAD = {
    "nothing": "0 bytes",
    "a word": "text that begins 'hello'",
    "text": "text that begins",
    "binary numbers": "something unknown",
    "a Git LFS pointer": "git lfs pull",
    "a web page": "a web page",
    "half a checkpoint": "cut short or damaged",
    "half an old checkpoint": "cut short or damaged",
    "half a safetensors file": "safetensors file cut short or damaged",
    "the head of a safetensors file": "safetensors file cut short or damaged",
    "a safetensors header of nonsense": "safetensors file cut short or damaged",
    "a pickled dict": "a pickle but no checkpoint",
    "a trap": "holds more than weights|no checkpoint",
    "a picture": "an image",
    "a gzip archive": "a gzip archive",
    "another zip": r"a zip archive of readme\.txt",
    "a whole module": r"would run torch\.nn\.modules\.linear\.Linear, which was not done",
    "a list": "holds a list",
    "a tensor": "holds a Tensor",
    "a path that is touched": "which was not done",
    "a path that is touched, old format": "which was not done",
    "a shell command": "would run (posix|nt).system, which was not done",
    "a shell command, old format": "would run (posix|nt).system, which was not done",
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("read", [lambda path: from_official("evssm", path), load], ids=["from_official", "load"])
def test_a_bad_file_is_refused_in_one_line_and_nothing_runs(tmp_path, capfd, state, what, read):
    path = tmp_path / "weights.pth"
    write_bad_file(what, path, state)
    with warnings.catch_warnings(record=True) as leaked, pytest.raises(ValueError, match=BAD[what]) as found:
        read(path)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)
    assert sorted(tmp_path.iterdir()) == [path]
    assert leaked == []
    assert capfd.readouterr() == ("", "")


def test_the_traps_of_these_tests_do_spring_when_unpickled_carelessly(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    pickle.loads(pickle.dumps(Shell(tmp_path / "sprung too")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sprung", "sprung too"]


@pytest.mark.parametrize("kind", ["archive", "old style", "safetensors", "ours"])
def test_a_file_cut_anywhere_is_refused(tmp_path, net, state, kind):
    path = tmp_path / "weights"
    if kind == "ours":
        save(net, path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "archive")
    data = path.read_bytes()
    for length in np.random.default_rng().integers(1, len(data), 20):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="weights is"):
            load(path, name=None if kind == "ours" else "evssm")


def test_missing_files_are_told_with_their_neighbours(tmp_path):
    (tmp_path / "net_g_GoPro.pth").write_bytes(b"x")
    for read in (load, lambda path: from_official("evssm", path)):
        with pytest.raises(FileNotFoundError, match=r"near it: net_g_GoPro\.pth"):
            read(tmp_path / "net_g_gopro.pth")
        with pytest.raises(ValueError, match="is a folder"):
            read(tmp_path)


# --- our own files


@pytest.mark.parametrize("name", COMPACT)
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path, name):
    net = trained(name)
    path = save(net, tmp_path / "a.safetensors", data="none", steps=1)
    again = load(path)
    assert same(net, again)
    assert again.recipe == net.recipe
    assert again.provenance.model == name


def test_arguments_come_back_as_they_were(tmp_path):
    net = trained("evssm", width=8, depths=(1, 1, 2), local=(32, 16, 8), bias=True, ffn_expansion=2.5)
    again = load(save(net, tmp_path / "a.safetensors"))
    assert again.recipe == net.recipe
    x = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))


def test_provenance_travels_with_the_weights(tmp_path, net):
    said = {"data": "photographs with camera shake", "steps": 2000, "seed": 5, "hardware": "2 cores", "note": "brief"}
    path = save(net, tmp_path / "a.safetensors", **said)
    again = load(str(path)).provenance
    assert (again.model, again.weights, again.trained) == ("evssm", "trained", True)
    assert {key: getattr(again, key) for key in said} == said
    assert (again.file, again.sha256) == ("a.safetensors", file_sha256(path))
    assert again.tensors_sha256 == sha256_of(net.state_dict())
    second = load(save(load(path), tmp_path / "b.safetensors")).provenance
    assert {key: getattr(second, key) for key in said} == said
    assert second.tensors_sha256 == again.tensors_sha256


def test_without_a_word_weights_count_as_untrained(tmp_path, net):
    assert not load(save(net, tmp_path / "a.safetensors")).provenance.trained
    assert not load(save(net, tmp_path / "a.safetensors", data="x", steps=0)).provenance.trained
    assert load(save(net, tmp_path / "a.safetensors", weights="trained")).provenance.trained


def test_an_official_release_stays_one_when_converted(tmp_path, state):
    torch.save(state, tmp_path / "net_g_GoPro.pth")
    net = from_official("evssm", tmp_path / "net_g_GoPro.pth")
    again = load(save(net, tmp_path / "a.safetensors")).provenance
    assert again.weights == "official release"
    assert f"net_g_GoPro.pth (sha256 {file_sha256(tmp_path / 'net_g_GoPro.pth')})" in again.note


def test_weights_that_changed_do_not_keep_their_provenance(tmp_path, net):
    again = load(save(net, tmp_path / "a.safetensors", steps=1))
    with torch.no_grad():
        next(again.parameters()).add_(1)
    with pytest.raises(ValueError, match="have changed since"):
        save(again, tmp_path / "b.safetensors")
    assert load(save(again, tmp_path / "b.safetensors", steps=2)).provenance.steps == 2


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"step": 3}, "unknown: 'step'"),
        ({"steps": 3.0}, "of the wrong type: steps=3.0"),
        ({"weights": "untrained", "steps": 3}, "after 3 steps"),
        ({"weights": "good"}, "one of untrained, trained"),
        ({"sha256": "00"}, "sha256 follow from the network"),
    ],
)
def test_a_wrong_provenance_is_refused_and_nothing_is_written(tmp_path, net, fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        save(net, tmp_path / "a.safetensors", **fields)
    assert not list(tmp_path.iterdir())


def test_a_network_that_a_file_cannot_describe_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Conv2d was not made by evssm\.build"):
        save(nn.Conv2d(3, 3, 3), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"Conv2d was not made by evssm\.build"):
        to_official(nn.Conv2d(3, 3, 3))
    turned = build("evssm", **SMALL, transforms=MODELS["evssm-no-geot"].arguments["transforms"])
    with pytest.raises(ValueError, match="cannot save a network built with transforms="):
        save(turned, tmp_path / "a.safetensors")


def test_packed_weights_come_back_rounded_to_half_precision_in_a_file_half_the_size(tmp_path):
    net = trained("nafnet-compact")
    plain, packed = save(net, tmp_path / "plain.safetensors"), save(net, tmp_path / "packed.safetensors", packed=True)
    again = load(packed)
    assert packed.stat().st_size < 0.6 * plain.stat().st_size
    for key, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[key], value.half().float()), key
    assert again.provenance.describes(again)
    assert same(load(save(again, tmp_path / "again.safetensors", packed=True)), again)


def test_weights_too_large_for_half_precision_are_not_packed(tmp_path, net):
    next(net.parameters()).data.flatten()[0] = 1e6
    with pytest.raises(ValueError, match="infinite values"):
        save(net, tmp_path / "net.safetensors", packed=True)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    net = trained()
    net.output.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in output\.weight"):
        save(net, tmp_path / "a.safetensors")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, net, monkeypatch):
    path = save(net, tmp_path / "a.safetensors")
    before = path.read_bytes()

    whole = Path.write_bytes

    def interrupted(part, data):
        whole(part, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(net, path, note="again")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_is_noticed(tmp_path, net):
    path = save(net, tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for place in np.random.default_rng().integers(start, len(data), 10):
        flipped = bytearray(data)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"is damaged|NaN or infinite"):
            load(path)


def rewritten(path, change):
    """Our file with its description changed."""
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        description = json.loads(file.metadata()["evssm"])
    save_file(state, path, metadata={"evssm": json.dumps(change(description, state))})
    return path


def without_output(description, state):
    del state["output.weight"]
    return description


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d, s: {**d, "format": 2}, "file format 2, where this version reads 1"),
        (lambda d, s: {**d, "name": "evssm3"}, "a.safetensors describes a network .* no network is called 'evssm3'"),
        (lambda d, s: {**d, "overrides": {"width": 16}}, "does not fit the evssm that it describes: .*missing"),
        (lambda d, s: {**d, "provenance": {}}, "missing: model, weights, sha256"),
        (lambda d, s: [d], "a description that cannot be read"),
        (lambda d, s: {**d, "overrides": 3}, "a description that cannot be read"),
        (without_output, r"1 missing: output\.weight"),
    ],
)
def test_a_file_that_describes_something_else_is_refused(tmp_path, net, change, complaint):
    with pytest.raises(ValueError, match=complaint) as found:
        load(rewritten(save(net, tmp_path / "a.safetensors"), change))
    assert "\n" not in str(found.value)


def test_a_name_must_agree_with_the_file(tmp_path, net):
    path = save(net, tmp_path / "a.safetensors")
    assert same(load(path, name="evssm"), net)
    with pytest.raises(ValueError, match="holds evssm, not nafnet"):
        load(path, name="nafnet")


def test_overrides_that_leave_the_weights_alone_can_be_given_on_loading(tmp_path, net):
    path = save(net, tmp_path / "a.safetensors")
    local = load(path, local=(16, 8, 4))
    assert any(stage.window == 16 for stage in local.stages)
    assert same(local, net)
    with pytest.raises(ValueError, match="does not fit"):
        load(path, width=16)


def test_an_official_checkpoint_is_loaded_when_its_network_is_named(tmp_path, net, state):
    torch.save({"params": state}, tmp_path / "a.pth")
    assert same(load(tmp_path / "a.pth", name="evssm"), net)
    with pytest.raises(ValueError, match=r"load\(path, name='evssm'\), whose keys these are"):
        load(tmp_path / "a.pth")
    torch.save({"w": torch.ones(3)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"load\(path, name=\.\.\.\)"):
        load(tmp_path / "b.pth")


def test_bundled_networks_are_found_by_name(tmp_path, net, monkeypatch):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"'evssm-tiny'; bundled: none yet$"):
        load("evssm-tiny")
    with pytest.raises(ValueError, match=r"bundled: none yet; build\('evssm'\) makes it untrained"):
        load("evssm")
    (tmp_path / "trained").mkdir()
    path = save(net, tmp_path / "trained" / "evssm-compact.safetensors", steps=10)
    assert bundled() == {"evssm-compact": path}
    again = load("evssm-compact")
    assert same(again, net)
    assert again.provenance.file == "evssm-compact.safetensors"
    with pytest.raises(ValueError, match="'evssm-compct'; near it: evssm-compact"):
        load("evssm-compct")


def test_build_never_says_that_it_is_trained():
    assert build("evssm", **SMALL).provenance is None


def test_a_provenance_is_what_load_attaches(tmp_path, net):
    assert isinstance(load(save(net, tmp_path / "a.safetensors")).provenance, Provenance)
