"""Scores: right row by row, resumable, never mixed with others, and honest about what failed."""

import json
from math import inf, isnan, nan

import numpy as np
import pytest
import torch
from torch import nn

from evssm import build, load, save
from evssm.cautions import cautions, task_of, task_of_weights
from evssm.evaluate import evaluate
from evssm.inference import Inference
from evssm.ledger import Ledger, read_ledger
from evssm.metrics import Protocol, psnr, ssim
from evssm.photographs import photograph
from evssm.scores import COLUMNS, Row, Scores, comparison


class Brighter(nn.Module):
    """Adds a constant, and counts how often it runs on images that are not tiny."""

    def __init__(self, offset=0.1):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(float(offset)))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return x + self.offset


def pairs_of(n=3, size=(32, 40)):
    generator = torch.Generator().manual_seed(n)
    sharp = torch.randint(0, 200, (n, 3, *size), generator=generator) / 255
    return [((s - 0.1).clamp(0, 1), s, f"scene/{i}") for i, s in enumerate(sharp)]


def test_every_row_holds_the_scores_of_its_image():
    pairs, net = pairs_of(), Brighter()
    scores = evaluate(net, pairs, data="made up", protocol=Protocol(crop=2, ssim="uniform"))
    for row, (blurred, sharp, name) in zip(scores.rows, pairs, strict=True):
        restored = blurred + 0.1
        assert row.name == name
        assert row.psnr == psnr(restored[None], sharp[None], crop=2).item()
        assert row.ssim == ssim(restored[None], sharp[None], crop=2, variant="uniform").item()
        assert row.blurred_psnr == psnr(blurred[None], sharp[None], crop=2).item()
        assert row.gain == row.psnr - row.blurred_psnr > 0
        assert (row.covered, row.not_finite, row.overshoot, row.note) == (1, 0, 0, "")
    assert scores.mean("gain") == pytest.approx(np.mean([row.gain for row in scores.rows]), rel=1e-14)
    low, high = scores.interval("gain")
    assert low < scores.mean("gain") < high


def test_an_image_that_is_given_back_sharp_is_infinitely_good():
    pairs = [(sharp, sharp, name) for _, sharp, name in pairs_of(2)]
    scores = evaluate(Brighter(0), pairs, data="made up")
    assert scores.mean("psnr") == inf
    assert isnan(scores.interval("psnr")[0])
    assert isnan(scores.rows[0].gain)
    assert scores.summary()["mean"]["psnr"] is None


def test_the_way_of_inference_reaches_the_network_and_the_label():
    seen = []

    def net(x):
        seen.append(tuple(x.shape[-2:]))
        return x

    scores = evaluate(net, pairs_of(1, (64, 80)), data="d", inference=Inference(48, 8, "x4"))
    assert len(seen) == 4 * 4
    assert scores.label.endswith("net (tiles 48/8, x4)")
    assert scores.rows[0].cost == sum(h * w for h, w in seen) / (64 * 80) > 4


def test_a_table_is_what_was_returned_and_a_second_run_computes_nothing(tmp_path):
    pairs, net, path = pairs_of(), Brighter(), tmp_path / "scores.csv"
    first = evaluate(net, pairs, data="made up", path=path)
    assert net.runs == 3
    assert Scores.load(path) == first
    again = evaluate(net, pairs, data="made up", path=path)
    assert net.runs == 3
    assert again == first


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    pairs, net, path = pairs_of(4), Brighter(), tmp_path / "scores.csv"
    broken = [*pairs[:2], (torch.rand(4, 32, 40), *pairs[2][1:]), pairs[3]]
    with pytest.raises(ValueError, match="scene/2"):
        evaluate(net, broken, data="made up", path=path)
    assert [row["name"] for row in read_ledger(path)[1]] == ["scene/0", "scene/1"]
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:25])  # the next row, cut off while it was written
    runs = net.runs
    scores = evaluate(net, pairs, data="made up", path=path)
    assert net.runs == runs + 2
    assert [row.name for row in scores.rows] == [name for *_, name in pairs]
    assert Scores.load(path) == scores


def test_an_image_that_has_changed_is_computed_again(tmp_path):
    pairs, net, path = pairs_of(), Brighter(), tmp_path / "scores.csv"
    evaluate(net, pairs, data="made up", path=path)
    pairs[1] = (pairs[1][0] * 0.9, *pairs[1][1:])
    scores = evaluate(net, pairs, data="made up", path=path)
    assert net.runs == 4
    assert scores.rows[1].blurred_psnr == psnr(pairs[1][0][None], pairs[1][1][None]).item()
    assert evaluate(net, pairs, data="made up", path=path) == scores
    assert net.runs == 4
    assert set(Scores.load(path).rows) == set(scores.rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": Protocol(ssim="volume")}, "protocol"),
        ({"inference": Inference(ensemble="x8")}, "inference"),
        ({"data": "other"}, "data"),
    ],
)
def test_a_table_made_otherwise_is_left_alone(tmp_path, change, named):
    path = tmp_path / "scores.csv"
    evaluate(Brighter(), pairs_of(), data="made up", path=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{named} differ"):
        evaluate(Brighter(), pairs_of(), **{"data": "made up", "path": path, **change})
    with pytest.raises(ValueError, match="weights differ"):
        evaluate(Brighter(0.2), pairs_of(), data="made up", path=path)
    assert path.read_bytes() == before


def test_untrained_networks_are_scored_only_on_demand_and_say_so():
    net = build("nafnet-compact")
    with pytest.raises(ValueError, match="no trained weights"):
        evaluate(net, pairs_of(1), data="made up")
    assert "untrained weights" in evaluate(net, pairs_of(1), data="made up", untrained=True).cautions


def test_what_is_wrong_with_an_output_is_counted_and_keeps_it_out_of_the_mean():
    def net(x):
        y = x.clone()
        if x[0, 0, 0, 0] == pairs[1][0][0, 0, 0]:
            y[0, 0, :2, :3] = nan
        y[0, 1, :4] = 1.2
        return y

    pairs = pairs_of()
    scores = evaluate(net, pairs, data="made up")
    assert [row.not_finite for row in scores.rows] == [0, 6, 0]
    assert all(row.overshoot == pytest.approx(4 / 96) for row in scores.rows)
    assert isnan(scores.rows[1].psnr)
    assert scores.mean() == pytest.approx((scores.rows[0].psnr + scores.rows[2].psnr) / 2)
    assert scores.summary()["scored"] == 2
    assert any("1 of 3 images without a score, scene/1" in line for line in scores.cautions)
    assert any("1 outputs with values that are not finite" in line for line in scores.cautions)


def test_a_pair_that_cannot_be_aligned_is_a_row_and_counted(tmp_path):
    sharp = photograph("coffee", (80, 96))
    shifted = photograph("coffee", (84, 100))[:, 1:81, 2:98]
    pairs = [(shifted, sharp, "good"), (torch.full_like(sharp, 0.5), sharp, "flat")]
    ecc = Protocol(alignment="ecc")
    scores = evaluate(Brighter(0), pairs, data="RealBlur-J", protocol=ecc, path=tmp_path / "s.csv")
    good, flat = scores.rows
    assert good.psnr > 35 > evaluate(Brighter(0), pairs, data="RealBlur-J").rows[0].psnr
    assert 0.9 < good.covered < 1
    assert isnan(flat.psnr)
    assert flat.note.startswith("not aligned: ")
    assert scores.mean() == good.psnr
    assert scores.summary()["not_aligned"] == 1
    assert any("1 of 2 images without a score, flat" in line for line in scores.cautions)
    assert repr(Scores.load(tmp_path / "s.csv").rows) == repr(scores.rows)  # NaN is not equal to itself


def test_the_two_views_of_a_dual_pixel_sensor_are_compared_as_one_image():
    left, right, sharp = torch.rand(3, 3, 32, 40).unbind()

    def net(x):
        return x[:, :3]

    (row,) = evaluate(net, [(torch.cat((left, right)), sharp, "a")], data="DPDD").rows
    assert row.psnr == psnr(left[None], sharp[None]).item()
    assert row.blurred_psnr == psnr((left[None] + right[None]) / 2, sharp[None]).item()


def test_names_must_tell_pairs_apart_and_sizes_must_agree():
    pairs = pairs_of(2)
    with pytest.raises(ValueError, match="called scene/0"):
        evaluate(Brighter(), [pairs[0], (*pairs[1][:2], "scene/0")], data="made up")
    with pytest.raises(ValueError, match="6 channels, not 3"):
        evaluate(build("restormer-dual-pixel-compact"), pairs, data="made up", untrained=True)
    views = (torch.cat((pairs[0][0],) * 2), *pairs[0][1:])
    with pytest.raises(ValueError, match="3 channels, not 6"):
        evaluate(build("restormer-compact"), [views], data="made up", untrained=True)
    with pytest.raises(ValueError, match="is sharp"):
        evaluate(lambda x: x[..., 1:], pairs, data="made up")


# --- comparing --------------------------------------------------------------------------------------------------------


def test_plain_and_local_stand_side_by_side(tmp_path):
    file = save(build("nafnet-compact", width=4), tmp_path / "n.safetensors", steps=1, data="GoPro")
    nets = [load(file), load(file, local=(16, 16))]
    both = [evaluate(net, pairs_of(2), data="made up") for net in nets]
    rows = comparison(both)
    assert [row["network"] for row in rows] == ["nafnet-compact", "nafnet-compact (local [16, 16])"]
    assert all(row["protocol"] == Protocol().describe() for row in rows)


def test_scores_of_different_protocols_data_or_images_are_not_compared():
    base = evaluate(Brighter(), pairs_of(2), data="made up")
    others = {
        "ssim 'gauss' and 'volume'": evaluate(
            Brighter(), pairs_of(2), data="made up", protocol=Protocol(ssim="volume")
        ),
        "data 'made up' and 'other'": evaluate(Brighter(), pairs_of(2), data="other"),
        "not the same images": evaluate(Brighter(), pairs_of(3), data="made up"),
    }
    for message, other in others.items():
        with pytest.raises(ValueError, match=message):
            comparison([base, other])
    assert len(comparison([base, evaluate(Brighter(0.3), pairs_of(2), data="made up")])) == 2
    with pytest.raises(ValueError, match="nothing to compare"):
        comparison([])


def test_the_sidecar_says_what_the_numbers_depend_on(tmp_path):
    scores = evaluate(Brighter(), pairs_of(2), data="made up", path=tmp_path / "s.csv")
    before = (tmp_path / "s.csv").read_bytes()
    assert scores.save(tmp_path / "s.csv", command="evssm evaluate").read_bytes() == before
    assert Scores.load(scores.save(tmp_path / "copy.csv")) == scores
    facts = json.loads((tmp_path / "s.json").read_text())
    assert facts["mean"]["psnr"] == scores.mean()
    assert facts["protocol"] == {"rounding": "8-bit", "ssim": "gauss", "crop": 0, "alignment": "none"}
    assert len(facts["weights"]) == 64
    assert facts["command"] == "evssm evaluate"
    with pytest.raises(ValueError, match="where its sidecar goes"):
        scores.save(tmp_path / "s.json")


# --- cautions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("GoPro test", "motion"),
        ("net_g_RealBlur_J.pth", "motion"),
        ("HIDE", "motion"),
        ("embedded camera shake", "motion"),
        ("DPDD test (dual-pixel)", "defocus"),
        ("single_image_defocus_deblurring.pth", "defocus"),
        ("GoPro and DPDD", None),
        ("holiday photographs", None),
        (None, None),
    ],
)
def test_names_tell_the_kind_of_blur(text, task):
    assert task_of(text) == task


def test_motion_weights_on_defocus_data_and_unaligned_realblur_are_labelled():
    stamp = {"provenance": {"data": None, "file": "net_g_GoPro.pth"}, "trained": True}
    assert task_of_weights({"data": "DPDD", "file": "net_g_GoPro.pth"}) == "defocus"
    (line,) = cautions(stamp, "DPDD test", Protocol())
    assert "motion weights on defocus data" in line
    (line,) = cautions(stamp, "RealBlur-J test", Protocol())
    assert "not comparable" in line
    assert cautions(stamp, "RealBlur-J test", Protocol(alignment="ecc")) == []
    assert cautions(stamp, "GoPro test", Protocol()) == []


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_ledger_reads_back_what_was_written(tmp_path):
    path = tmp_path / "t.csv"
    rows = [{"name": 'a, "b"\u2028c', "x": 0.1 + 0.2}, {"name": "# no comment", "x": nan}, {"name": "ü", "x": inf}]
    ledger = Ledger(path, {"of": "ä"}, ("name", "x"), lines=("for people", "# more"))
    for row in rows:
        ledger.append(row)
    header, found = read_ledger(path)
    assert header == {"of": "ä"}
    assert [row["name"] for row in found] == ['a, "b" c', "# no comment", "ü"]
    assert float(found[0]["x"]) == 0.1 + 0.2
    assert [found[1]["x"], found[2]["x"]] == ["nan", "inf"]
    assert Ledger(path, {"of": "ä"}, ("name", "x")).rows == found


@pytest.mark.parametrize(
    "text", ["", "name,x\na,1\n", "# {broken\nname\na\n", '# {"of": 1}\nname,x\na\n', "# no header\na\n"]
)
def test_a_file_that_is_no_table_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="no table"):
        Ledger(path, {"of": 1}, ("name", "x"))
    assert path.read_text() == text
    with pytest.raises(ValueError, match="no table"):
        Scores.load(path)


def test_a_row_is_read_back_with_its_types():
    row = Row("a", 1.5, nan, 2.0, 0.5, inf, 1.0, 3, 0.25, 0.1, 4.0, "", "00")
    cells = {key: value if isinstance(value, str) else repr(value) for key, value in vars(row).items()}
    assert tuple(cells) == COLUMNS
    assert repr(Row.read(cells)) == repr(row)
