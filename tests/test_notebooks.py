"""Every notebook runs from its source, and the executed copy beside it holds the same cells and fresh results."""

import re
import runpy
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import pytest
from nbclient import NotebookClient

SOURCES = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert SOURCES


# Outside a kernel, ipympl passes its toolbar an argument that traitlets no longer wants.
@pytest.mark.filterwarnings("ignore:(?s).*Passing unrecognized arguments to super:DeprecationWarning")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_runs(source, monkeypatch, tmp_path):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(source))
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_executed_copy_has_the_same_cells_and_their_results(source):
    executed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    written = jupytext.read(source)
    assert [(cell.cell_type, cell.source) for cell in executed.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code[1:])
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)


NUMBER = re.compile(r"-?\d+(?:\.(\d+))?(?:e[-+]\d+)?")


def printed(notebook):
    """What each cell says in words; pictures are not compared, and how often its stream was flushed does not count."""
    return ["".join(map(words, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"]


def words(output):
    """A piece of a stream, or a value that is no picture, as plain text."""
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        return ""
    return output.get("text", data.get("text/markdown", data.get("text/plain", "")))


def same(now, then):
    """Both say the same, numbers to a unit of the last digit: other processors round otherwise."""
    assert NUMBER.sub("#", now) == NUMBER.sub("#", then)
    for ours, theirs in zip(NUMBER.finditer(now), NUMBER.finditer(then), strict=True):
        unit = 10.0 ** -len(theirs[1] or "")
        assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=1e-3, abs=1.01 * unit), then


@pytest.mark.slow
def test_the_executed_copy_is_fresh():
    """The one of the baselines is executed again: six trained networks, their fields and claims about them."""
    source = next(path for path in SOURCES if path.stem == "02_baselines")
    again = NotebookClient(jupytext.read(source), kernel_name="python3").execute()
    was = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert sum(map(bool, printed(was))) >= 3
    for now, then in zip(printed(again), printed(was), strict=True):
        same(now, then)
