"""One training in several processes: the same gradients as in one, and the same bits however often interrupted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loop import CONFIG, Crops, run

from evssm import load
from evssm.training.journal import read_journal
from evssm.training.loop import LOG, VALIDATION

HERE = Path(__file__).parent


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": "1"}


def both(folder):
    """In each of two processes: a run from beginning to end, and one that is interrupted after step 3."""
    torch.set_num_threads(1)
    for name, sittings in (("whole", [None]), ("parts", [3, None])):
        for stop in sittings:
            said = []
            outcome = run(folder / name, devices=2, stop_after=stop, say=said.append)
            if outcome.first:
                torch.save(outcome.net.state_dict(), folder / f"{name}.pt")
                (folder / f"{name}.txt").write_text("\n".join(said))
    print(outcome.steps)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes that torchrun started and gloo joins leave behind."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(f"import pathlib, test_processes\ntest_processes.both(pathlib.Path({str(folder)!r}))\n")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["6", "6"]
    return folder


def test_two_processes_take_the_steps_of_one(two, tmp_path):
    one = run(tmp_path)
    for log, columns in ((LOG, ("loss", "gradient")), (VALIDATION, ("psnr", "gain"))):
        here, there = read_journal(tmp_path / log), read_journal(two / "whole" / log)
        assert [row["step"] for row in here] == [row["step"] for row in there]
        for column in columns:  # each adds up the halves of a batch in another order
            pairs = [(float(a[column]), float(b[column])) for a, b in zip(here, there, strict=True)]
            assert pairs == [(a, pytest.approx(a, rel=2e-3, abs=1e-4)) for a, _ in pairs]
    weights = torch.load(two / "whole.pt", weights_only=True)
    for key, value in one.net.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=0.02, atol=CONFIG.rate)


def test_an_interrupted_run_of_two_processes_equals_one_that_was_not_bit_for_bit(two):
    for log in (LOG, VALIDATION):
        assert (two / "parts" / log).read_bytes() == (two / "whole" / log).read_bytes()
    whole, parts = (torch.load(two / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert (two / "whole.txt").read_text() == ""
    assert "goes on after step 3 of 6" in (two / "parts.txt").read_text()


def test_the_same_command_trains_in_two_processes_where_it_is_told_to(tmp_path):
    words = ["-m", "evssm", "train", "mimo-unet-plus-compact", "--profile", "smoke", "--devices", "2", "--out", "runs"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["runs/mimo-unet-plus-compact.safetensors"]
    net = load(tmp_path / "runs" / "mimo-unet-plus-compact.safetensors")
    assert net.provenance.steps == 6
    assert len(read_journal(tmp_path / "runs" / "mimo-unet-plus-compact" / LOG)) == 6


def test_a_batch_that_does_not_divide_among_the_processes_is_refused(tmp_path, monkeypatch):
    from lightning_fabric import Fabric

    monkeypatch.setattr(Fabric, "world_size", property(lambda self: 3))
    with pytest.raises(ValueError, match="batch of 4 does not divide among 3 processes"):
        run(tmp_path, crops=Crops())
