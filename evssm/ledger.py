"""A table that grows by a row per finished item and goes on where it stopped: CSV under a header that says of what."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evssm.provenance import naming, written_whole

_MARK = "# "
_HEADER = _MARK + "{"


class Ledger:
    """The rows in the file at `path`, and a place for more.

    The file begins with lines that start with "#": those of `lines`, for people, and `header` in JSON. Where it is
    there already, its rows are kept, if its header is this one; a last row that was cut short is dropped. Raises
    `ValueError` where the header is another one, or where the file is no such table.
    """

    def __init__(
        self, path: str | Path, header: Mapping[str, Any], columns: Sequence[str], *, lines: Sequence[str] = ()
    ) -> None:
        self.path, self.columns = Path(path), tuple(columns)
        self.header = json.loads(json.dumps(header, default=str))
        self.rows: list[dict[str, str]] = []
        if self.path.exists():
            found, self.rows = read_ledger(self.path)
            if differing := sorted(k for k in {*found, *self.header} if found.get(k) != self.header.get(k)):
                raise ValueError(
                    f"{self.path} holds results made otherwise ({', '.join(differing)} differ); "
                    "name another place for these, or remove it"
                )
            if any(tuple(row) != self.columns for row in self.rows):
                raise ValueError(f"{self.path} has the columns of another version; name another place for these")
        write_ledger(self.path, self.header, self.columns, self.rows, lines=lines)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which is in the file when this returns."""
        cells = _cells(row, self.columns)
        with naming(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line(cells))
        self.rows.append(dict(zip(self.columns, cells, strict=True)))


def write_ledger(
    path: str | Path,
    header: Mapping[str, Any],
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    *,
    lines: Sequence[str] = (),
) -> Path:
    """The path, once it holds just these rows under this header; whole or not at all."""
    text = "".join(f"{_MARK}{line}\n" for line in (*lines, json.dumps(header, sort_keys=True, default=str)))
    text += _line(columns) + "".join(_line(_cells(row, columns)) for row in rows)
    with written_whole(path) as part:
        part.write_bytes(text.encode())
    return Path(path)


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """As text that reads back to the same number; `ValueError` for a name of a file that is no text."""
    cells = tuple(value if isinstance(value, str) else repr(value) for value in map(row.__getitem__, columns))
    for cell in cells:
        if any("\ud800" <= letter <= "\udfff" for letter in cell):  # what Python makes of bytes that are no UTF-8
            raise ValueError(f"{cell!a} is no name in UTF-8, which a table needs; rename the file")
    return cells


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(" ".join(cell.splitlines()) for cell in cells)
    return line.getvalue()


def read_ledger(path: str | Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The header and the rows of a file that `Ledger` wrote; a last row without an end is no row.

    Raises `ValueError` for any other file.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        start = next(i for i, line in enumerate(lines) if not line.startswith(_MARK))
        header = json.loads(next(line for line in lines[:start] if line.startswith(_HEADER))[len(_MARK) :])
        columns, *rows = csv.reader(line for line in lines[start:] if line.endswith("\n"))
        return header, [dict(zip(columns, row, strict=True)) for row in rows]
    except (StopIteration, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no table of results ({str(error) or 'it has no header'}); name another") from None
