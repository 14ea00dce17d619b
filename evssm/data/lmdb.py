"""Images kept in LMDB databases as BasicSR, NAFNet and EVSSM write them for training; read, never written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from evssm.data.pictures import Ends, ends_of
from evssm.images import decode_image

_LINE = re.compile(r"(?P<key>.+)\.\w+ \((?P<h>\d+),\s*(?P<w>\d+),\s*(?P<c>\d+)\) \d+")
_OPEN = Lock()  # a process may hold a database open once only; each reading opens and closes it, so forks are safe


class Claim(NamedTuple):
    """Height, width and channels that `meta_info.txt` states."""

    h: int
    w: int
    c: int


@dataclass(frozen=True)
class LmdbImages:
    """The images of one database: a folder `*.lmdb` with `data.mdb` and a `meta_info.txt` of `name.png (h,w,c) level`.

    The key of an image is its name without suffix (Wang et al., BasicSR, `utils/lmdb_util.py`). Nothing is locked or
    written. Raises `ValueError` or `FileNotFoundError`, in one line, for what is no such database, is cut short, or
    whose list and content disagree, and where the package lmdb is missing.
    """

    folder: Path

    def __post_init__(self) -> None:
        listed = self.claims
        with self._opened() as database:
            held = database.stat()["entries"]
        if held != len(listed):
            raise ValueError(
                f"{self.folder} holds {held} entries and its meta_info.txt lists {len(listed)}; make the database again"
            )

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """What `meta_info.txt` says, by key, in its order."""
        path = self.folder / "meta_info.txt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no meta_info.txt: no database of images as BasicSR makes them; make it again"
            )
        claims: dict[str, Claim] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text in UTF-8; make the database again") from None
        for number, line in enumerate(lines, start=1):
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"{path}, line {number}, is not `name.png (h,w,c) level` but {line[:60]!r}")
            if found["key"] in claims:
                raise ValueError(f"{path}, line {number}, lists {found['key']} a second time; make the database again")
            claims[found["key"]] = Claim(int(found["h"]), int(found["w"]), int(found["c"]))
        return claims

    def content(self, key: str) -> bytes:
        """The encoded image as stored."""
        with self._held(key) as value:
            return bytes(value)

    def ends(self, key: str) -> Ends:
        """Its first and last bytes; only the pages that hold them are read."""
        with self._held(key) as value:
            return ends_of(value)

    @contextmanager
    def _held(self, key: str) -> Iterator[memoryview]:
        with self._opened() as database, database.begin(buffers=True) as reading:
            value = reading.get(key.encode())
            if value is None:
                raise ValueError(f"{self.folder} lists {key} in meta_info.txt but does not hold it; make it again")
            yield value

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import lmdb
        except ImportError:
            raise ValueError(
                f"reading {self.folder} needs the package lmdb; pip install 'evssm-lab[data]', or unpack the images "
                "into folders"
            ) from None
        data = self.folder / "data.mdb"
        if not data.is_file():
            raise FileNotFoundError(f"{self.folder} has no data.mdb, so it is no LMDB database; copy it again")
        with _OPEN:
            try:
                database = lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False, meminit=False)
            except lmdb.Error as error:
                raise ValueError(f"{self.folder} is no LMDB database that can be read: {error}") from None
            try:
                self._demand_whole(database, data)
                yield database
            except lmdb.Error as error:
                raise ValueError(f"{self.folder} is damaged ({error}); copy or make it again") from None
            finally:
                database.close()

    def _demand_whole(self, database: Any, data: Path) -> None:
        """Reading a page beyond the end of the mapped file would kill the process, so the length is checked first."""
        needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        if data.stat().st_size < needed:
            raise ValueError(f"{data} is cut short: {data.stat().st_size} of {needed} bytes; copy it again")


@dataclass(frozen=True)
class LmdbPicture:
    """One image of a database."""

    images: LmdbImages = field(compare=False)
    key: str

    def __str__(self) -> str:
        return f"{self.images.folder}:{self.key}"

    def ends(self) -> Ends:
        return self.images.ends(self.key)

    def content(self) -> bytes:
        return self.images.content(self.key)

    def read(self) -> Float[Tensor, "3 h w"]:
        """As `evssm.images.read_image`; `ValueError` also where the image is not of the size that was listed."""
        x = decode_image(self.content(), str(self))
        self.demand_size(*x.shape[-2:])
        return x

    def demand_size(self, h: int, w: int) -> None:
        """Raises `ValueError` where `meta_info.txt` says something else."""
        claim = self.images.claims[self.key]
        if (h, w) != claim[:2] or claim.c not in (1, 3, 4):
            raise ValueError(
                f"{self} is {h} x {w} and its meta_info.txt says {claim.h} x {claim.w} with {claim.c} channels; "
                "make the database again"
            )
