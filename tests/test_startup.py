"""What is imported at the start, and what waits until it is wanted: the time of a start, without a clock."""

import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "numpy", "numba", "triton", "scipy", "pandas", "matplotlib", "seaborn", "skimage", "cv2", "captum"),
    *("lightning_fabric", "IPython", "rich"),
}
"""Packages that take from a tenth of a second to seconds to import."""

OUTSIDE = """
import sys
{}
print(*sorted({{name.split(".")[0] for name in sys.modules}} - sys.stdlib_module_names))
"""


def imported(code):
    """The top-level packages, but for Python's own, that a new process has imported after `code`."""
    done = subprocess.run([sys.executable, "-c", OUTSIDE.format(code)], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines()[-1].split() if not name.startswith("_sysconfigdata")}


BY_TORCH = {"triton", "packaging", "typing_extensions"}
"""What PyTorch's counter of FLOPs imports itself, where it is installed."""

HELP = """
from evssm.cli import main
sys.argv = ["evssm", {}"--help"]
try:
    main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize("words", ["", '"erf", ', '"train", ', '"explore", '])
def test_help_imports_nothing_heavy(words):
    found = imported(HELP.format(words))
    assert "typer" in found
    assert not found & HEAVY


def test_importing_evssm_imports_nothing_else():
    assert imported("import evssm") <= {"evssm", *imported("")}


def test_using_every_name_of_evssm_adds_only_light_packages_to_torch():
    every = "import evssm\nfor name in evssm.__all__:\n    getattr(evssm, name)"
    added = imported(every) - imported("import torch")
    assert added <= {"evssm", "einops", "jaxtyping", "filelock", "safetensors", "numpy", *BY_TORCH}


def test_the_reader_of_imports_sees_a_heavy_one():
    assert "numpy" in imported("import numpy")
