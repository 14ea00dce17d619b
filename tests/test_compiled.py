"""What numba kept on disk: used again, and never in the way of an update."""

import io
import pickle
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from evssm import compiled as ours
from evssm.compiled import compiled, stamp

TEXT = """
from typing import NamedTuple, no_type_check

@no_type_check
class Pair(NamedTuple):
    a: int
    b: int

@no_type_check
def total(pair):
    return pair.a + pair.b
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A function that makes a module of this text anew, as a new process would, and compiles its `total`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ours, "stamp", lambda folder: stamp.__wrapped__(tmp_path))
    monkeypatch.setattr("numba.config.CACHE_DIR", "")  # beside the module, wherever kernels are kept otherwise

    def make(text):
        (tmp_path / "kept_numba.py").write_text(text)
        sys.modules.pop("kept_numba", None)
        module = __import__("kept_numba")
        return module, compiled(module.total)

    yield make
    sys.modules.pop("kept_numba", None)


def hits(kernel):
    return sum(kernel.stats.cache_hits.values())


def test_the_next_process_need_not_compile(kernels):
    for expected in (0, 1):
        module, kernel = kernels(TEXT)
        assert kernel(module.Pair(2, 3)) == 5
        assert hits(kernel) == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_person_at_a_terminal_is_told_once_and_only_when_something_is_compiled(kernels, monkeypatch):
    for stream, told in ((io.StringIO(), 0), (Terminal(), 1), (Terminal(), 0)):
        ours.announce.cache_clear()
        monkeypatch.setattr(sys, "stderr", stream)
        module, kernel = kernels(TEXT + f"\nTERMINAL = {stream.isatty()}\n")
        assert kernel(module.Pair(2, 3)) == 5
        assert kernel(module.Pair(2.0, 3.0)) == 5  # another kind, compiled too
        assert stream.getvalue().count("evssm: compiling kernels") == told
        assert stream.getvalue().count("\n") == told


def test_a_class_that_vanished_is_no_obstacle(kernels, tmp_path):
    module, kernel = kernels(TEXT)
    assert kernel(module.Pair(2, 3)) == 5
    (index,) = tmp_path.rglob("*.nbi")
    module, kernel = kernels(TEXT.replace("Pair", "Couple"))
    with pytest.raises(AttributeError), index.open("rb") as file:
        pickle.load(file), pickle.loads(file.read())
    assert kernel(module.Couple(2, 3)) == 5
    assert hits(kernel) == 0
    module, kernel = kernels(TEXT.replace("Pair", "Couple"))
    assert kernel(module.Couple(2, 3)) == 5
    assert hits(kernel) == 1


def test_a_change_in_another_file_of_kernels_compiles_anew(kernels, tmp_path):
    module, kernel = kernels(TEXT)
    assert kernel(module.Pair(2, 3)) == 5
    (tmp_path / "lanes.py").write_text("LANES = 1\n")
    module, kernel = kernels(TEXT)
    assert kernel(module.Pair(2, 3)) == 5
    assert hits(kernel) == 0


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_file_cut_short_is_compiled_anew(kernels, tmp_path, suffix):
    module, kernel = kernels(TEXT)
    assert kernel(module.Pair(2, 3)) == 5
    for path in tmp_path.rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:40])
    module, kernel = kernels(TEXT)
    assert kernel(module.Pair(2, 3)) == 5
    assert hits(kernel) == 0


def test_without_a_folder_to_write_to_kernels_are_compiled_all_the_same(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(ours, "Kept", refuse)
    assert compiled(lambda a: a + 1)(2) == 3


def test_all_kernels_of_the_package_are_kept_under_one_name():
    from evssm import fused_depthwise, fused_linear, scan_numba

    name = stamp(Path(ours.__file__).parent)
    for kernel in (fused_depthwise.depthwise_tasks, scan_numba.forward_tasks, fused_linear.linear_tasks):
        assert kernel._cache._cache_file._source_stamp == name


def test_no_file_of_kernels_is_forgotten_in_that_name():
    folder = Path(ours.__file__).parent
    named = {path.name for pattern in ours.SOURCES for path in folder.glob(pattern)}
    kernels = {
        path.name for path in folder.glob("*.py") if re.search(r"^@compiled|evssm\.lanes", path.read_text(), re.M)
    }
    assert {"scan_numba.py", "fused_norm.py", "lane_functions.py"} <= kernels
    assert kernels <= named
