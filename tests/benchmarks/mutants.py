"""Does a test notice when the code is wrong? Changes one sign, bound, number or condition at a time and runs the tests.

python tests/benchmarks/mutants.py evssm/geometry.py tests/test_geometry.py --sample 30
python tests/benchmarks/mutants.py analysis/scan_rows.py tests/analysis/test_scan_rows.py --seed 7 -- -k "not numba"

Works on a copy of the tree. Prints the mutants that survive, each with its line before and after; the seed makes the
same sample again. Messages, annotations, docstrings and the declarations of shapes are not changed.
"""

import argparse
import ast
import copy
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent.parent
SWAPPED = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.BitXor: ast.BitOr},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
MOST_MEMORY = 4 * 2**30
"""Bytes of address space for the tests, which take about one: a wrong size may ask for all the memory that there is."""
LEFT_ALONE = (ast.Raise, ast.JoinedStr, ast.arg, ast.Import, ast.ImportFrom)


def changeable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that mean something at run time."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, LEFT_ALONE):
                yield child
                yield from changeable(child)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node, each with one thing wrong."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED:
        yield changed(node, op=SWAPPED[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield changed(node, ops=[SWAPPED[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield changed(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.If):
        yield changed(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield changed(node, value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield changed(node, value=node.value + 1)


def changed(node: ast.AST, **fields: object) -> ast.AST:
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def candidates(source: str) -> list[tuple[int, int]]:
    """Which node of the source, and which of its variants."""
    nodes = enumerate(changeable(ast.parse(source)))
    return [(place, which) for place, node in nodes for which in range(len(list(variants(node))))]


def mutant(source: str, place: int, which: int) -> tuple[int, str, str, str]:
    """The changed source, after the line, what stood there and what stands there now."""
    tree = ast.parse(source)
    old = list(changeable(tree))[place]
    new = list(variants(old))[which]
    said = old.lineno, ast.unparse(old).split("\n")[0], ast.unparse(new).split("\n")[0]
    return *said, ast.unparse(ast.fix_missing_locations(Replacing(old, new).visit(tree)))


class Replacing(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def copied(folder: Path) -> Path:
    """The sources and tests in a folder of their own."""
    for name in ("evssm", "analysis", "figures", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.pdf"))
    for name in ("pyproject.toml", "constraints.txt", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    return folder


def notices(folder: Path, tests: list[str], words: list[str], patience: int) -> bool:
    """Whether a test fails, or needs more than `patience` seconds of processor time."""
    there = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, *words]

    def limit() -> None:  # processor time, since on a busy machine any test is late
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (patience, patience + 5))

    done = subprocess.run(command, cwd=folder, env=there, capture_output=True, preexec_fn=limit)
    killed = done.returncode == -signal.SIGKILL  # by the system, which says nothing about the code
    if killed or done.returncode > 3:  # 2: the tests cannot even be collected; 3: pytest itself ran out of memory
        sys.exit(f"pytest ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")
    return done.returncode != 0


def seconds_used() -> float:
    """Processor time of all tests so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(file: str, tests: list[str], sample: int, seed: int, words: list[str]) -> None:
    source = (ROOT / file).read_text("utf-8")
    known = candidates(source)
    chosen = sorted(random.Random(seed).sample(known, min(sample, len(known))))
    with TemporaryDirectory() as name:
        folder = copied(Path(name))
        (folder / file).write_text(ast.unparse(ast.parse(source)), encoding="utf-8")
        if notices(folder, tests, words, 1800):
            sys.exit("the tests fail without any change")
        patience = 20 + int(4 * seconds_used())
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # the file changes within a second, which Python would not see
        for kept in (folder / file).parent.glob(f"__pycache__/{Path(file).stem}.*"):
            kept.unlink()
        survivors = 0
        for place, which in chosen:
            line, before, after, text = mutant(source, place, which)
            (folder / file).write_text(text, encoding="utf-8")
            if not notices(folder, tests, words, patience):
                survivors += 1
                print(f"{file}:{line}: survives: {before}  ->  {after}", flush=True)
    print(f"{file}: {len(chosen) - survivors} of {len(chosen)} noticed, of {len(known)} that there are; seed {seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given, behind = sys.argv[1:], []
    if "--" in given:
        given, behind = given[: given.index("--")], given[given.index("--") + 1 :]
    asked = parser.parse_args(given)
    main(asked.file, asked.tests, asked.sample, asked.seed, behind)
