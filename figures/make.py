"""Makes every figure: `make figures`, or `python figures/make.py [NAME ...]` for some of them."""

import os
import runpy
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve each other on busy machines

HERE = Path(__file__).parent
SCRIPTS = ("erf_networks", "erf_transforms")
ASKED = ("findings",)
"""Made only where they are named: they take longer."""


def main(names: list[str]) -> None:
    known = (*SCRIPTS, *ASKED)
    if unknown := sorted(set(names) - set(known)):
        sys.exit(f"no figure is called {', '.join(unknown)}; there are {', '.join(known)}")
    for number, name in enumerate(names or SCRIPTS, start=1):
        print(f"[{number}/{len(names or SCRIPTS)}] {name}", file=sys.stderr, flush=True)
        for path in runpy.run_path(str(HERE / f"{name}.py"))["make"]():
            print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main(sys.argv[1:])
