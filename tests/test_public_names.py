"""What `from evssm import name` and `from analysis import name` give is what is meant, whatever was imported before."""

import subprocess
import sys

import pytest

ASK = """
import importlib, pkgutil, sys, types
package = importlib.import_module(sys.argv[1])
if sys.argv[2] == "all files first":
    for found in pkgutil.iter_modules(package.__path__):
        if found.name != "__main__":
            try:
                importlib.import_module(f"{sys.argv[1]}.{found.name}")
            except ModuleNotFoundError as error:
                assert error.name in ("numba", "llvmlite", "mamba_ssm", "triton"), error  # backends are optional
for name in package.__all__:
    exec(f"from {sys.argv[1]} import {name} as thing")
    assert not isinstance(thing, types.ModuleType), f"{name} is a file"
    print(name)
"""


@pytest.mark.parametrize("before", ["nothing first", "all files first"])
@pytest.mark.parametrize("package", ["evssm", "analysis"])
def test_no_public_name_is_hidden_by_a_file(package, before):
    done = subprocess.run([sys.executable, "-c", ASK, package, before], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert len(done.stdout.split()) > 5
