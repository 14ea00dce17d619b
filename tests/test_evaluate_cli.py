"""`evssm evaluate`: tables side by side, one protocol for all, and one line for what the caller got wrong."""

import json
import sys

import pytest
import torch

import evssm.cli.evaluate
import evssm.inference
from evssm import build, psnr, save
from evssm.cli import main
from evssm.cli.evaluate import ways
from evssm.photographs import photograph
from evssm.scores import Scores

SHARP = photograph("coffee", (48, 100))
PAIRS = [
    ((SHARP[..., k : k + 60] + SHARP[..., k + 2 : k + 62]) / 2, SHARP[..., k + 1 : k + 61], f"{k}") for k in (3, 9)
]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder on `PAIRS`: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evssm.inference, "estimate_memory", lambda net, h, w, channels=3: 12 * h * w)
    monkeypatch.setattr(
        evssm.cli.evaluate, "the_pairs", lambda data, limit, **which: (PAIRS, f"{data} {which['split'] or 'test'}")
    )

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evssm", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def weights(tmp_path):
    """Two files of weights that count as trained, on GoPro."""
    for name in ("nafnet-compact", "mimo-unet-compact"):
        save(build(name), tmp_path / f"{name}.safetensors", steps=1, data="GoPro train")
    return [f"--weights={name}={name}.safetensors" for name in ("nafnet-compact", "mimo-unet-compact")]


def test_plain_and_local_are_rows_of_one_table_whose_header_names_the_protocol(run, weights, tmp_path):
    status, out, err = run(
        "nafnet-compact", "mimo-unet-compact", *weights, "--local", "both", "--ssim", "volume", "--out", "made"
    )
    assert status == 0
    rows = json.loads((tmp_path / "made" / "table.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["nafnet-compact", "nafnet-compact (local)", "mimo-unet-compact"]
    assert all("ssim_volume" in row["protocol"] for row in rows)
    assert "ssim_volume" in out.splitlines()[0]
    assert "nafnet-compact (local)" in out
    assert "blurred input" in out
    assert "MiB of tensors" in err
    blurred, sharp, _ = PAIRS[0]
    scores = Scores.load(tmp_path / "made" / "nafnet-compact_local.csv")
    assert scores.rows[0].blurred_psnr == psnr(blurred[None], sharp[None]).item()
    assert scores.header["overrides"] == {"local": True}
    sidecar = json.loads((tmp_path / "made" / "nafnet-compact_local.json").read_text())
    assert sidecar["provenance"]["data"] == "GoPro train"
    assert sidecar["command"].startswith("evssm evaluate nafnet-compact mimo")


def test_the_same_command_goes_on_and_another_protocol_is_refused(run, weights, tmp_path):
    words = ("nafnet-compact", weights[0], "--out", "made", "--ensemble", "x4", "--tile", 32, "--overlap", 8)
    run(*words)
    table = tmp_path / "made" / "nafnet-compact_tile32_x4.csv"
    before = table.read_bytes()
    assert run(*words)[0] == 0
    assert table.read_bytes() == before  # seconds, too: nothing was computed again
    status, _, err = run(*words, "--rounding", "none")
    assert (status, err.count("\n")) == (2, 1)
    assert "protocol differ" in err
    assert table.read_bytes() == before


def test_motion_weights_on_defocus_data_are_told_before_and_after(run, weights):
    _, out, err = run("nafnet-compact", weights[0], "--data", "DPDD")
    assert "caution: motion weights on defocus data" in err
    assert "caution: nafnet-compact: motion weights on defocus data" in out


def test_realblur_is_aligned_on_demand_and_labelled_otherwise(run, tmp_path):
    (tmp_path / "own_identity.py").write_text("def net(x):\n    return x\n")
    _, out, _ = run("own_identity:net", "--data", "RealBlur-J")
    assert "not comparable with published RealBlur scores" in out
    _, out, _ = run("own_identity:net", "--data", "RealBlur-J", "--align", "ecc", "--out", "ecc")
    assert "ECC homography" in out
    assert "not comparable" not in out


def test_random_weights_need_leave_and_are_labelled(run):
    status, _, err = run("nafnet-32-compact")
    assert (status, err.count("\n")) == (2, 1)
    assert "--untrained" in err
    status, out, _ = run("nafnet-compact", "--untrained")
    assert status == 0
    assert "untrained weights" in out


def test_windows_are_run_both_ways_only_where_there_are_any():
    assert ways("evssm", "both") == ways("nafnet", "both") == [False, True]
    assert ways("restormer", "both") == ways("own:net", "both") == [False]
    assert (ways("nafnet", "on"), ways("nafnet", "off")) == ([True], [False])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("nafnet-compact", "--ssim", "matlab"), "gauss, uniform, volume"),
        (("nafnet-compact", "--rounding", "10-bit"), "8-bit"),
        (("nafnet-compact", "--align", "sift"), "ecc"),
        (("nafnet-compact", "--local", "maybe"), "off, on or both"),
        (("nafnet-compact", "--ensemble", "x5"), "x4-frames"),
        (("nafnet-compact", "--tile", "3"), "too small"),
        (("mimo-unet-compact", "--local", "on", "--untrained"), "local"),
        (("nafnet-compact", "--untrained", "--crop", "40"), "leaves some"),
        (("nafnett",), "nafnet"),
    ],
)
def test_what_the_caller_got_wrong_is_one_line(run, words, part):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("evssm: ")
    assert part in err


# --- data sets --------------------------------------------------------------------------------------------------------


def test_embedded_pairs_and_folders_are_found():
    pytest.importorskip("evssm.data.embedded")
    which = {"dataset": None, "split": None, "variant": "blur", "mode": "single"}
    pairs, label = evssm.cli.evaluate.the_pairs("embedded", 2, **which)
    assert len(pairs) == 2
    assert "2 of" in label
    blurred, sharp, _ = pairs[1]
    assert blurred.shape == sharp.shape
    assert not torch.equal(blurred, sharp)
    with pytest.raises(ValueError, match="--limit"):
        evssm.cli.evaluate.the_pairs("embedded", 10**6, **which)
