"""Every notebook runs from its source, and the executed copy beside it holds the same cells."""

import runpy
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import pytest

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
