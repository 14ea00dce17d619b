"""Where weights come from, and files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

WEIGHTS = ("untrained", "trained", "official release")

IMAGE = "an image"
"""What `kind_of_content` says of the common image formats."""


@dataclass(frozen=True)
class Provenance:
    """What a table, a figure or a sidecar must say about a network's weights.

    `sha256` is that of the file they were read from (what `sha256sum` prints), or of the tensors where there was no
    file; `tensors_sha256` is always that of the tensors (`sha256_of`), whatever the file format. `steps` are
    optimiser steps. Raises `ValueError` where the fields contradict each other.
    """

    model: str
    weights: str
    sha256: str
    tensors_sha256: str | None = None
    file: str | None = None
    data: str | None = None
    steps: int | None = None
    seed: int | None = None
    hardware: str | None = None
    commit: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights are one of {', '.join(WEIGHTS)}; not {self.weights!r}")
        if not self.trained and self.steps:
            raise ValueError(f"weights after {self.steps} steps of training are not untrained; say weights='trained'")

    @property
    def trained(self) -> bool:
        """Whether anything was learnt; a picture made with untrained weights must say so."""
        return self.weights != "untrained"

    def describes(self, net: nn.Module) -> bool:
        """Whether `net` still has, bit for bit, the weights that this was written about."""
        return sha256_of(net.state_dict()) == self.tensors_sha256

    def as_dict(self) -> dict[str, Any]:
        """Every field, `None` where unknown; plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """The inverse of `as_dict`; `ValueError` for a field missing, unknown or of the wrong type."""
        types = get_type_hints(cls)
        unknown = sorted(map(repr, set(values) - set(types)))
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in values]
        wrong = [
            f"{name}={value!r}"
            for name, value in values.items()
            if name in types and type(value) not in (get_args(types[name]) or (types[name],))
        ]
        if unknown or missing or wrong:
            groups = {"unknown": unknown, "missing": missing, "of the wrong type": wrong}
            found = "; ".join(f"{label}: {', '.join(names)}" for label, names in groups.items() if names)
            raise ValueError(f"not a provenance: fields {found}; it has {', '.join(types)}")
        return cls(**values)


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """Hexadecimal digest over names, types, shapes and bytes of the tensors, sorted by name.

    It depends on neither the device nor the memory layout nor the order of the entries.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\n{value.dtype}\n{tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: str | Path) -> str:
    """What `sha256sum` prints for the file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing_file(path: str | Path, wanted: str) -> Path:
    """`path`, once it is sure to be a file with something in it; `wanted` says what it should be.

    Raises `FileNotFoundError` with the nearest names there are, and `ValueError` for folders, devices and empty
    files.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, where {wanted} was asked for; name a file in it")
    if not path.exists():
        if path.is_symlink():
            raise FileNotFoundError(f"{path} is a link to {path.readlink()}, which leads to no file; name {wanted}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no file {path}, and no folder {path.parent}; check the path")
        near = get_close_matches(path.name, sorted(entry.name for entry in path.parent.iterdir()), n=3, cutoff=0.5)
        hint = f"near it: {', '.join(near)}" if near else f"nothing in {path.parent} is named like it"
        raise FileNotFoundError(f"there is no file {path}; {hint}")
    if not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, where {wanted} was asked for; copy its content to a file")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty (0 bytes), where {wanted} was asked for; copy or download it again")
    return path


def kind_of_content(data: bytes) -> str:
    """What a file that begins with `data` seems to be, in words, for messages about unreadable files."""
    start = data[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (`git lfs pull` fetches that)"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (download the file itself, not the page that shows it)"
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if data.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file"
    if data.startswith(b"\x80") and data[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle"
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")) or data[8:12] == b"WEBP":
        return IMAGE
    if data[4:8] == b"ftyp":
        return "a HEIC photograph or a video (convert it to PNG)"
    try:
        text = data[:512].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if all(letter.isprintable() or letter.isspace() for letter in text):
        return f"text that begins {text.strip()[:24]!r}"
    return f"something unknown (first bytes {data[:8].hex(' ')})"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A place to write to, which becomes `path` when the block ends well and otherwise disappears.

    The content is on the disk before it gets its name, so that not even a power cut leaves half a file under it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    part = path.with_name(f".{uuid4().hex[:12]}{path.suffix}")  # same folder: only there is a rename atomic
    try:
        with naming(path):
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Says of a failure of the disk which file was being written, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        named = type(error)(
            f"cannot write {path}: {reason}; make room or name another place: what is finished is kept, and the same "
            "command goes on"
        )
        named.errno = error.errno
        raise named from error


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """The file or folder of results `path` for this run alone while the block runs.

    The system gives it free when the process ends, however it ends; what stays is an empty hidden file beside it.
    Raises `ValueError` where another run has it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run is writing {path}; wait until it ends, or name another place") from None
    try:
        yield
    finally:
        lock.release()
