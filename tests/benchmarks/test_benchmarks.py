"""What the benchmark suite makes of the times it takes; none of the times themselves."""

import subprocess
import sys
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import pytest
from compare import COUNTED, FLOOR, HERE, OURS, Row, in_turn
from floor import Rates
from picture import draw_growth_of

RATES = Rates(exponentials=2e9, softplus=1e9, product=1e11, copy=1e12)


def test_contenders_run_in_turn_and_the_first_round_does_not_count():
    ran = []
    times = in_turn({name: lambda name=name: ran.append(name) for name in "abc"}, 7, frozenset("c"))
    assert "".join(ran) == 6 * "abc" + 2 * "ab"
    assert {name: len(found) for name, found in times.items()} == {"a": 7, "b": 7, "c": 5}


def test_medians_and_quartiles_are_numpy_s():
    seconds = tuple(np.random.default_rng().random(8))
    row = Row("scan", "both", 64, OURS, seconds)
    assert row.median == pytest.approx(np.median(seconds))
    assert row.spread == pytest.approx(np.quantile(seconds, (0.25, 0.75)))
    assert Row("scan", "both", 64, OURS).median is None
    assert Row("scan", "both", 64, OURS, (2.0,)).spread == (2.0, 2.0)


def test_a_scan_s_floor_is_its_exponentials_or_its_traffic():
    """96 x 1000 numbers: 8 exponentials at 2 G/s and a softplus at 1 G/s each, 5 ns; twice, and one for the slope."""
    assert RATES.scan(96, 1000) == pytest.approx(96e3 * 5e-9)
    assert RATES.scan(96, 1000, backward=True) == pytest.approx(96e3 * 10.5e-9)
    slow = Rates(exponentials=2e9, softplus=1e9, product=1e11, copy=1e9)
    assert slow.scan(96, 1000) == pytest.approx(96e3 * 12e-9)  # three tensors of four bytes at 1 GB/s


def test_a_network_s_floor_multiplies_once_forward_once_for_inputs_and_once_for_weights():
    scan, back = RATES.scan(1, 1000), RATES.scan(1, 1000, backward=True)
    assert RATES.network(1e9, 1000) == pytest.approx(0.01 + scan)
    assert RATES.network(1e9, 1000, products=1) == pytest.approx(0.02 + back)
    assert RATES.network(1e9, 1000, products=1, weights=True) == pytest.approx(0.03 + back)


def test_the_picture_shows_every_contender_and_the_floor_at_its_numbers():
    rows = [Row("size", "forward", side, OURS, (side / 32,), side * 2**20) for side in (64, 128)]
    rows += [Row("size", "forward", side, FLOOR, (side / 320,)) for side in (64, 128)]
    rows += [Row("size", "forward", side, COUNTED, (), side * 2**19) for side in (64, 128)]
    figure, (above, below) = plt.subplots(1, 2)
    draw_growth_of(above, rows, "median")
    draw_growth_of(below, rows, "peak")
    lines = {line.get_label(): line.get_xydata().tolist() for line in above.lines}
    assert lines == {OURS: [[64, 2], [128, 4]], FLOOR: [[64, 0.2], [128, 0.4]]}
    lines = {line.get_label(): line.get_xydata().tolist() for line in below.lines}
    assert lines == {OURS: [[64, 1 / 16], [128, 1 / 8]], COUNTED: [[64, 1 / 32], [128, 1 / 16]]}
    plt.close(figure)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mambapy") is None, reason="mambapy is not here: pip install -e '.[bench]'")
def test_the_whole_suite_runs_at_tiny_sizes(tmp_path):
    command = [sys.executable, str(HERE), "--small", "--rounds", "1", "--out", str(tmp_path), "--only"]
    subprocess.run([*command, "scan", "rows", "images"], check=True, stdout=subprocess.DEVNULL)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0].startswith("# machine: ")
    assert {line.split(",")[0] for line in lines if not line.startswith("#")} == {"part", "scan", "rows", "images"}
    assert (tmp_path / "results.png").stat().st_size > 10_000


@pytest.mark.skipif(find_spec("mambapy") is not None, reason="mambapy is here")
def test_without_mambapy_one_line_says_what_to_install():
    done = subprocess.run([sys.executable, str(HERE)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install -e '.[bench]'" in done.stderr
    assert "Traceback" not in done.stderr
