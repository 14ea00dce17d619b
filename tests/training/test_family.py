"""The trained family: repeats of its trainings, and the table of what it reached."""

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from analysis.tasks import DEFOCUS, DUAL_PIXEL, MOTION, ONE_SCENE, Task, task_of
from analysis.trained_family import LEAST_GAIN, ROOM, bundle, family_page, family_table, fates, mean_gains, reached
from evssm.cli.app import app
from evssm.data.embedded import embedded_test
from evssm.data.pairs import Pair
from evssm.images import crop_centre
from evssm.machine import hardware
from evssm.models import build
from evssm.training.recipes import RECIPES
from evssm.training.rerun import rerun
from evssm.training.run import built_in_data, defocus_data, embedded_data, trained_file
from evssm.weights import bundled, load, save

NAME = "stripformer-compact"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as `evssm train` leaves it, of a network that saw six batches."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    config = RECIPES["smoke"]
    return trained_file(NAME, NAME, embedded_data(config, 3, validation=False), config, folder, seed=3)


def log_of(path):
    return path.with_suffix("") / "log.csv"


def test_a_training_repeats_digit_by_digit(trained):
    assert rerun(trained, log_of(trained), 4).difference is None


def test_a_log_that_differs_in_one_digit_is_noticed(trained, tmp_path):
    lines = log_of(trained).read_text().splitlines()
    step, rate, loss, gradient = lines[3].split(",")
    changed = tmp_path / "log.csv"
    lines[3] = ",".join([step, rate, repr(float(loss) * (1 + 1e-15) + 1e-16), gradient])
    changed.write_text("\n".join(lines) + "\n")
    assert rerun(trained, changed, 4).difference.startswith("step 3: loss was")
    changed.write_text("\n".join(lines[:3]) + "\n")
    assert rerun(trained, changed, 4).difference == "2 steps are logged where 4 are repeated"
    assert rerun(trained, tmp_path / "none.csv", 2) == ("0 steps are logged where 2 are repeated", False)


@pytest.mark.parametrize("name", ["dpdnet-compact", "dpdnet-dual-pixel-compact"])
def test_a_training_on_defocus_repeats_and_sees_as_many_views_as_its_network_takes(name, tmp_path):
    torch.set_num_threads(1)
    config = replace(RECIPES["smoke"], steps=2, validate_every=2, warmup=1)
    data = built_in_data(name, "defocus", config, 4)
    assert data.crops[0].blurred.shape[0] == (6 if "dual" in name else 3)
    assert not len(data.validation)
    path = trained_file(name, name, data, config, tmp_path, seed=4)
    assert rerun(path, log_of(path), 2).difference is None
    assert task_of(load(path)) == (DUAL_PIXEL if "dual" in name else DEFOCUS)


def test_motion_is_not_for_networks_of_two_views():
    with pytest.raises(ValueError, match="kpac-dual-pixel-compact takes the two views"):
        built_in_data("kpac-dual-pixel-compact", "embedded", RECIPES["smoke"], 0)
    with pytest.raises(ValueError, match="no data of the package are called 'fog'; there are embedded, defocus"):
        built_in_data("kpac-compact", "fog", RECIPES["smoke"], 0)


def test_a_network_is_scored_on_what_it_was_trained_for(trained, tmp_path):
    assert task_of(load(trained)) == MOTION
    path = tmp_path / "net.safetensors"
    save(build(NAME), path, data=defocus_data(RECIPES["smoke"], 0).description, steps=5, seed=0)
    assert task_of(load(path)) == DEFOCUS


def test_each_task_has_a_table_of_its_own_that_says_what_it_can_show(trained, tmp_path):
    one = reached(NAME, trained, middles(), tmp_path / "scores")
    other = replace(one, name="other", task=replace(one.task, title="Defocus", scope=ONE_SCENE))
    motion, defocus, made = family_page([one, other]).split("\n## ")[1:]
    assert motion.startswith("Motion\n")
    assert f"| {NAME} |" in motion
    assert "| other |" not in motion
    assert ONE_SCENE in defocus
    assert f"| {NAME} |" not in defocus
    assert one.origin.data in made


def test_what_was_trained_on_other_data_cannot_be_repeated(tmp_path):
    path = tmp_path / "net.safetensors"
    save(build(NAME), path, data="something else", steps=5, seed=0)
    with pytest.raises(ValueError, match=r"was trained on something else, which this version cannot repeat"):
        rerun(path, path, 2)


def middles():
    whole = embedded_test(extents=(6,), straight=True)
    cut = [
        Pair(crop_centre(p.blurred, 48, 48), crop_centre(p.sharp, 48, 48), p.name)
        for p in (whole[i] for i in range(len(whole)))
    ]
    return {MOTION: Task("Motion", cut, "middles")}


def test_the_table_says_what_was_reached_and_only_what_gained_enough_is_copied(trained, tmp_path, monkeypatch):
    one = reached(NAME, trained, middles(), tmp_path / "scores")
    assert one.gain == pytest.approx(sum(row.psnr - row.blurred_psnr for row in one.scores.rows) / 3)
    assert one.gain < LEAST_GAIN
    table = family_table([one], fates([one]))
    assert "3 images: middles;" in table
    assert f"| {NAME} | 3 | {one.parameters:,} |" in table
    assert f"{one.gain:+.2f}, not bundled" in table
    assert bundle([one], {NAME: trained}, tmp_path / "out") == []
    monkeypatch.setattr("analysis.trained_family.LEAST_GAIN", -10.0)
    copied = bundle([one], {NAME: trained}, tmp_path / "out")
    assert [path.name for path in copied] == [f"{NAME}.safetensors", f"{NAME}.csv"]
    assert rerun(copied[0], copied[1], 2).difference is None
    with pytest.raises(FileNotFoundError, match="train it again"):
        bundle([one], {NAME: copied[0]}, tmp_path / "more")


def test_the_command_repeats_trainings_and_says_so(trained):
    done = CliRunner().invoke(app, ["family", "--weights", str(trained.parent), "--rerun", "2"])
    assert done.exit_code == 0
    assert f"{NAME}: 2 steps, every digit as logged" in done.output
    log = log_of(trained)
    text = log.read_text()
    log.write_text(text.replace("\n1,", "\n1,9"))
    try:
        done = CliRunner().invoke(app, ["family", "--weights", str(trained.parent), "--rerun", "2"])
    finally:
        log.write_text(text)
    assert done.exit_code == 1
    assert "step 1: rate was 9" in done.output


@pytest.mark.parametrize(("change", "status", "said"), [("0001", 0, "agrees"), ("3", 1, "differs")])
def test_on_another_processor_the_first_loss_decides(trained, monkeypatch, change, status, said):
    monkeypatch.setattr("evssm.machine.hardware", lambda: "a calculator")
    log = log_of(trained)
    text = log.read_text()
    header, first, rest = text.split("\n", 2)
    step, rate, loss, gradient = first.split(",")
    moved = repr(float(loss) * float(f"1.0000{change}"))
    log.write_text("\n".join([header, ",".join([step, rate, moved, gradient]), rest]))
    try:
        done = CliRunner().invoke(app, ["family", "--weights", str(trained.parent), "--rerun", "2"])
    finally:
        log.write_text(text)
    assert done.exit_code == status
    assert f"this is a calculator: the first loss {said}" in done.output


def test_the_seeds_of_a_network_are_bundled_together_by_their_mean(trained, tmp_path):
    one = reached(NAME, trained, middles(), tmp_path / "scores")
    loss = replace(one, name=f"{NAME}-l1")
    seeds = [replace(one, name=f"{NAME}-seed{k}", scores=shifted(one.scores, k)) for k in (1, 2)]
    means = mean_gains([one, loss, *seeds])
    assert means[NAME] == means[f"{NAME}-seed2"] == pytest.approx(one.gain + 1)
    assert means[f"{NAME}-l1"] == one.gain


def test_what_gained_enough_is_bundled_in_the_familys_order_while_there_is_room(trained, tmp_path, monkeypatch):
    one = reached(NAME, trained, middles(), tmp_path / "scores")
    assert one.size == trained.stat().st_size
    good = shifted(one.scores, LEAST_GAIN - one.gain + 0.1)
    names = ("own", "ifan-compact", "evssm-compact-seed1", "kpac-compact", "evssm-compact")
    members = [replace(one, name=name, scores=good, size=10) for name in names]
    members[3] = replace(members[3], scores=one.scores)
    assert one.gain < LEAST_GAIN
    monkeypatch.setattr("analysis.trained_family.ROOM", 30)
    assert fates(members) == {
        "evssm-compact": "bundled",
        "evssm-compact-seed1": "bundled",
        "kpac-compact": "not bundled",
        "ifan-compact": "bundled",
        "own": "no room",
    }
    assert "No room: gained enough" in family_page(members)
    monkeypatch.setattr("analysis.trained_family.ROOM", 40)
    assert "no room" not in fates(members).values()
    monkeypatch.setattr("analysis.trained_family.ROOM", 15)  # two seeds go in together or not at all
    assert [name for name, fate in fates(members).items() if fate == "bundled"] == ["ifan-compact"]


def shifted(scores, gain):
    return replace(scores, rows=tuple(replace(row, gain=row.gain + gain) for row in scores.rows))


@pytest.mark.parametrize("name", bundled())
def test_bundled_trainings_repeat(name):
    """Digit by digit where the processor is the one that made them; elsewhere the first loss, to rounding."""
    path = bundled()[name]
    made = load(name).provenance
    assert made.steps == RECIPES["compact"].steps
    assert made.commit
    assert not made.commit.endswith("+")
    torch.set_num_threads(1)
    log = path.with_suffix(".csv")
    if made.hardware == hardware():
        assert rerun(path, log, 50 if name == "evssm-compact-seed1" else 2).difference is None
    else:
        assert rerun(path, log, 1).first_loss_agrees


def test_the_bundled_files_are_small_together():
    assert sum(path.stat().st_size for path in bundled().values()) <= ROOM
    folder = next(iter(bundled().values())).parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6
