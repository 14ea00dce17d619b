"""Arrays of results and their facts in one npz without pickles, whole or not at all; and arrays that stay as made."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from evssm.provenance import existing_file, kind_of_content, written_whole


def write_archive(path: str | Path, key: str, facts: Any, arrays: Mapping[str, Any]) -> Path:
    """The path, once it holds `arrays` by name and, as JSON under the name `key`, `facts`.

    The same content gives the same bytes; a file that has them already is left alone.
    """
    packed = io.BytesIO()
    stored: dict[str, Any] = {key: np.array(json.dumps(facts, allow_nan=False)), **arrays}
    np.savez_compressed(packed, **stored)
    path, data = Path(path), packed.getbuffer()
    if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        with written_whole(path) as part:
            part.write_bytes(data)
    return path


@contextmanager
def read_archive(path: str | Path, what: str, writer: str) -> Iterator[Any]:
    """The arrays of a file of `what` that the function named `writer` wrote, while it is open.

    `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content, also where the
    caller cannot make sense of it.
    """
    path = existing_file(path, what)
    try:
        if not is_zipfile(path):
            raise ValueError(f"it is {_content(path)}, not a whole zip archive")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as entries:
            yield entries
    except Exception as error:  # a damaged zip, array header or text each has errors of its own
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no {what} that {writer} wrote: {reason}") from error


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return kind_of_content(file.read(512))


def protect(result: Any, *names: str) -> None:
    """Puts read-only views in place of a frozen result's arrays; what is `None` stays so."""
    for name in names:
        array = getattr(result, name)
        if array is not None:
            array = array.view()
            array.flags.writeable = False
            object.__setattr__(result, name, array)
