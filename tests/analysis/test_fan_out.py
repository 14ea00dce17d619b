"""Many questions to many networks: one process, several, killed ones and interrupted ones give the same bit for bit."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import engines
from analysis.attributions import Settings
from analysis.engines import OnWorkers, Task, _processes, in_turn, worker_environments
from analysis.erf import effective_receptive_field
from analysis.fan_out import fan_out, key_of
from analysis.field import ERF
from analysis.questions import AttributionQuestion, FieldQuestion, RowsQuestion
from evssm.sources import ImageSource, NetworkSource

SLOW = """
import time
import torch
from torch import nn

class Slow(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x):
        time.sleep(0.05)
        return super().forward(x)


def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    h, ys = torch.zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        ys.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(ys, -1)


class Scanning(nn.Conv2d):
    scan_functions = (scan,)

    def __init__(self):
        super().__init__(3, 7, 3, padding=1)

    def forward(self, x):
        line = super().forward(x).flatten(2)
        y = scan(x.flatten(2), line[:, :3].abs(), -torch.ones(3, 2), line[:, 3:5], line[:, 5:])
        return x + y.view_as(x)
"""
FIELD = FieldQuestion(queries="grid", n_queries=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images and a module with a network of one's own, which workers can import too."""
    folder = tmp_path_factory.mktemp("fan_out")
    rng = np.random.default_rng()
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    (folder / "slow_network.py").write_text(SLOW)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def cluster(place):
    """Two worker processes on this machine."""
    pytest.importorskip("distributed")
    with _processes([{"PYTHONPATH": os.pathsep.join([str(place), *sys.path])}] * 2) as there:
        yield there.scheduler_address


def images(place, size=(16, 16)):
    return [ImageSource(path.name, path, size) for path in sorted(place.glob("*.png"))]


def sources():
    return [NetworkSource("slow_network:Slow", seed=3), NetworkSource("mimo-unet-compact", untrained=True)]


def joined(found, question=FIELD):
    return {source: ERF.joined([question.load(path) for (path,) in paths]) for source, paths in found.items()}


def equal(one, other):
    return all(
        np.array_equal(getattr(one[source], part), getattr(other[source], part))
        for source in one
        for part in ("per_image", "mass", "coverage", "map")
    )


def test_the_loop_gives_what_one_call_over_all_images_gives(place, tmp_path):
    found = joined(fan_out(sources(), images(place), [FIELD], tmp_path / "out"))
    for source, field in found.items():
        whole = effective_receptive_field(
            source.make(), torch.stack([image.read() for image in images(place)]), queries="grid", n_queries=3
        )
        assert equal({0: field}, {0: whole})
        same = set(whole.provenance) - {"seconds"}
        assert {key: field.provenance[key] for key in same} == {key: whole.provenance[key] for key in same}


def test_two_processes_one_killed_in_the_middle_give_what_one_gives(place, tmp_path, cluster):
    from distributed import Client

    alone = joined(fan_out(sources(), images(place), [FIELD], tmp_path / "alone"))
    said, killed = [], []
    engine = OnWorkers(cluster, say=said.append)

    def kill_at_the_third(tasks, networks, tick):
        for number, answer in engine(tasks, networks, tick):
            if len(done) == 2:
                with Client(cluster, set_as_default=False) as client:
                    killed.append(client.run(os.getpid))
                os.kill(next(iter(killed[0].values())), signal.SIGKILL)
            done.append(number)
            yield number, answer

    done = []
    many = joined(fan_out(sources(), images(place), [FIELD], tmp_path / "many", engine=kill_at_the_third))
    assert equal(alone, many)
    assert len(killed[0]) == 2
    assert os.getpid() not in killed[0].values()
    assert sorted(done) == list(range(16))
    assert any("1 of 2 workers died" in line for line in said)


def test_an_interrupted_run_goes_on_and_says_what_was_there(place, tmp_path, cluster):
    whole = joined(fan_out(sources(), images(place), [FIELD], tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fan_out(sources(), images(place), [FIELD], tmp_path / "out", engine=interrupted_after(5, in_turn))
    kept = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(kept) == 5
    said, computed = [], []

    def counted(tasks, networks, tick):
        for number, answer in OnWorkers(cluster)(tasks, networks, tick):
            computed.append(number)
            yield number, answer

    found = fan_out(sources(), images(place), [FIELD], tmp_path / "out", engine=counted, say=said.append)
    assert len(computed) == 11
    assert said == [f"5 of 16 answers are in {tmp_path / 'out'} already, 11 to go"]
    assert equal(whole, joined(found))
    assert all(path.read_bytes() == before for path, before in kept.items())
    again = []
    fan_out(sources(), images(place), [FIELD], tmp_path / "out", engine=never, say=again.append)
    assert again == [f"16 of 16 answers are in {tmp_path / 'out'} already, nothing to compute"]


def never(tasks, networks, tick):
    raise AssertionError("there is nothing to compute")


def interrupted_after(count, engine):
    """The engine, until Ctrl-C at its answer after the first `count`."""

    def run(tasks, networks, tick):
        for number, answer in engine(tasks, networks, tick):
            if number == count:
                raise KeyboardInterrupt
            yield number, answer

    return run


def test_a_damaged_answer_is_computed_again_and_said_so(place, tmp_path):
    few = images(place)[:3]
    (paths,) = fan_out(sources()[:1], few, [FIELD], tmp_path).values()
    path = paths[1][0]
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:300] + bytes(60) + whole[360:]):
        path.write_bytes(damaged)
        said = []
        fan_out(sources()[:1], few, [FIELD], tmp_path, say=said.append)
        assert path.name in said[0]
        assert "computed again" in said[0]
        assert said[1].startswith("2 of 3 answers")
        field = FIELD.load(path)
        assert np.isfinite(field.map).all()


def test_the_name_of_an_answer_changes_with_weights_pixels_and_question_and_with_nothing_else(place, tmp_path):
    def paths(source=None, image=None, question=FIELD, **options):
        source, image = source or sources()[1], image or images(place)[0]
        ((path,),) = fan_out([source], [image], [question], tmp_path, **options)[source]
        return path

    first = paths()
    assert paths(threads=1) == first
    assert paths(image=ImageSource("renamed", images(place)[0].path, (16, 16))) == first
    assert paths(question=FieldQuestion(queries="grid", n_queries=3, seed=0)) == first
    others = [
        paths(source=NetworkSource("mimo-unet-compact", untrained=True, seed=1)),
        paths(image=images(place)[1]),
        paths(image=images(place, (16, 20))[0]),
        paths(question=FieldQuestion(queries="grid", n_queries=3, seed=1)),
        paths(question=FieldQuestion(queries="grid", n_queries=3, estimator="abs")),
        paths(question=FieldQuestion(queries="grid", n_queries=3, residual="include")),
        paths(question=FieldQuestion(queries="centre")),
    ]
    assert len({first, *others}) == 8
    stamp = {"network": "a", "weights": "b", "overrides": {}, "trained": None, "windows": [1]}
    assert key_of(stamp, "c", {}) == key_of({**stamp, "windows": []}, "c", {})
    assert key_of(stamp, "c", {}) != key_of({**stamp, "trained": True}, "c", {})


def test_what_a_question_says_of_itself_is_all_that_its_answer_depends_on():
    x, grey = torch.rand(3, 96, 128), torch.full((3, 96, 128), 0.5)
    rows = [RowsQuestion(), RowsQuestion((3, 4)), RowsQuestion(stages=("a",)), RowsQuestion(level="A2")]
    rows += [RowsQuestion(reduction="rms"), RowsQuestion(kind="column")]
    maps = [AttributionQuestion("lam"), AttributionQuestion("occlusion"), AttributionQuestion("lam", (0, 0, 4, 4))]
    maps += [AttributionQuestion("lam", margin=0), AttributionQuestion("lam", settings=Settings(steps=3))]
    maps += [AttributionQuestion("lam", reduce="sum"), AttributionQuestion("lam", residual="exclude")]
    maps += [AttributionQuestion("occlusion", baseline=base) for base in ("black", grey)]
    facts = [json.dumps(question.facts(x), sort_keys=True) for question in [*rows, *maps]]
    assert len(set(facts)) == len(facts)
    same = AttributionQuestion("lam", settings=Settings(window=9), baseline="black")  # neither matters to "lam"
    assert json.dumps(same.facts(x), sort_keys=True) == facts[len(rows)]
    assert RowsQuestion((48, 64)).facts(x) == RowsQuestion().facts(x)
    for question in (FieldQuestion(estimator="none"), FieldQuestion((99, 0)), RowsQuestion((99, 0))):
        with pytest.raises(ValueError, match=r"choose from|outside"):
            question.facts(x)


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("slow_network:Scanning", RowsQuestion((3, 4))),
        ("mimo-unet-compact", AttributionQuestion("gradient_x_input", (4, 4, 8, 8))),
    ],
)
def test_rows_and_attributions_come_back_from_workers_as_from_the_loop(place, tmp_path, cluster, name, question):
    few, source = images(place)[:2], NetworkSource(name, untrained=True)
    here = fan_out([source], few, [question], tmp_path / "here")[source]
    there = fan_out([source], few, [question], tmp_path / "there", engine=OnWorkers(cluster))[source]
    for (one,), (other,) in zip(here, there, strict=True):
        a, b = question.load(one), question.load(other)
        if isinstance(question, RowsQuestion):
            assert list(a) == list(b) == ["scan.0"]
            assert all(np.array_equal(a[stage].map, b[stage].map) for stage in a)
        else:
            assert np.array_equal(a.per_channel, b.per_channel)
            assert (a.value, a.change) == (b.value, b.change)


SBATCH = """#!/bin/sh
cp "$1" "$0.job"
setsid sh "$0.job" >"$0.log" 2>&1 &
echo Submitted batch job $!
"""


def test_slurm_jobs_give_what_the_loop_gives(place, tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    for name, script in (("sbatch", SBATCH), ("scancel", "#!/bin/sh\nkill -- -$1\n")):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *sys.path]))
    few, source = images(place)[:3], sources()[:1]
    alone = joined(fan_out(source, few, [FIELD], tmp_path / "alone"))
    jobs = joined(fan_out(source, few, [FIELD], tmp_path / "jobs", engine=OnWorkers("slurm", 1, threads=2)))
    assert equal(alone, jobs)
    assert "#SBATCH --cpus-per-task=2" in (tmp_path / "sbatch.job").read_text()


def test_a_cluster_that_is_not_there_is_told_in_a_line(monkeypatch):
    for where, workers, said in (("somewhere", None, "none of local, slurm"), ("slurm", None, "--workers says")):
        with pytest.raises(ValueError, match=said):
            OnWorkers(where, workers)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .*\[cluster\]"):
        OnWorkers("local")


def test_one_bad_image_does_not_stop_the_others_and_is_named(place, tmp_path, cluster):
    flat = tmp_path / "flat.png"
    Image.fromarray(np.zeros((24, 20, 3), np.uint8)).save(flat)
    (tmp_path / "dead.py").write_text("def sharpen(x):\n    return x + x**3\n")  # no derivative where all is black
    sys.path.insert(0, str(tmp_path))
    few = [ImageSource("flat", flat, (16, 16)), *images(place)[:3]]
    with pytest.raises(ValueError, match=r"dead:sharpen, flat: .*zero everywhere.*1 of 4 tasks failed; the 3 that"):
        fan_out([NetworkSource("dead:sharpen")], few, [FIELD], tmp_path / "out")
    sys.path.remove(str(tmp_path))
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_question_that_fails_everywhere_is_given_up_early(place, tmp_path):
    ticks = []
    with pytest.raises(ValueError, match=r"select.*3 of 8 tasks failed"):
        fan_out(
            sources()[:1],
            images(place),
            [FieldQuestion(select="none")],
            tmp_path,
            track=lambda name: lambda done, total: ticks.append((done, total)),
        )
    assert ticks[-1] == (3, 8)


def test_weights_that_differ_on_a_worker_are_refused(place, cluster):
    source = sources()[0]
    task = Task(source, "other weights", torch.rand(3, 16, 16), FIELD, "key")
    ((_, answer),) = OnWorkers(cluster)([task], {source: source.make()}, lambda *_: None)
    assert isinstance(answer, ValueError)
    assert "other weights on a worker" in str(answer)


def test_networks_of_ones_own_have_the_same_weights_in_every_process():
    one, other = (sources()[0].make().state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_each_worker_has_a_gpu_of_its_own_and_none_shares(monkeypatch):
    assert worker_environments(3, "cpu") == [{}] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert worker_environments(None, "cuda") == [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert worker_environments(None, "cuda") == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    with pytest.raises(ValueError, match="3 workers on 2 GPUs"):
        worker_environments(3, "cuda")
    with pytest.raises(ValueError, match="--workers 0"):
        worker_environments(0, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no workers on 0 GPUs"):
        worker_environments(None, "cuda")


def test_fields_of_different_questions_are_not_joined(place, tmp_path):
    net, x = torch.nn.Conv2d(3, 3, 3, padding=1), torch.rand(1, 3, 16, 16)
    one, other = (effective_receptive_field(net, x, estimator=name) for name in ("rss", "abs"))
    with pytest.raises(ValueError, match="differ in estimator"):
        ERF.joined([one, other])
