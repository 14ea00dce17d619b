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
from floor import measured
from network import CASES, SMALL, WORK, least, released
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
scan. The floor is what the multiplications, exponentials and softplus alone take on this machine at its best
(`tests/benchmarks/floor.py`); no network gets there.

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


class Profile(NamedTuple):
    """The operators of a repetition by their own time, the longest first; the seconds between operators, in Python and
    autograd; and how much of the time this process ran: where other work held the processor, a profiler's numbers,
    which are the clock's, are of no use."""

    shares: list[Share]
    between: float
    ran: float

    def seconds(self, ours: bool) -> float:
        """What our kernels take together, or all other operators."""
        return sum(share.seconds for share in self.shares if share.operator.startswith("evssm::") == ours)


def profiled(net: nn.Module, x: Tensor, what: str, steps: int) -> Profile:
    """Where the time of `WORK[what]` goes."""
    work = WORK[what]
    work(net, x)
    clock, processor = perf_counter(), process_time()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            work(net, x)
    passed = perf_counter() - clock
    ran = (process_time() - processor) / passed
    events = [event for event in found.key_averages() if event.self_cpu_time_total > 0]
    total = sum(event.self_cpu_time_total for event in events)
    times = [(event, event.self_cpu_time_total) for event in events]
    shares = (Share(event.key, own / 1e6 / steps, own / total, event.count / steps) for event, own in times)
    return Profile(sorted(shares, key=lambda share: -share.seconds), passed / steps - total / 1e6 / steps, ran)


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
    lines, rates = [INTRODUCTION.format(**facts)], measured()
    for what, name, batch, side in SMALL if small else CASES:
        x = torch.rand(batch, 3, side, side)
        lines += [f"## {what[0].upper()}{what[1:]} of `{name}`, {batch} x 3 x {side} x {side}", ""]
        ours = build(name)
        floor = least(rates, what, ours, batch, side)
        for when, net in (("Now", ours), ("Before", released(name, "released, our scan"))):
            found = profiled(net.requires_grad_(what == "training step"), x, what, steps)
            kernels, others, first = found.seconds(True), found.seconds(False), found.shares[0]
            total = kernels + others + found.between
            summary = (
                f"{when}: {total:.2f} s, {total / floor:.1f} times the floor. Our kernels take {kernels:.2f} s, other "
                f"operators {others:.2f} s, what lies between operators {found.between:.2f} s. The longest: "
                f"`{first.operator}`, {first.share:.0%} of all operators."
            )
            if found.ran < QUIET:
                summary += f" **Do not use: this process ran only {found.ran:.0%} of the time.**"
            print(f"{what} of {name}. {summary}", flush=True)
            lines += [summary, "", *table(found.shares, 0.02), ""]
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
