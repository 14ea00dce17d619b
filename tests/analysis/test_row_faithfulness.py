"""Rows judged inside EVSSM: where the scan's own selection follows, where windows cut, and rows that must fail."""

import numpy as np
import pytest
import torch

from analysis.activations import ScanCache
from analysis.map_verdict import check_rows, tally
from analysis.row_faithfulness import row_faithfulness
from evssm import build

QUERIES = [(18, 15), (9, 21), (25, 8)]


@pytest.fixture(scope="module")
def held():
    """A small EVSSM in float64 and its scans of one image."""
    torch.manual_seed(0)
    net = build("evssm-compact", width=8, depths=(1, 1, 1)).double()
    image = torch.rand(3, 32, 32, dtype=torch.float64)
    return net, image, ScanCache(net, image, "encoder.0.0")


@pytest.mark.parametrize("level", ["A3", "A7"])
def test_a_row_does_better_than_chance_and_the_same_row_turned_around_worse(held, level):
    *_, cache = held
    (stage,) = cache.names
    true = row_faithfulness(cache, stage, QUERIES, level=level, steps=6)
    assert true.gain("random") > 0
    assert true.answers == {"A3": "the output of its scan", "A7": "the output of its branch"}[level]
    turned = Turned(cache)
    false = row_faithfulness(turned, stage, QUERIES, level=level, steps=6)
    assert false.gain("random") < 0 < true.gain("random")
    assert true.gain("nearest") > false.gain("nearest")


class Turned(ScanCache):
    """A cache whose rows say the opposite of what they should."""

    def __init__(self, cache):
        self.__dict__.update(cache.__dict__)

    def row(self, *args, **options):
        found = super().row(*args, **options)
        object.__setattr__(found, "map", np.where(found.support, 1 / (np.abs(found.map) + 1e-30), 0))
        return found


def test_in_windows_the_row_is_judged_in_one_around_the_query():
    net = build("evssm-compact", width=8, depths=(1, 1, 1), local=(16, 8, 8)).double()
    cache = ScanCache(net, torch.rand(3, 32, 32, dtype=torch.float64), "encoder.0.0")
    judged = row_faithfulness(cache, cache.names[0], [(12, 13)], steps=5)
    assert judged.counts[-1] < 16 * 16
    with pytest.raises(ValueError, match="no query sees two pixels besides itself"):
        row_faithfulness(cache, cache.names[0], [(0, 0)], steps=5)


def test_maps_of_a_network_each_have_a_verdict_and_the_network_is_left_alone(held):
    net, image, cache = held
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    rows = cache.rows((18, 15), keep_channels=False)
    done = []
    verdicts = check_rows(net, image, rows, track=lambda task: lambda k, of: done.append((task, k, of)))
    assert list(verdicts) == list(rows)
    assert tally(verdicts).endswith(": 1 of 1")
    assert ("weights", 8, 8) in done
    assert ("order", 1, 1) in done
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    column = {cache.names[0]: cache.row((18, 15), cache.names[0], kind="column")}
    assert "order not judged: a column" in str(check_rows(net, image, column)[cache.names[0]])
