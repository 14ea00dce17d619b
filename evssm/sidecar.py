"""What stands beside a result: the command that made it, and with what."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evssm.provenance import written_whole

PACKAGES = ("evssm-lab", "torch", "numpy", "numba", "matplotlib")


def command_line() -> str:
    """The command that runs now, as one would type it in a shell."""
    return shlex.join(["evssm", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Package -> version, and Python's own; "missing" where one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def write_sidecar(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """The path, once a JSON file there holds `facts` and the versions; whole or not at all."""
    text = json.dumps({**facts, "versions": versions()}, indent=2, sort_keys=True, default=str)
    with written_whole(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return Path(path)
