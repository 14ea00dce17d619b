import pytest
import torch
from torch import nn

from analysis import runtime
from analysis.timing import Runtime, _memory

MEBIBYTE = 2**20


class Hungry(nn.Module):
    """Has 100 MiB for a moment."""

    def forward(self, x):
        return x + torch.ones(25 * MEBIBYTE).sum()


class Alone(nn.Module):
    """Says how many threads there are and whether this is evaluation without gradients, by failing."""

    def forward(self, x):
        raise RuntimeError(f"{torch.get_num_threads()} {self.training} {torch.is_grad_enabled()} {tuple(x.shape)}")


def test_a_fresh_process_measures_every_repetition_and_the_peak_of_the_network_alone():
    ballast = torch.ones(100 * MEBIBYTE)  # in this process, not in that one
    found = runtime(Hungry(), (8, 16), threads=1, warm_up=1, repeats=3)
    assert found.shape == (1, 3, 8, 16)
    assert (len(found.seconds), len(found.cpu_seconds)) == (3, 3)
    assert min(found.seconds) > 0
    assert 100 * MEBIBYTE <= found.peak_bytes - found.idle_bytes < 200 * MEBIBYTE
    assert found.peak_bytes < _memory("cpu", peak=False)
    assert ballast[0] == 1
    assert "median and quartiles of 3 after 1 for warm-up" in found.line()
    assert found.line().endswith("float32, 1 thread")


def test_it_has_the_threads_and_the_mode_that_were_asked_for():
    with pytest.raises(ValueError, match=r"on an input 2 x 3 x 8 x 8: RuntimeError: 2 False False \(2, 3, 8, 8\)"):
        runtime(Alone(), 8, batch=2, threads=2)


def test_median_and_quartiles_are_those_of_the_repetitions():
    seconds = (5.0, 1.0, 2.0, 3.0, 4.0)
    found = Runtime((1, 3, 8, 8), "a processor", "float32", 2, 0, seconds, (1.0, 1.0, 9.0), 2 * MEBIBYTE, None)
    assert (found.median, found.quartiles, found.cpu_median) == (3.0, (2.0, 4.0), 1.0)
    assert found.line() == (
        "3000.0 ms (2000.0 to 4000.0; median and quartiles of 5 after 0 for warm-up), 1000.0 ms of processor time; "
        "memory at most 2 MiB, before unknown; a processor, float32, 2 threads"
    )
    assert found.as_dict()["median"] == 3.0
    single = Runtime((1, 3, 8, 8), "a processor", "float32", 1, 0, (1.0,), (1.0,), None, None)
    assert single.quartiles == (1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"repeats": 0}, "repeats 0 are 1 or more"),
        ({"threads": 0}, "threads 0"),
        ({"warm_up": -1}, "warm_up -1"),
        ({"size": 0}, r"sizes \(1, 3, 0, 0\)"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"net": lambda x: x}, "cannot be sent to a fresh process"),
    ],
)
def test_what_cannot_be_measured_says_why(options, part):
    with pytest.raises(ValueError, match=part):
        runtime(**{"net": nn.Identity(), "size": 8, "threads": 1, **options})
