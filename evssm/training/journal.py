"""The log of a run: a CSV file whose rows survive an interruption exactly as far as the checkpoint does."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evssm.provenance import naming, written_whole


class Journal:
    """Rows with a `step` column, appended to `path`; numbers are written so that they read back bit for bit.

    Opening it for a run that goes on after `done` steps drops the rows of later ones, which that run will write again.
    """

    def __init__(self, path: Path, columns: Iterable[str], *, done: int = 0) -> None:
        self.path, self.columns = path, ("step", *columns)
        rows = [row for row in read_journal(path) if int(row["step"]) <= done] if done else []
        with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow({"step": step, **values})


def read_journal(path: Path) -> list[dict[str, str]]:
    """The rows of a log, as text; none where there is no file. A last line that was cut short is left out.

    Raises `ValueError` for any other file.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        columns, *rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        if not all(row["step"].isdecimal() for row in found):
            raise ValueError("a step is no number")
    except (ValueError, KeyError, csv.Error) as error:
        raise ValueError(f"{path} is no log of a training ({' '.join(str(error).split())}); remove it") from None
    return found
