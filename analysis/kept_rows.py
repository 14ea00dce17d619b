"""Activation maps in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.archive import read_archive, write_archive
from analysis.row_map import ScanRow

ARRAYS = ("map", "support", "rebuilt", "output", "per_channel")
FACTS = ("stage", "kind", "level", "reduction", "normalisation", "query", "cell", "stride", "size", "provenance")
PAIRS = ("query", "cell", "size")


def save_rows(path: str | Path, rows: Mapping[str, ScanRow]) -> Path:
    """Write the maps, with their channels where they have them, to `path`, an npz without pickles; whole or not at all.

    Arrays are named "NAME/map", "NAME/support" and so on; "rows" holds the rest as JSON.
    """
    arrays: dict[str, Any] = {
        f"{name}/{part}": getattr(row, part)
        for name, row in rows.items()
        for part in ARRAYS
        if getattr(row, part) is not None
    }
    facts = {name: {fact: getattr(row, fact) for fact in FACTS} for name, row in rows.items()}
    return write_archive(path, "rows", facts, arrays)


def load_rows(path: str | Path) -> dict[str, ScanRow]:
    """The maps that `save_rows` wrote.

    `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content.
    """
    with read_archive(path, "activation maps", "save_rows") as entries:
        facts = json.loads(str(entries["rows"]))
        return {name: _row(name, fact, entries) for name, fact in facts.items()}


def _row(name: str, facts: dict[str, Any], entries: Any) -> ScanRow:
    arrays: dict[str, Any] = {part: entries[f"{name}/{part}"] for part in ARRAYS if f"{name}/{part}" in entries}
    others = {key: tuple(value) if key in PAIRS else value for key, value in facts.items()}
    return ScanRow(**{"per_channel": None, **arrays, **others})
