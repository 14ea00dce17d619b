"""What a data set costs: CPU seconds per task (`cost`), and many images on two processes, one killed twice (`load`).

python tests/benchmarks/scale.py cost --size 128
python tests/benchmarks/scale.py load --images 1000
"""

import argparse
import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from PIL import Image

NETWORKS = ("evssm", "nafnet", "mimo-unet-plus", "restormer", "fftformer", "stripformer")


def cost(size: int) -> None:
    """CPU seconds of one thread: a forward pass with its graph, a vector-Jacobian product, a training crop."""
    from analysis.borrow import borrowed
    from analysis.sensitivity import response
    from evssm import build
    from evssm.loss import deblurring_loss

    torch.set_num_threads(1)
    print(f"{size} x {size} px      forward   product   training crop   peak memory so far")
    for name in NETWORKS:
        net = build(name)
        for edge in (32, size):  # the small one compiles what is compiled
            with borrowed(net):
                x = torch.rand(1, 3, edge, edge, requires_grad=True)
                start = time.process_time()
                y, _ = response(net, x, None, "exclude")
                made = time.process_time()
                torch.autograd.grad(y[0, 0, edge // 2, edge // 2], x)
                done = time.process_time()
            del y
            deblurring_loss(net(x.detach()), x.detach()).backward()
            trained = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        numbers = f"{made - start:7.2f} s {done - made:7.2f} s {trained - done:13.2f} s {peak:16.2f} GiB"
        print(f"{name:15} {numbers}", flush=True)
    field = np.random.default_rng(0).random((1, size, size))
    start = time.process_time()
    for _ in range(10):
        np.savez_compressed(io.BytesIO(), field)
    print(f"packing an answer {(time.process_time() - start) / 10 * 1000:.0f} ms")


def load(images: int) -> None:
    """`evssm erf --cluster local` with a worker killed twice, held against the same in one process, bit for bit."""
    from analysis import ERF

    with TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng()
        (folder / "in").mkdir()
        for number in range(images):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "in" / f"{number:05}.png")
        words = [sys.executable, "-m", "evssm", "erf", "nafnet-compact", "--size", "32", "--image", str(folder / "in")]
        alone = subprocess.run([*words, "--threads", "1", "--out", str(folder / "alone")], check=False)
        many = subprocess.Popen([*words, "--cluster", "local", "--workers", "2", "--out", str(folder / "many")])
        answers, killed = folder / "many" / "answers", 0
        while many.poll() is None:
            there = len(list(answers.glob("*.npz"))) if answers.is_dir() else 0
            if killed < 2 and there > images * (killed + 1) // 3:
                workers = [p for p in psutil.Process(many.pid).children() if "spawn_main" in " ".join(p.cmdline())]
                os.kill(workers[killed % len(workers)].pid, signal.SIGKILL)
                killed += 1
                print(f"killed a worker after {there} answers", flush=True)
            time.sleep(0.2)
        if alone.returncode or many.returncode:
            sys.exit("one of the runs failed")
        one, two = (ERF.load(folder / name / "erf_nafnet-compact.npz") for name in ("alone", "many"))
        same = all(
            np.array_equal(getattr(one, part), getattr(two, part)) for part in ("per_image", "mass", "map", "raw")
        )
        print(f"{images} images, {killed} kills: {'the same bit for bit' if same else 'DIFFERENT'}")
        if not same or killed < 2:
            sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "load"))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=1000)
    asked = parser.parse_args()
    cost(asked.size) if asked.what == "cost" else load(asked.images)
