"""Where the time goes inside a forward pass, a receptive field and a training step: writes `analysis/PROFILES.md`.

python tests/benchmarks/profiles.py            # a minute on a quiet machine
python tests/benchmarks/profiles.py --small --out trial.md
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import torch
from compare import HERE
from network import CASES, SMALL, WORK, released
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from evssm.machine import commit, hardware
from evssm.models import build
from evssm.provenance import written_whole

INTRODUCTION = """# Where the time goes

Written by `python tests/benchmarks/profiles.py`: torch.profiler on one thread, each operator's own time (without that
of operators that it calls), the mean of {steps} repetitions after one for warm-up. Shares travel between machines, the
seconds do not. Operators `evssm::*` are our kernels, each several steps of the network in one, so that one of them
stands for many of PyTorch's. "Before" is the same network in the released layout (`tests/released_layout.py`) with our
scan.

Measured on {machine}; torch {torch}, commit {commit}.
"""


QUIET = 0.9
"""Share of the clock's time that a process gets on a machine that does nothing else, at least."""


class Share(NamedTuple):
    """What one operator takes of a repetition: seconds, share of all, calls."""

    operator: str
    seconds: float
    share: float
    calls: float


def profiled(net: nn.Module, x: Tensor, what: str, steps: int) -> tuple[list[Share], float]:
    """The operators of `WORK[what]` by their own time, the longest first; and how much of the time this process ran.

    The profiler takes the clock's time: where other work held the processor, its numbers are of no use.
    """
    work = WORK[what]
    work(net, x)
    clock, processor = perf_counter(), process_time()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            work(net, x)
    ran = (process_time() - processor) / (perf_counter() - clock)
    events = [event for event in found.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    times = [(event, event.self_cpu_time_total) for event in events]
    shares = (Share(event.key, own / 1e6 / steps, own / total, event.count / steps) for event, own in times)
    return sorted(shares, key=lambda share: -share.seconds), ran


def table(shares: list[Share], least: float) -> Iterator[str]:
    """The operators that take `least` of all or more, and the rest in a line."""
    shown = [share for share in shares if share.share >= least]
    yield "| operator | own time | share | calls |"
    yield "|---|---|---|---|"
    for share in shown:
        yield f"| `{share.operator}` | {share.seconds:.3f} s | {share.share:.0%} | {share.calls:g} |"
    rest = shares[len(shown) :]
    seconds, part = (sum(getattr(share, key) for share in rest) for key in ("seconds", "share"))
    yield f"| {len(rest)} others | {seconds:.3f} s | {part:.0%} | {sum(share.calls for share in rest):g} |"


def page(steps: int, small: bool) -> str:
    facts = {"machine": hardware(), "torch": torch.__version__, "commit": commit(), "steps": steps}
    lines = [INTRODUCTION.format(**facts)]
    for what, name, batch, side in SMALL if small else CASES:
        x = torch.rand(batch, 3, side, side)
        lines += [f"## {what[0].upper()}{what[1:]} of `{name}`, {batch} x 3 x {side} x {side}", ""]
        for when, net in (("Now", build(name)), ("Before", released(name, "released, our scan"))):
            shares, ran = profiled(net.requires_grad_(what == "training step"), x, what, steps)
            total, first = sum(share.seconds for share in shares), shares[0]
            summary = f"{when}: {total:.2f} s. The longest: `{first.operator}`, {first.share:.0%}."
            if ran < QUIET:
                summary += f" **Do not use: this process ran only {ran:.0%} of the time.**"
            print(f"{what} of {name}. {summary}", flush=True)
            lines += [summary, "", *table(shares, 0.02), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="repetitions that count (default: 3)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the command itself")
    parser.add_argument("--out", type=Path, default=HERE.parent.parent / "analysis" / "PROFILES.md")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    text = page(asked.steps, asked.small)
    with written_whole(asked.out) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
