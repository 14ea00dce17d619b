"""How fast and how lean: one command, one table, one picture, against others and against the machine's own limits.

    pip install -e ".[bench]"
    python tests/benchmarks                      # everything; an hour on a quiet machine with 12 GB to spare
    python tests/benchmarks --only scan network  # ten minutes
    python tests/benchmarks --small              # a trial at tiny sizes, whose numbers mean nothing

One thread. What is compared runs in one process, in turn, and medians of processor time count; memory is the peak of a
process of its own. Results: `results.csv` (after lines with the machine's facts), the table, and the picture; those of
the whole suite beside this file unless told otherwise, those of a part of it in a folder that is named at the end.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

if find_spec("mambapy") is None:
    sys.exit("the benchmarks compare with mambapy, which is not here: pip install -e '.[bench]'")

import growth
import network
import rows as attention
import scan
import torch
from compare import HERE, OURS, Row
from floor import Rates, measured

from evssm.machine import commit, hardware
from evssm.provenance import written_whole

PARTS = {
    "scan": scan.rows,
    "network": network.rows,
    "rows": attention.rows,
    "memory": growth.memory,
    "size": growth.sizes,
    "images": growth.images,
    "large": growth.large,
}
COLUMNS = ("part", "case", "size", "who", "median_s", "low_s", "high_s", "rounds", "times_ours", "peak_mib")


def times_ours(row: Row, rows: Iterable[Row]) -> float | None:
    """How many times as long as ours."""
    place = (row.part, row.case, row.size)
    ours = next(
        (other.median for other in rows if (other.part, other.case, other.size) == place and other.who == OURS), 0
    )
    return row.median / ours if row.median and ours else None


def entries(rows: Sequence[Row]) -> list[list[str]]:
    """The lines of the table."""
    found = []
    for row in rows:
        low, high = row.spread
        numbers = [row.median, low, high, len(row.seconds), times_ours(row, rows)]
        peak = row.peak and row.peak / 2**20
        shown = ["" if number is None else f"{number:.4g}" for number in (*numbers, peak)]
        found.append([row.part, row.case, str(row.size), row.who, *shown])
    return found


def facts(rates: Rates, rounds: int) -> dict[str, str]:
    """What the numbers were measured on, and with what."""
    packages = ("torch", "numba", "mambapy")
    return {
        "machine": hardware(),
        "one thread can": f"{rates.exponentials / 1e9:.2f} G exponentials/s, {rates.softplus / 1e9:.2f} G softplus/s, "
        f"{rates.product / 1e9:.0f} GFLOP/s, copies {rates.copy / 1e9:.1f} GB/s",
        "versions": f"python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in packages),
        "commit": commit() or "unknown",
        "repetitions": str(rounds),
    }


def save(rows: Sequence[Row], about: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = entries(rows)
    with written_whole(folder / "results.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {name}: {fact}\n" for name, fact in about.items())
        csv.writer(file).writerows([COLUMNS, *lines])
    with written_whole(folder / "results.md") as part:
        table = [COLUMNS, ["---"] * len(COLUMNS), *lines]
        text = [f"- {name}: {fact}" for name, fact in about.items()]
        text += ["", *(f"| {' | '.join(line)} |" for line in table)]
        part.write_text("\n".join(text) + "\n", encoding="utf-8")
    if any(row.part in ("size", "images") for row in rows):
        from picture import draw

        draw(rows, f"{about['machine']}; {about['versions']}", folder / "results.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each case (default: 7)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the suite itself")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        return growth.run_alone(**json.loads(asked.alone))
    whole = asked.only == list(PARTS) and not asked.small
    out = asked.out or (HERE / "results" if whole else Path(mkdtemp()))
    torch.set_num_threads(1)
    rates = measured()
    about = facts(rates, asked.rounds)
    for name, fact in about.items():
        print(f"{name}: {fact}")
    rows: list[Row] = []
    for name in asked.only:
        for row in PARTS[name](asked.rounds, rates, asked.small):
            rows.append(row)
            print("  ".join(entries(rows)[-1]), flush=True)
        save(rows, about, out)
    print(out)
    return None


if __name__ == "__main__":
    main()
