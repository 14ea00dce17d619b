"""Faults that are planted, found where they are, and taken out again to the last bit."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from untouched import untouched

from analysis.planted_faults import Hunt, hunt_table, hunts, innermost, planted
from analysis.planted_faults_figure import RIGHT, WRONG, hunt_panels
from evssm import build
from evssm.models.stages import Stage


@pytest.fixture(autouse=True)
def _closed():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


class Chain(nn.Module):
    """Four averages in a row, two of them in a block; whatever enters, no stage is larger than it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = self.mean(), self.mean()
        self.block = nn.Sequential(self.mean(), self.mean())
        names = ("first", "block.0", "block.1", "block", "last")
        self.stages = tuple(Stage(name, 3, 1) for name in names)

    def mean(self):
        conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect", bias=False, groups=3)
        nn.init.constant_(conv.weight, 1 / 9)
        return conv

    def forward(self, x):
        return self.last(self.block(self.first(x)))


def test_stages_that_hold_others_get_no_fault():
    assert innermost(Chain()) == ["first", "block.0", "block.1", "last"]
    names = innermost(build("evssm-compact"))
    assert "encoder.0.0.mixer" in names
    assert "encoder.0.0" not in names


@pytest.mark.parametrize("stage", ["embed", "encoder.1.0.mixer", "decoder.0.1.ffn", "up.0", "output"])
def test_one_weight_is_changed_and_put_back(stage):
    net = build("evssm-compact")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with untouched(net), planted(net, stage, 100) as key:
        after = net.state_dict()
        changed = {name: int((after[name] != value).sum()) for name, value in before.items()}
        assert {name for name, count in changed.items() if count} == {key}
        assert changed[key] == 1
        assert after[key].abs().max() == pytest.approx(100 * float(before[key].abs().max()))


def failing_run(net):
    with planted(net, "encoder.1.0.mixer", torch.nan):
        raise KeyError


def test_it_is_put_back_after_a_failure_too():
    net = build("evssm-compact")
    with untouched(net), pytest.raises(KeyError):
        failing_run(net)


def test_a_stage_without_weights_is_refused():
    with pytest.raises(ValueError, match="no weights"), planted(nn.Sequential(nn.ReLU()), "0", 2):
        pass


def test_in_a_chain_of_averages_every_large_fault_is_found_and_no_small_one():
    net, x, sound = Chain(), torch.rand(1, 3, 24, 32) / 2 + 0.5, torch.rand(1, 3, 16, 16) / 2 + 0.5
    done = []
    with untouched(net):
        found = hunts(net, x, sound, factors=(1, 2, 500), progress=lambda *at: done.append(at))
    assert done[-1] == (12, 12)
    for one in found:
        assert one.compared == (one.stage if one.factor == 500 else None)
        assert one.right is (one.factor == 500)
    # By the image alone a fault is not seen at all here: everything is as large as everything else.
    assert {one.alone for one in found} == {None}
    assert not any(one.right_alone for one in found)
    table = hunt_table(found)
    assert "| 1 | 4 | 0 | 0 | 4 | 0 | 0 | 4 |" in table
    assert "| 2 | 4 | 0 | 0 | 4 | 0 | 0 | 4 |" in table
    assert "| 500 | 4 | 4 | 0 | 0 | 0 | 0 | 4 |" in table


def test_the_image_alone_is_right_by_naming_the_block():
    def hunt(alone):
        return Hunt("encoder.1.1.ffn", "", 9.0, None, alone).right_alone

    assert hunt("encoder.1.1")
    assert hunt("encoder.1.1.ffn")
    assert not hunt("encoder.1.10")
    assert not hunt("encoder.1.0")
    assert not hunt(None)


def test_a_cast_is_what_the_fault_adds_to_the_colour_that_it_is_in():
    net, x = Chain(), torch.rand(3, 16, 16) / 8 + 0.25
    (one,) = hunts(net, x, x, factors=(2,), places=["last"])
    # The first of equal weights is doubled: one of nine neighbours counts twice in red.
    assert one.weight == "last.weight"
    assert one.cast[0] == pytest.approx(float(x[0].mean()) / 9, rel=0.1)
    assert one.cast[1:] == (0, 0)
    assert one.tint == one.cast[0]
    (one,) = hunts(net, x, x, factors=(1000,), places=["last"])
    assert one.cast[0] == pytest.approx(1 - float(x[0].mean()), rel=0.01)  # no screen shows more than white


def test_dots_lie_on_the_diagonal_where_the_tracer_is_right():
    order = [stage.name for stage in Chain().stages]
    found = [
        Hunt("first", "", 10.0, "first", None),
        Hunt("block.1", "", 10.0, "last", None),
        Hunt("last", "", 10.0, None, None),
        Hunt("last", "", 90.0, "last", None),
    ]
    faulty, worse = hunt_panels(found, order).axes
    dots = [(line.get_color(), *line.get_xydata()[0]) for line in faulty.lines if line.get_marker() in "ox"]
    assert dots == [(RIGHT, 0, 0), (WRONG, 2, 4), (WRONG, 4, -2)]
    assert faulty.get_title() == "one weight x 10: 1 of 3 right"
    assert worse.get_title() == "one weight x 90: 1 of 1 right"
