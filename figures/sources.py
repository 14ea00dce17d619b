"""Which of the project's files a figure is made by: it is made anew where one of them changed, and only there."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def sources_of(*files: Path, root: Path = ROOT) -> list[Path]:
    """These files and those of the project that they import, directly or not, sorted.

    `evssm` counts whole but for its command line, and so does `analysis` where it is imported as such: both import
    names when they are asked for, which a reader of import statements cannot follow.
    """
    todo, seen = [Path(file) for file in files], set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += [found for name in _imported(file) for found in _files(name, file.parent, root)]
    return sorted(seen)


def digest_of(files: Iterable[Path], *, root: Path = ROOT) -> str:
    """Hexadecimal digest over names and contents."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(root).as_posix()}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _imported(file: Path) -> set[str]:
    """Whole names of the modules in a file's import statements, and of what it takes from each."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
    return names


def _files(name: str, beside: Path, root: Path) -> list[Path]:
    """Where a name that is imported stands: in a package of the project, or in a script beside the one that asks."""
    package, _, rest = name.partition(".")
    if package == "evssm":
        asked = (root / f"{name.rpartition('.')[0].replace('.', '/')}.py",) if rest.startswith("cli.") else ()
        inside = (path for path in (root / "evssm").rglob("*.py") if not {"cli", "__main__.py"} & set(path.parts))
        return sorted({*inside, *filter(Path.is_file, asked)})
    if package == "analysis":
        one = root / "analysis" / f"{rest.partition('.')[0]}.py"
        return [one] if one.is_file() else sorted((root / "analysis").glob("*.py"))
    script = beside / f"{package}.py"
    return [script] if script.is_file() and beside == root / "figures" else []
