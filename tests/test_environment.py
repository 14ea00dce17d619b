"""The set-up files agree with each other: pyproject.toml is the one place where dependencies are written."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

from evssm.cli import page

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_file_asks_pip_for_this_project_and_names_nothing_twice():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = conda["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert by_pip == {"pip": ["--constraint constraints.txt", "--editable .[test]"]}
    assert "test" in PROJECT["optional-dependencies"]
    assert conda["name"] == PROJECT["name"]


def test_the_explorer_s_page_has_an_extra_of_its_own_that_tests_and_the_conda_file_get_with_theirs():
    extras = PROJECT["optional-dependencies"]
    names = [re.match(r"[\w-]+", need)[0] for need in extras["explore"]]
    assert names == ["ipywidgets", "ipympl", "voila"]
    assert "explore" in asked_of_ourselves(extras["test"])
    asked_elsewhere = {re.match(r"[\w-]+", need)[0] for need in PROJECT["dependencies"]}
    assert "jupyterlab" in asked_elsewhere
    assert not asked_elsewhere & set(names)
    assert set(page.NEEDED) | {page.SHOWN_BY[False]} == set(names)


def test_tests_and_the_conda_file_get_what_clusters_need():
    extras = PROJECT["optional-dependencies"]
    assert [re.match(r"[\w-]+", need)[0] for need in extras["cluster"]] == ["distributed", "dask-jobqueue"]
    assert "cluster" in asked_of_ourselves(extras["test"])


def test_tests_get_what_the_kernels_for_gpus_are_interpreted_by():
    extras = PROJECT["optional-dependencies"]
    assert [re.match(r"[\w-]+", need)[0] for need in extras["gpu"]] == ["triton", "setuptools"]
    assert "gpu" in asked_of_ourselves(extras["test"])


def asked_of_ourselves(needs):
    """The extras of this project among what an extra needs."""
    ours = [need.removeprefix(PROJECT["name"]) for need in needs if need.startswith(f"{PROJECT['name']}[")]
    return {extra for need in ours for extra in re.findall(r"[\w-]+", need)}


def test_the_constraint_pins_a_torch_that_the_project_accepts():
    (line,) = (ROOT / "constraints.txt").read_text().split()
    name, version = line.split("==")
    (bound,) = [need for need in PROJECT["dependencies"] if need.startswith("torch")]
    least = bound.removeprefix("torch>=")
    assert name == "torch"
    assert tuple(map(int, version.split("."))) >= tuple(map(int, least.split(".")))


def test_the_top_level_holds_what_the_readme_maps_and_no_more():
    shown = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")} - {"build", "dist"}
    assert shown == {
        *("evssm", "analysis", "notebooks", "figures", "tests"),
        *("environment.yml", "pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"),
    }


COMES_ALONG = {
    "llvmlite": "numba",
    "dask": "distributed",
    "IPython": "ipywidgets",
    "tornado": "jupyterlab",
    "markupsafe": "jinja2",
}
COMES_ALONG |= {"nbformat": "jupyterlab", "traitlets": "jupyterlab", "jupyter_server": "jupyterlab"}
"""Imported packages that belong to a declared one."""


def test_whatever_is_imported_is_declared():
    needs = [*PROJECT["dependencies"], *(need for extra in PROJECT["optional-dependencies"].values() for need in extra)]
    declared = {re.match(r"[\w-]+", need)[0].lower() for need in needs}
    ours = {"evssm", "analysis", *(path.stem for path in (ROOT / "figures").glob("*.py"))}
    known = packages_distributions()
    for package in ("evssm", "analysis", "figures"):
        for path in (ROOT / package).rglob("*.py"):
            for name in imported(path) - ours - set(sys.stdlib_module_names) - {"mamba_ssm"}:  # which needs CUDA
                names = {COMES_ALONG.get(name, name).replace("_", "-"), *known.get(name, ())}
                assert declared & {one.lower() for one in names}, f"{path} imports {name}"


def imported(path):
    """The packages that a file imports anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    found += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in found}
