"""Killed processes, full disks, read-only places, two runs in one folder, clocks that jump: nothing finished is lost,
nothing half-written is taken for finished, and the next run says what it found."""

import io
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from analysis.engines import in_turn
from analysis.fan_out import fan_out
from analysis.field import ERF
from analysis.questions import FieldQuestion
from evssm import build, load, save
from evssm.data.pairs import Pair
from evssm.deblur import Job, deblur
from evssm.evaluate import evaluate
from evssm.images import write_image
from evssm.ledger import Ledger, read_ledger
from evssm.provenance import claimed, written_whole
from evssm.sources import ImageSource, NetworkSource
from evssm.training.checkpoint import Checkpoint
from evssm.training.journal import Journal, read_journal
from evssm.training.loop import CHECKPOINT, LOG, train
from evssm.training.recipes import TrainConfig

CONFIG = TrainConfig(steps=6, batch=2, crop=16, warmup=2, clip=1.0, average=0.9, validate_every=3, checkpoint_every=2)
TINY = {"width": 4, "encoder_depths": (1,), "middle_depth": 1, "decoder_depths": (1,)}
PIXELS = 500_000
"""More than `little_room` leaves, as noise."""


class Noise:
    """Pair i is noise of seed i, and its mean over neighbours."""

    def __init__(self, size=16, length=1 << 40):
        self.size, self.length = size, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        sharp = torch.from_numpy(np.random.default_rng(i).random((3, self.size, self.size), np.float32))
        return Pair((sharp + sharp.roll(1, -1)) / 2, sharp, f"noise-{i}")


class Fatal(nn.Conv2d):
    """A convolution that kills its process when it is asked for the `last` time."""

    def __init__(self, last=0):
        super().__init__(3, 3, 3, padding=1)
        self.last, self.asked = last, 0

    def forward(self, x):
        self.asked += 1
        if self.asked == self.last:
            os.kill(os.getpid(), 9)
        return super().forward(x)


def fatal():
    """One's own network, which lives for as many images as the environment says."""
    return Fatal(int(os.environ.get("ASKED", 0)))


def training(folder, **options):
    torch.set_num_threads(1)  # in the process that is killed too: digits depend on it
    return train("nafnet-compact", Noise(), Noise(length=2), CONFIG, folder, overrides=TINY, **options)


def scoring(folder, last=0, **options):
    torch.manual_seed(0)
    return evaluate(Fatal(last), Noise(length=6), data="noise", path=folder / "scores.csv", untrained=True, **options)


def fields(folder, **options):
    images = [ImageSource(str(path), path) for path in sorted(folder.glob("*.png"))]
    return fan_out([NetworkSource("test_faults:fatal")], images, [FieldQuestion()], folder / "answers", **options)


def kill_at(step):
    def report(done, total, latest):
        if done == step:
            os.kill(os.getpid(), 9)

    return report


def writing(folder):
    """Writes files of known content for ever."""
    number = 0
    while True:
        number += 1
        with written_whole(folder / f"{number % 7}.bin") as part, part.open("wb") as file:
            for _ in range(20):
                file.write(bytes([number % 256]) * 5000)


def deblurring(folder, last=0, **options):
    torch.manual_seed(0)
    return deblur(Fatal(last), jobs_in(folder), folder / "out" / "deblurred.csv", **options)


def jobs_in(folder, size=16):
    """Three images in `folder/in`, and where their results go."""
    if not (folder / "in").exists():
        (folder / "in").mkdir()
        for number in range(3):
            write_image(folder / "in" / f"{number}.png", Noise(size)[number].sharp)
    return [Job(path, folder / "out" / path.name, path.name) for path in sorted((folder / "in").iterdir())]


def figures(folder, deadly=False):
    """`figures/make.py` with two scripts of two files each, the second of which may die between its two."""
    import make

    def script(name):
        def made(track):
            files = [folder / f"{name}.png", folder / f"{name}.json"]
            for path in files:
                with written_whole(path) as part:
                    part.write_text(f"{name}, {path.suffix}")
                if deadly and name == "second":
                    os.kill(os.getpid(), 9)
            return files

        return SimpleNamespace(make=made)

    here = {"ROOT": folder, "HERE": folder, "LATEST": folder / "data" / "made.json", "SCRIPTS": ("first", "second")}
    others = {"write_report": lambda: (folder / "report.html", False), "_made_from": lambda name: {"of": name}}
    digests = partial(make.digest_of, root=folder)
    with patch.multiple(make, import_module=script, digest_of=digests, **here, **others):
        make.main([])


def explored(folder, deadly=False):
    """Saves two panels of the explorer, as its kernel does when one clicks; it may die in the middle of the second."""
    from analysis import explorer

    torch.manual_seed(0)
    net = build("evssm", width=4, depths=(1, 1, 1))
    one = explorer.Explorer({"noise": lambda: Noise()[0].sharp}, {"net": lambda: net}, view="module")
    files = one.save(folder / "first")
    one.choose(query=(3, 4))
    dying = patch.object(explorer, "write_sidecar", lambda path, facts: os.kill(os.getpid(), 9))
    with dying if deadly else nullcontext():
        return [*files, *one.save(folder / "second")]


def kill_all(folder):
    """What each test below finds: seven kinds of work, each killed in the middle in a process of its own."""
    for name in ("training", "scores", "fields", "files", "deblurred", "figures", "explorer"):
        (folder / name).mkdir()
    for number in range(5):
        write_image(folder / "fields" / f"{number}.png", Noise()[number].sharp)
    os.environ["ASKED"] = "4"
    in_child(lambda: training(folder / "training", report=kill_at(5)))
    in_child(lambda: scoring(folder / "scores", last=4))
    in_child(lambda: fields(folder / "fields"))
    in_child(lambda: deblurring(folder / "deblurred", last=4))  # asked twice before, to count the memory that it takes
    in_child(lambda: figures(folder / "figures", deadly=True))
    in_child(lambda: explored(folder / "explorer", deadly=True))
    for _ in range(12):
        in_child(lambda: writing(folder / "files"), after=np.random.default_rng().uniform(0.005, 0.05))


def in_child(work, after=None):
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    words = ["-c", "import sys, pathlib, test_faults; test_faults.kill_all(pathlib.Path(sys.argv[1]))", str(folder)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, *words], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return folder


def test_a_training_that_was_killed_goes_on_from_its_checkpoint_to_the_same_weights(killed, tmp_path):
    said = []
    again, whole = training(killed / "training", say=said.append), training(tmp_path)
    assert said == [f"{killed / 'training'} goes on after step 4 of 6, its last checkpoint"]
    assert (killed / "training" / LOG).read_bytes() == (tmp_path / LOG).read_bytes()
    one, other = again.net.state_dict(), whole.net.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_scores_that_were_finished_before_a_kill_are_kept(killed, tmp_path):
    kept = read_ledger(killed / "scores" / "scores.csv")[1]
    assert [row["name"] for row in kept] == ["noise-0", "noise-1", "noise-2"]
    said = []
    again, whole = scoring(killed / "scores", say=said.append), scoring(tmp_path)
    assert f"{killed / 'scores' / 'scores.csv'} has 3 of 6 rows already" in said
    timeless = [replace(row, seconds=0.0) for row in again.rows]
    assert timeless == [replace(row, seconds=0.0) for row in whole.rows]
    assert [str(again.rows[i].seconds) for i in range(3)] == [row["seconds"] for row in kept]


def test_fields_that_were_finished_before_a_kill_are_kept(killed, monkeypatch):
    monkeypatch.delenv("ASKED", raising=False)
    kept = {path: path.read_bytes() for path in (killed / "fields" / "answers").glob("*.npz")}
    assert len(kept) == 3
    said = []
    found = fields(killed / "fields", say=said.append)
    assert said == [f"3 of 5 answers are in {killed / 'fields' / 'answers'} already, 2 to go"]
    assert all(path.read_bytes() == before for path, before in kept.items())
    ((*paths,),) = found.values()
    assert ERF.joined([ERF.load(path) for (path,) in paths]).per_image.shape == (5, 16, 16)


def test_images_that_were_deblurred_before_a_kill_are_kept(killed):
    out = killed / "deblurred" / "out"
    kept = (out / "0.png").read_bytes()
    assert not (out / "1.png").exists()
    said = []
    made, failures = deblurring(killed / "deblurred", say=said.append)
    assert ([path.name for path in made], failures) == (["0.png", "1.png", "2.png"], [])
    assert f"{out / 'deblurred.csv'} has 1 rows already; what they name is not made again where it is whole" in said
    assert (out / "0.png").read_bytes() == kept


def test_figures_that_were_made_before_a_kill_are_not_made_again_and_half_a_figure_is(killed, capsys):
    folder = killed / "figures"
    assert sorted(path.name for path in folder.glob("*.*")) == ["first.json", "first.png", "second.png"]
    figures(folder)
    assert capsys.readouterr().err.splitlines() == ["first: nothing changed", "second: making"]
    assert (folder / "second.json").exists()
    figures(folder)
    assert capsys.readouterr().err.splitlines() == ["first: nothing changed", "second: nothing changed"]


def test_what_the_explorer_saved_outlives_its_kernel(killed, tmp_path):
    folder = killed / "explorer"
    there = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(there) == ["first.json", "first.pdf", "first.png", "second.pdf", "second.png"]
    again = [path.name for path in explored(tmp_path)]
    assert sorted(again) == [*sorted(there)[:3], "second.json", *sorted(there)[3:]]
    for name in ("first.png", "second.png"):  # pixels: the command inside names the folder
        one, other = (Image.open(io.BytesIO(data)) for data in (there[name], (tmp_path / name).read_bytes()))
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_whatever_the_moment_of_a_kill_a_file_has_one_content_and_all_of_it(killed):
    files = [path for path in (killed / "files").iterdir() if not path.name.startswith(".")]
    assert files
    for path in files:
        data = path.read_bytes()
        assert len(data) == 100_000
        assert len(set(data)) == 1


@contextmanager
def little_room():
    """No file may grow above 20 kB: what a full disk is to whoever writes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def a_checkpoint(path):
    Checkpoint({}, 1, {"a": torch.rand(PIXELS)}, {}, {}).save(path)


def weights(path):
    save(build("nafnet-compact"), path)


def a_field(path):
    noise = np.random.default_rng().random((1, 500, 1000))
    ERF(noise / noise.sum(), noise.sum(axis=(1, 2)), noise[0], {}).save(path)


def an_image(path):
    write_image(path, torch.rand(3, 400, 400))


@pytest.mark.parametrize(
    ("write", "name"),
    [(a_checkpoint, "a.pt"), (weights, "a.safetensors"), (a_field, "a.npz"), (an_image, "a.png"), (an_image, "a.tif")],
)
def test_on_a_full_disk_the_old_file_stays_and_the_message_names_it(tmp_path, write, name):
    path = tmp_path / name
    path.write_bytes(b"before")
    with little_room(), pytest.raises(OSError, match=f"cannot write .*{name}: .*; make room") as refused:
        write(path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 20_000


def test_rows_that_did_not_fit_are_no_rows(tmp_path):
    ledger = Ledger(tmp_path / "a.csv", {}, ("name", "text"))
    log = Journal(tmp_path / "log.csv", ("text",))
    for number in range(3):
        ledger.append({"name": str(number), "text": "fits"})
        log.add(number, {"text": "fits"})
    with little_room():
        for add in (
            lambda: ledger.append({"name": "3", "text": "x" * 50_000}),
            lambda: log.add(3, {"text": "x" * 50_000}),
        ):
            with pytest.raises(OSError, match=r"cannot write .*csv"):
                add()
    assert (tmp_path / "a.csv").stat().st_size == 20_000
    assert [row["name"] for row in Ledger(tmp_path / "a.csv", {}, ("name", "text")).rows] == ["0", "1", "2"]
    assert [row["step"] for row in read_journal(tmp_path / "log.csv")] == ["0", "1", "2"]


def test_a_run_on_a_full_disk_goes_on_where_there_is_room_again(tmp_path):
    jobs = jobs_in(tmp_path, size=200)
    torch.manual_seed(0)
    net = Fatal()
    with little_room(), pytest.raises(OSError, match=r"cannot write .*0\.png"):
        deblur(net, jobs, tmp_path / "out" / "deblurred.csv")
    rows = read_ledger(tmp_path / "out" / "deblurred.csv")[1]
    assert [row["result"] for row in rows] == ["0.png"]  # the others were not tried in vain
    assert not list((tmp_path / "out").glob("*.png"))
    made, failures = deblur(net, jobs, tmp_path / "out" / "deblurred.csv")
    assert (made, failures) == ([job.result for job in jobs], [])


@pytest.mark.skipif(not os.path.ismount("/sys"), reason="a place where not even root may write")
@pytest.mark.parametrize(
    "words",
    [
        ("erf", "nafnet-compact", "--untrained", "--size", "16"),
        ("activation", "evssm-compact", "--untrained", "--size", "16"),
        ("attribute", "nafnet-compact", "--untrained", "--size", "16"),
        ("train", "nafnet-compact", "--profile", "smoke"),
        ("evaluate", "evssm-compact", "--limit", "1"),
    ],
)
def test_a_place_where_nobody_may_write_is_named_in_a_line(words, monkeypatch, capsys):
    from evssm.cli import main

    monkeypatch.setattr(sys, "argv", ["evssm", *words, "--out", "/sys/evssm"])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.count("\n") == 1
    assert "/sys/evssm" in err


def test_a_second_run_in_one_folder_is_refused_until_the_first_ends(tmp_path):
    with claimed(tmp_path / "run"), pytest.raises(ValueError, match=r"another run is writing .*run; wait"):
        training(tmp_path / "run")
    assert training(tmp_path / "run").steps == CONFIG.steps
    with claimed(tmp_path / "scores.csv"), pytest.raises(ValueError, match=r"another run is writing .*scores\.csv"):
        scoring(tmp_path)
    assert len(scoring(tmp_path).rows) == 6
    with claimed(tmp_path / "a"), claimed(tmp_path / "b"):  # two folders are nobody's concern
        pass


def test_two_runs_may_answer_the_same_questions_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ASKED", raising=False)
    for number in range(3):
        write_image(tmp_path / f"{number}.png", Noise()[number].sharp)

    def and_meanwhile(tasks, networks, tick):
        for number, answer in in_turn(tasks, networks, tick):
            if number == 1:
                fields(tmp_path)  # the other run, from beginning to end
            yield number, answer

    ((*paths,),) = fields(tmp_path, engine=and_meanwhile).values()
    assert len(list((tmp_path / "answers").iterdir())) == 3
    assert ERF.joined([ERF.load(path) for (path,) in paths]).per_image.shape == (3, 16, 16)


@pytest.mark.parametrize("then", [0, 4_000_000_000])
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch, then):
    write_image(tmp_path / "a.png", Noise()[0].sharp)
    fields(tmp_path)
    training(tmp_path / "run", stop_after=3)
    for path in tmp_path.rglob("*"):
        os.utime(path, (then, then))
    monkeypatch.setattr(time, "time", lambda: float(then))
    said = []
    fields(tmp_path, say=said.append)
    assert said[0].endswith("already, nothing to compute")
    training(tmp_path / "run", say=said.append)
    assert "goes on after step 3 of 6" in said[1]


def test_weights_cut_short_are_not_taken_for_a_finished_training(tmp_path):
    from evssm.training.run import TrainingData, trained_file

    data = TrainingData(Noise(), Noise(length=1), "noise")
    path = trained_file("a", "nafnet-compact", data, CONFIG, tmp_path, overrides=TINY)
    whole = path.read_bytes()
    said = []
    assert trained_file("a", "nafnet-compact", data, CONFIG, tmp_path, overrides=TINY, say=said.append) == path
    assert said == [f"{path} is there already; it is left as it is"]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.safetensors .*cut short.*delete it to train"):
        trained_file("a", "nafnet-compact", data, CONFIG, tmp_path, overrides=TINY)
    path.unlink()
    trained_file("a", "nafnet-compact", data, CONFIG, tmp_path, overrides=TINY)
    assert load(path).provenance.steps == CONFIG.steps
    assert not (tmp_path / "a" / CHECKPOINT).exists()


def test_what_a_killed_run_left_in_a_folder_of_images_is_no_image(tmp_path):
    from evssm.cli.common import image_sources
    from evssm.deblur import plan

    write_image(tmp_path / "a.png", Noise()[0].sharp)
    (tmp_path / ".0123456789ab.png").write_bytes(b"\x89PNG half")
    Image.new("RGB", (20, 20)).save(tmp_path / "._a.png")
    assert [source.path.name for source in image_sources([tmp_path], None)] == ["a.png"]
    assert [job.source.name for job in plan(tmp_path, tmp_path / "out")[0]] == ["a.png"]
