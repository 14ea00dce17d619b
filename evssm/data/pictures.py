"""One image of a data set, wherever it lies, and what its first and last bytes tell before anything is decoded."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from evssm.images import SUFFIXES, decode_image, image_content, stored_bits
from evssm.provenance import existing_file

READ_SUFFIXES = (*SUFFIXES, ".webp")
"""The suffixes, in lower case, of the files that count as images of a data set."""

_START, _END = 64, 12
_PNG, _IEND = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


class Ends(NamedTuple):
    """The first 64 and the last 12 bytes of an encoded image, and how many it has."""

    start: bytes
    end: bytes
    size: int


@runtime_checkable
class Picture(Protocol):
    """An encoded image; `str(picture)` is what messages call it."""

    def ends(self) -> Ends: ...

    def content(self) -> bytes: ...

    def read(self) -> Float[Tensor, "3 h w"]: ...


@dataclass(frozen=True)
class FilePicture:
    """An image in a file of its own."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def ends(self) -> Ends:
        path = existing_file(self.path, "an image")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(max(0, size - _END))
            return Ends(start, file.read(_END), size)

    def content(self) -> bytes:
        return image_content(self.path)

    def read(self) -> Float[Tensor, "3 h w"]:
        """As `evssm.images.read_image`: RGB in [0, 1], 8 and 16 bits exact."""
        return decode_image(self.content(), str(self))


def ends_of(content: bytes | memoryview) -> Ends:
    return Ends(bytes(content[:_START]), bytes(content[-_END:]), len(content))


class Header(NamedTuple):
    """What an image claims of itself.

    `h`, `w`: pixels; `bits`: per sample; `kind`: its format; `size`: of the file, in bytes; `sure` unless only decoding
    can tell that it is whole.
    """

    h: int
    w: int
    bits: int
    kind: str
    size: int
    sure: bool


def header(picture: Picture) -> Header:
    """The claims of an image, read without decoding it.

    Raises `FileNotFoundError` or `ValueError`, in one line, where there is no image.
    """
    ends = picture.ends()
    if ends.start.startswith(_PNG) and len(ends.start) > 24 and ends.start[12:16] == b"IHDR":
        w, h = struct.unpack_from(">II", ends.start, 16)
        return Header(h, w, ends.start[24], "PNG", ends.size, ends.end == _IEND)
    return _header_by_pillow(picture)


def _header_by_pillow(picture: Picture) -> Header:
    from PIL import Image

    content = picture.content()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(BytesIO(content))
            w, h = opened.size
            turned = opened.getexif().get(0x0112, 1) >= 5  # Exif 2.32, Sec. 4.6.4: a quarter turn
            bits, kind = stored_bits(opened, content), str(opened.format)
    except Exception:  # the parsers of a dozen formats fail in as many ways; the decoder says what it is
        h, w = picture.read().shape[-2:]
        return Header(h, w, 32, "TIFF", len(content), sure=True)  # of floating-point values: all else is refused
    return Header(*((w, h) if turned else (h, w)), bits, kind, len(content), sure=False)
