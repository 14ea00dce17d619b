"""What figures are made from, and that they are made again where it changed, and only there."""

import json
import sys
from importlib import import_module
from types import SimpleNamespace

import make
import pytest
from registry import FIGURES, SCRIPTS
from sources import ROOT, digest_of, sources_of


def test_every_figure_has_a_script_a_question_and_a_notebook():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    for name in SCRIPTS:
        assert callable(import_module(name).make)
    for figure in FIGURES:
        assert (ROOT / "notebooks" / f"{figure.notebook}.ipynb").is_file()
        assert figure.title.strip()
        assert figure.maker in SCRIPTS


def test_sources_are_what_is_imported_directly_or_not(tmp_path):
    written = {
        "evssm/deep/a.py": "",
        "evssm/b.py": "",
        "evssm/cli/command.py": "import analysis.other\n",
        "evssm/cli/other.py": "",
        "analysis/one.py": "from analysis.two import f\n",
        "analysis/two.py": "def f():\n    import analysis.three as late\n",
        "analysis/three.py": "import numpy\n",
        "analysis/other.py": "",
        "figures/script.py": "from helper import x\nimport analysis.one\n",
        "figures/helper.py": "import os, script\n",
        "figures/whole.py": "from analysis import name\nfrom evssm import load\n",
        "figures/told.py": "from evssm.cli.command import EXTENTS\n",
        "numpy.py": "",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(name):
        return {path.relative_to(tmp_path).as_posix() for path in sources_of(tmp_path / name, root=tmp_path)}

    assert found("figures/script.py") == {
        *("figures/script.py", "figures/helper.py"),
        *("analysis/one.py", "analysis/two.py", "analysis/three.py"),
    }
    library = {"evssm/deep/a.py", "evssm/b.py"}
    everything = {name for name in written if name.startswith("analysis/")} | library
    assert found("figures/whole.py") == {"figures/whole.py", *everything}
    assert found("figures/told.py") == {"figures/told.py", "evssm/cli/command.py", "analysis/other.py", *library}


def test_what_a_script_loads_is_among_its_sources():
    """The reader of import statements misses nothing that Python itself finds."""
    for name in ("blocks", "sources", "registry", "report"):
        files = {getattr(module, "__file__", None) for module in _loaded(name)}
        known = {str(path) for path in sources_of(ROOT / "figures" / f"{name}.py")}
        ours = {file for file in files if file and file.startswith((f"{ROOT}/figures", f"{ROOT}/analysis"))}
        assert {file for file in ours if "__init__" not in file} <= known


def _loaded(name):
    """The modules that a script's own names come from."""
    values = vars(__import__(name)).values()
    return [sys.modules[value.__module__] for value in values if getattr(value, "__module__", None) in sys.modules]


def test_a_digest_tells_contents_and_names_apart(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    assert digest_of([one], root=tmp_path) != digest_of([two], root=tmp_path)
    before = digest_of([one, two], root=tmp_path)
    two.write_bytes(b"y")
    assert digest_of([one, two], root=tmp_path) != before


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """`make.py` with two scripts that note when they run, in a folder of its own."""
    ran = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("")

    def script(name):
        def run(track):
            ran.append(name)
            track("a bar")(1, 1)
            (tmp_path / f"{name}.png").write_text(name)
            return [tmp_path / f"{name}.png"]

        return SimpleNamespace(make=run)

    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    monkeypatch.setattr(make, "SCRIPTS", ("a", "b"))
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make, "LATEST", tmp_path / "data" / "made.json")
    monkeypatch.setattr(make, "import_module", script)
    monkeypatch.setattr(make, "bundled", lambda: {"w": weights})
    monkeypatch.setattr(make, "digest_of", lambda files: digest_of(files, root=tmp_path))
    monkeypatch.setattr(make, "sources_of", lambda *files: sources_of(*files, root=tmp_path))
    monkeypatch.setattr(make, "write_report", lambda: (tmp_path / "report.html", False))

    def run(*names):
        ran.clear()
        make.main(list(names))
        return list(ran)

    return SimpleNamespace(run=run, folder=tmp_path, weights=weights)


def test_only_what_changed_is_made_again(studio):
    assert studio.run() == ["a", "b"]
    assert studio.run() == []
    (studio.folder / "b.py").write_text("x = 1\n")
    assert studio.run() == ["b"]
    (studio.folder / "a.png").unlink()
    assert studio.run() == ["a"]
    (studio.folder / "a.png").write_text("touched by hand")
    assert studio.run() == ["a"]
    studio.weights.write_bytes(b"2")
    assert studio.run() == ["a", "b"]
    assert studio.run() == []
    assert studio.run("a") == ["a"]  # whoever names one wants it made
    assert studio.run("report") == []
    assert set(json.loads((studio.folder / "data" / "made.json").read_text())) == {"a", "b"}


def test_an_unknown_name_is_said_so(studio, capsys):
    with pytest.raises(SystemExit) as ended:
        studio.run("c")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "no figure is called c; there are a, b, report\n"
