"""Any image through any network: composed as named, counted before it starts, and honest about what came out."""

import os
import subprocess
import sys
from math import inf, nan
from pathlib import Path

import pytest
import torch
from torch import nn

import evssm.inference
from evssm import build
from evssm.ensemble import self_ensemble
from evssm.inference import Health, Inference, memory_report, needed_memory
from evssm.memory import available_memory, container_memory, estimate_memory, in_words
from evssm.tiles import tiled


def test_tiles_are_taken_of_the_turned_image():
    conv = nn.Conv2d(3, 3, 9, padding=4, dtype=torch.float64)
    x = torch.rand(1, 3, 70, 101, dtype=torch.float64)
    with torch.no_grad():
        expected = self_ensemble(lambda y: tiled(conv, y, 48, 8), x, "x8")
        assert torch.equal(Inference(tile=48, overlap=8, ensemble="x8")(conv, x), expected)
        assert torch.equal(Inference()(conv, x), conv(x))


def test_a_network_runs_in_evaluation_mode_and_gets_its_own_back():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Dropout(0.5)))
    net[0].eval()
    before = [module.training for module in net.modules()]
    x = torch.rand(1, 3, 16, 16)
    y = Inference()(net, x)
    assert not y.requires_grad
    assert torch.equal(y, net[0](x))
    assert [module.training for module in net.modules()] == before
    with pytest.raises(RuntimeError):
        Inference()(net, torch.rand(1, 4, 16, 16))
    assert [module.training for module in net.modules()] == before


def test_images_take_the_type_of_the_weights():
    assert Inference()(nn.Conv2d(3, 3, 1, dtype=torch.float64), torch.rand(1, 3, 16, 16)).dtype == torch.float64


def test_the_cost_is_what_the_network_sees():
    for inference in (Inference(), Inference(ensemble="x4"), Inference(48, 16, "x8"), Inference(48, 40)):
        seen = []
        inference(lambda y, seen=seen: seen.append(y.shape[-2] * y.shape[-1]) or y, torch.rand(1, 3, 61, 100))
        assert inference.cost(61, 100) == pytest.approx(sum(seen) / 6100, rel=1e-12)


def test_a_line_says_how_images_went_through():
    assert Inference().describe() == "whole image; self-ensemble none"
    line = Inference(256, 32, "x4").describe()
    assert all(part in line for part in ("256", "32", "x4", "4 times the cost"))


@pytest.mark.parametrize(("arguments", "message"), [({"ensemble": "x3"}, "x8"), ({"tile": 3}, "too small")])
def test_ways_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Inference(**arguments)


def test_health_counts_what_is_not_finite_and_what_lies_far_outside():
    y = torch.full((1, 1, 10, 10), 0.5)
    assert Health.of(y) == Health(0, 0.0)
    assert Health.of(y).describe() == ""
    y.view(-1)[:6] = torch.tensor([nan, inf, -0.11, 1.11, -0.09, 1.09])
    assert Health.of(y) == Health(2, 0.02)
    assert "2 values are not finite; 2.00%" in Health.of(y).describe()


def chain(x):
    """At most three images alive: the input, its double, and the sum of it and one; then two of them end."""
    y = x * 2 + 1
    del x
    return y[..., :2] * 3


def test_the_count_is_that_of_the_tensors_alive():
    image = 4 * 3 * 40 * 50
    assert estimate_memory(lambda x: x, 40, 50) == image
    assert estimate_memory(lambda x: x.flip(-1).mT, 40, 50) == 2 * image
    assert estimate_memory(chain, 40, 50) == 3 * image
    conv = nn.Conv2d(6, 8, 3, padding=1, dtype=torch.float64)
    assert estimate_memory(conv, 40, 50, channels=6) == 8 * (6 + 8) * 40 * 50  # weights are not counted


def test_the_count_grows_as_the_network_does_and_computes_nothing():
    net = build("nafnet-compact")
    small, large, huge = (estimate_memory(net, edge, edge) for edge in (128, 256, 8192))
    assert large == pytest.approx(4 * small, rel=0.02)
    assert huge == pytest.approx(1024 * large, rel=0.02)


RUN = """
import torch
from pathlib import Path
from evssm import build
from evssm.memory import estimate_memory

def account(entry):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))

torch.set_num_threads(1)
net, x = build("mimo-unet-compact").eval(), torch.rand(1, 3, 256, 320)
counted = estimate_memory(net, 256, 320)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
before = account("VmRSS") - x.nbytes
with torch.no_grad():
    net(x)
print(counted, account("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's own account of the process")
def test_a_process_takes_what_was_counted_when_its_library_gives_blocks_back():
    ended = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    counted, took = map(int, ended.stdout.split())
    assert 0.9 < took / counted < 1.4  # 1.12; the rest is what convolutions need inside


def test_a_network_that_needs_values_is_told_to_be_uncountable():
    with pytest.raises(ValueError, match="without running"):
        estimate_memory(lambda x: x if float(x.sum()) > 0 else -x, 20, 20)


def test_too_large_an_image_is_refused_with_a_tile_that_fits(monkeypatch):
    net = build("nafnet-compact")
    need = estimate_memory(net, 512, 512)
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: 2 * need)
    assert "consider" not in memory_report(net, Inference(), 512, 512)
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: 1.1 * need)
    assert "consider --tile" in memory_report(net, Inference(), 512, 512)
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: need / 2)
    with pytest.raises(ValueError, match="try --tile") as refused:
        memory_report(net, Inference(), 512, 512)
    *_, tile, _, overlap = str(refused.value).split()
    advised = Inference(int(tile), int(overlap))
    assert f"at {tile} x {tile} pixels" in memory_report(net, advised, 512, 512)
    monkeypatch.setattr(evssm.inference, "available_memory", lambda device: need / 20)
    with pytest.raises(ValueError, match="cut the image into parts"):
        memory_report(net, Inference(), 512, 512)


@pytest.mark.parametrize("inference", [Inference(64, 16), Inference(ensemble="x4"), Inference(64, 16, "x4")], ids=str)
def test_the_memory_around_the_network_is_that_of_its_tiles_and_turns(inference):
    h, w = 200, 110

    def net(x):
        return x + 1

    exact = estimate_memory(lambda x: inference(net, x), h, w)
    assert exact <= needed_memory(net, inference, h, w) < 1.3 * exact


def test_progress_counts_the_tiles_of_all_positions():
    seen = []
    x = torch.rand(1, 3, 40, 70)
    Inference(32, 8, "x4")(lambda y: y, x, progress=lambda *pair: seen.append(pair))
    assert seen[0] == (0, seen[-1][0])
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    seen.clear()
    Inference(ensemble="x4")(lambda y: y, x, progress=lambda *pair: seen.append(pair))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_free_memory_is_that_of_the_container_where_it_is_less(tmp_path):
    assert 0 < available_memory() < 2**50
    assert container_memory(tmp_path) == inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert container_memory(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) == inf


def test_sizes_in_words():
    assert (in_words(3 * 2**20), in_words(1.5 * 2**30)) == ("3 MiB", "1.5 GiB")
