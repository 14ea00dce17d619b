"""Laws of the training loop, on a network and crops small enough to train in a second."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from evssm import build, save
from evssm.data.pairs import Pair
from evssm.metrics import psnr
from evssm.training.checkpoint import Checkpoint
from evssm.training.journal import Journal, read_journal
from evssm.training.loop import BAD_BATCH, CHECKPOINT, LOG, VALIDATION, train
from evssm.training.recipes import RECIPES, TrainConfig

TINY = {"width": 8, "depths": (1, 1, 1)}
CONFIG = TrainConfig(
    steps=6, batch=4, crop=32, warmup=2, betas=(0.9, 0.99), clip=1.0, average=0.9, validate_every=3, checkpoint_every=2
)


class Crops:
    """Crop i is noise of seed i and its mean over neighbours; `broken` holds the numbers that give NaN."""

    def __init__(self, size=32, broken=()):
        self.size, self.broken = size, broken

    def __len__(self):
        return 1 << 40

    def __getitem__(self, i):
        sharp = torch.from_numpy(np.random.default_rng(i).random((3, self.size, self.size), np.float32))
        blurred = (sharp + sharp.roll(1, -1) + sharp.roll(1, -2)) / 3
        return Pair(blurred * (float("nan") if i in self.broken else 1), sharp, f"noise-{i}")


def run(folder, config=CONFIG, *, crops=None, name="evssm-compact", validation=None, overrides=TINY, **options):
    validation = [Crops()[10**6 + i] for i in range(2)] if validation is None else validation
    return train(name, crops or Crops(), validation, config, folder, overrides=overrides, **options)


def weights(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_run_that_was_interrupted_equals_one_that_was_not_bit_for_bit(whole, tmp_path, stop):
    part = run(tmp_path, stop_after=stop)
    assert part.steps == stop
    rest = run(tmp_path)
    assert rest.steps == CONFIG.steps
    assert equal(weights(rest.net), weights(whole[1].net))
    for log in (LOG, VALIDATION):
        assert (tmp_path / log).read_bytes() == (whole[0] / log).read_bytes()


def test_a_run_killed_between_checkpoints_loses_only_what_came_after_the_last(whole, tmp_path):
    class Killed(Exception):
        pass

    def kill(done, total, latest):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, report=kill)
    assert int(read_journal(tmp_path / LOG)[-1]["step"]) == 5
    told = []
    again = run(tmp_path, report=lambda done, *_: told.append(done))
    assert told == [5, 6]  # the checkpoint was of step 4
    assert equal(weights(again.net), weights(whole[1].net))
    assert (tmp_path / LOG).read_bytes() == (whole[0] / LOG).read_bytes()


def test_training_leaves_the_callers_random_state_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run(tmp_path, replace(CONFIG, steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_parts_of_a_batch_add_up_to_it(tmp_path):
    config = replace(CONFIG, steps=1, clip=1e9)
    one, two = (run(tmp_path / str(k), replace(config, accumulate=k)) for k in (1, 2))
    rows = [read_journal(tmp_path / str(k) / LOG)[0] for k in (1, 2)]
    for column in ("loss", "gradient"):
        assert float(rows[0][column]) == pytest.approx(float(rows[1][column]), rel=1e-5)
    assert_close(weights(one.net), weights(two.net), rtol=1e-3, atol=1e-4)


def test_a_step_is_adamw_on_the_loss_of_its_crops(tmp_path):
    from evssm.loss import deblurring_loss

    config = replace(CONFIG, steps=1, warmup=0, average=0.0, clip=1e9)
    result = run(tmp_path, config, seed=3)
    torch.manual_seed(3)
    net = build("evssm-compact", **TINY)
    pairs = [Crops()[i] for i in range(config.batch)]
    loss = deblurring_loss(net(torch.stack([p.blurred for p in pairs])), torch.stack([p.sharp for p in pairs]))
    loss.backward()
    # The first step of Adam moves each weight by its rate against the sign of its gradient, after the decay.
    for (key, after), before in zip(result.net.named_parameters(), net.parameters(), strict=True):
        decayed = before.detach() * (1 - config.rate * config.weight_decay)
        moved = config.rate * before.grad / (before.grad.abs() + 1e-8)
        assert_close(after.detach(), decayed - moved, rtol=1e-4, atol=2e-5, msg=key)
    assert float(read_journal(tmp_path / LOG)[0]["loss"]) == pytest.approx(loss.item(), rel=1e-6)


def test_the_network_starts_as_the_identity_where_that_is_asked_for(tmp_path):
    config = replace(CONFIG, steps=1, rate=0.0, last_rate=0.0, start_as_identity=True, validate_every=1)
    for name in ("evssm-compact", "nafnet-compact", "mimo-unet-plus-compact"):
        net = run(tmp_path / name, config, name=name, overrides={}).net
        x = torch.rand(1, 3, 32, 40)
        assert_close(net(x), x)
        assert float(read_journal(tmp_path / name / VALIDATION)[0]["gain"]) == pytest.approx(0, abs=1e-6)


def test_a_second_stage_begins_with_the_firsts_weights_and_goes_on_with_them(whole, tmp_path):
    first = save(whole[1].net, tmp_path / "first.safetensors", steps=6)
    still = replace(CONFIG, steps=2, rate=0.0, last_rate=0.0, weight_decay=0.0)
    second = run(tmp_path / "second", still, start=first)
    assert_close(weights(second.net), weights(whole[1].net))
    run(tmp_path / "third", start=first, stop_after=2)
    with pytest.raises(ValueError, match=r"belongs to another run .*start"):
        run(tmp_path / "third")
    assert run(tmp_path / "third", start=first).steps == CONFIG.steps


def test_every_scale_of_mimo_unet_is_trained(tmp_path):
    config = replace(CONFIG, steps=1, start_as_identity=True)
    net = run(tmp_path, config, name="mimo-unet-plus-compact", overrides={}).net
    assert all(float(part.weight.detach().abs().sum()) > 0 for part in net.output)


def test_a_batch_that_breaks_the_run_is_kept_and_the_checkpoint_too(tmp_path):
    broken = {13}  # in step 3, counted from 0
    with pytest.raises(FloatingPointError, match=r"step 4; .*bad_batch.safetensors keeps the batch"):
        run(tmp_path, crops=Crops(broken=broken))
    kept = load_file(tmp_path / BAD_BATCH)
    assert torch.isnan(kept["blurred"][1]).all()
    assert torch.equal(kept["sharp"][1], Crops()[13].sharp)
    assert torch.isfinite(kept["net.embed.weight"]).all()
    assert Checkpoint.load(tmp_path / CHECKPOINT, _run_of(tmp_path)).step == 2
    assert len(read_journal(tmp_path / LOG)) == 3


def _run_of(folder):
    import json

    return json.loads(torch.load(folder / CHECKPOINT, weights_only=True)["run"])


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": "other"}, {"overrides": {**TINY, "width": 12}}])
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, change):
    run(tmp_path, stop_after=2)
    with pytest.raises(ValueError, match=f"belongs to another run .*{next(iter(change))}"):
        run(tmp_path, **change)


def test_a_damaged_checkpoint_is_refused_in_a_line(tmp_path):
    run(tmp_path, stop_after=2)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no checkpoint", whole[:100]):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        with pytest.raises(ValueError, match="is no checkpoint of a training run"):
            run(tmp_path)


def test_validation_scores_whole_images_with_the_running_mean(whole):
    folder, outcome = whole
    pairs = [Crops()[10**6 + i] for i in range(2)]
    last = read_journal(folder / VALIDATION)[-1]
    with torch.no_grad():
        scores = [psnr(outcome.net(p.blurred[None]), p.sharp[None]).item() for p in pairs]
    assert float(last["psnr"]) == pytest.approx(sum(scores) / 2)
    blurred = [psnr(p.blurred[None], p.sharp[None]).item() for p in pairs]
    assert float(last["gain"]) == pytest.approx(sum(scores) / 2 - sum(blurred) / 2)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="does not divide into 3"):
        TrainConfig(batch=4, accumulate=3)


def test_settings_survive_json():
    for config in RECIPES.values():
        assert TrainConfig.from_dict(config.as_dict()) == config
    with pytest.raises(ValueError, match="no 'speed'"):
        TrainConfig.from_dict({"speed": 9})


def test_a_log_forgets_what_the_checkpoint_does_not_know(tmp_path):
    log = Journal(tmp_path / "log.csv", ("loss",))
    for step in (1, 2, 3):
        log.add(step, {"loss": 1 / step})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.2")  # cut short
    again = Journal(tmp_path / "log.csv", ("loss",), done=2)
    again.add(3, {"loss": 0.5})
    assert [(row["step"], float(row["loss"])) for row in read_journal(tmp_path / "log.csv")] == [
        *(("1", 1.0), ("2", 0.5), ("3", 0.5)),
    ]
