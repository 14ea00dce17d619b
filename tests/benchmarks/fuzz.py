"""Bytes that reach as many lines of the readers as possible: `tests/test_fuzz.py`, led by coverage (Atheris).

python tests/benchmarks/fuzz.py images -runs=100000

The kinds are the folders of `tests/corpus`, whose files it begins with. It needs `pip install atheris` (Linux), which
the tests do without. The words behind the kind are libFuzzer's; what fails is written to `crash-*`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
LOOKED_INTO = ["evssm", "PIL", "zipfile", "numpy.lib", "torch._weights_only_unpickler", "json.decoder", "csv"]


def main(kind: str, words: list[str]) -> None:
    with atheris.instrument_imports(include=LOOKED_INTO, enable_loader_override=False):
        from readers import READERS
    with TemporaryDirectory() as found:  # the first folder gets what reaches new lines
        given = [sys.argv[0], found, str(TESTS / "corpus" / kind), "-max_len=65536", *words]
        atheris.Setup(given, READERS[kind], enable_python_coverage=True)
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or not (TESTS / "corpus" / sys.argv[1]).is_dir():
        sys.exit(f"{__doc__}\nkinds: {', '.join(sorted(path.name for path in (TESTS / 'corpus').iterdir()))}")
    main(sys.argv[1], sys.argv[2:])
