"""Makes every figure that is not up to date, and the report: `make figures`, or `python figures/make.py [NAME ...]`."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve each other on busy machines

import torch
from registry import SCRIPTS
from report import write_report
from sources import ROOT, digest_of, sources_of

from evssm.cli.common import progress
from evssm.provenance import written_whole
from evssm.sidecar import versions
from evssm.weights import bundled

HERE = Path(__file__).parent
REPORT = "report"
"""What to name for the page alone, which is made from what is there."""

LATEST = HERE / "data" / "made.json"
"""What each script was last made from, and what it left: a script whose sources, weights, packages and files are still
those is not run again."""


def main(names: list[str]) -> None:
    known = (*SCRIPTS, REPORT)
    if unknown := sorted(set(names) - set(known)):
        print(f"no figure is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)  # so that no digit depends on the machine's cores
    chosen = [name for name in names or SCRIPTS if name != REPORT]
    with progress() as track:
        step = track("figures")
        for number, name in enumerate(chosen):
            step(number, len(chosen))
            _made(name, track, always=name in names)
            step(number + 1, len(chosen))
    page, changed = write_report()
    print(f"{page.relative_to(ROOT)}{'' if changed else ': nothing changed'}")


def _made(name: str, track: Callable[[str], Callable[..., None]], *, always: bool) -> None:
    """Runs a script, unless nothing that it depends on has changed, and notes what it was made from."""
    LATEST.parent.mkdir(exist_ok=True)
    known = json.loads(LATEST.read_text("utf-8")) if LATEST.exists() else {}
    if not always and _unchanged(known.get(name, {}), name):
        print(f"{name}: nothing changed", file=sys.stderr)
        return
    print(f"{name}: making", file=sys.stderr)
    made_from = _made_from(name)
    files = import_module(name).make(track)
    known[name] = {"from": made_from, "files": _digests(files)}
    with written_whole(LATEST) as part:
        part.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    for path in files:
        print(path.relative_to(ROOT))


def _made_from(name: str) -> dict[str, str]:
    """Digests of the sources of a script and of the weights, and the packages' versions."""
    sources = digest_of(sources_of(HERE / f"{name}.py"))
    return {"sources": sources, "weights": digest_of(bundled().values()), **versions()}


def _unchanged(latest: dict[str, dict[str, str]], name: str) -> bool:
    files = [ROOT / path for path in latest.get("files", {})]
    return (
        bool(files)
        and all(path.is_file() for path in files)
        and latest
        == {
            "from": _made_from(name),
            "files": _digests(files),
        }
    )


def _digests(files: Iterable[Path]) -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): digest_of([path]) for path in files}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted; what is finished is whole, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
