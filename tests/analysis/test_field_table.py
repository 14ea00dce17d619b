"""The table beside a figure says what the fields say."""

import re

import numpy as np
import pytest

from analysis.field import ERF
from analysis.field_table import COLUMNS, field_table
from analysis.verdicts import Verdict


def field(shift=0, trained=True, steps=None):
    y, x = np.mgrid[-24:25, -24:25]
    maps = np.stack([np.exp(-(x**2 + (y + shift) ** 2) / (2 * s**2)) for s in (4.0, 5.0, 6.0)])
    mass = maps.sum(axis=(1, 2))
    made = {"images": [0, 1, 2], "trained": trained, "provenance": {"steps": steps}}
    return ERF(maps / mass[:, None, None], mass, np.ones(x.shape), made)


def cells(table, title):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {title} |")]
    return dict(zip(["network", "seeds", "weights", *COLUMNS], [c.strip() for c in line.split("|")[1:-1]], strict=True))


def test_each_number_is_that_of_the_pooled_field_inside_its_interval():
    seeds = [field(steps=1000), field(shift=6, steps=1000)]
    row = cells(field_table({"a": seeds, "b": [field()]}), "a")
    assert row["seeds"] == "2"
    assert row["weights"] == "1000 steps"
    for heading, measure in COLUMNS.items():
        number, low, high = map(float, re.match(r"(\S+) \[(\S+), (\S+)\]", row[heading]).groups())
        assert number == pytest.approx(measure(ERF.pooled(seeds)), rel=0.01, abs=0.01)
        assert low <= number * (1 + 1e-2) + 1e-2
        assert high >= number * (1 - 1e-2) - 1e-2
        alone = [float(text) for text in row[heading].split("/")[1].split(",")]
        assert alone == pytest.approx([measure(seed) for seed in seeds], rel=0.01, abs=0.01)


def test_a_field_that_leans_up_has_a_positive_number_for_it():
    row = cells(field_table({"a": [field(shift=6)]}), "a")
    assert float(row["up-down"].split()[0]) > 0.2
    assert abs(float(row["left-right"].split()[0])) < 1e-6


def test_claims_are_judged_only_by_trained_weights():
    claims = [Verdict("a > b", "R90", "larger", 1.0, 0.5, 1.5)]
    untrained = field_table({"a": [field(trained=False)]}, claims)
    assert "untrained: they say nothing about the paper's claims" in untrained
    assert "a > b" not in untrained
    trained = field_table({"a": [field()]}, claims)
    assert "untrained" not in trained
    assert "- a > b: shown (R90, difference +1," in trained
