"""Image files in and out: exact for 8 and 16 bits, and plain about every file that holds no photograph.

Numbers are those that the file stores, divided by the largest that its type can hold; no colour profile is applied.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from evssm.geometry import ANTI_TRANSPOSE, D4, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.provenance import IMAGE, existing_file, kind_of_content, written_whole

SMALLEST = 16
"""Pixels that either side must have: the least that every network takes."""

LARGEST = 150_000_000
"""Pixels of the largest image that is decoded: as three float32 colours it takes 1.8 GB."""

SUFFIXES: dict[str, dict[str, Any]] = {
    ".png": {},
    ".bmp": {},
    ".tif": {},
    ".tiff": {},
    ".jpg": {"quality": 95},
    ".jpeg": {"quality": 95},
}
"""What `write_image` writes, and with which settings."""

DEEP = (".png", ".tif", ".tiff")
"""Suffixes of the formats that hold 16 bits."""

_UPRIGHT = {  # EXIF orientation -> the turn that brings the stored pixels upright (Exif 2.32, Sec. 4.6.4)
    1: IDENTITY,
    2: D4(flip_w=True),
    3: HALF_TURN,
    4: D4(flip_h=True),
    5: TRANSPOSE,
    6: D4(transpose=True, flip_w=True),
    7: ANTI_TRANSPOSE,
    8: D4(transpose=True, flip_h=True),
}

_FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "WEBP", "GIF")


def read_image(path: str | Path) -> Float[Tensor, "3 h w"]:
    """The image as RGB in [0, 1], float32, upright as a person sees it.

    Samples of 8 bits are divided by 255, those of 16 bits by 65535; nothing is lost. Grey becomes three equal
    channels and CMYK becomes RGB; what is transparent lies on white. Of the pictures that a phone puts into one JPEG
    (MPO), the first, the photograph, is read.

    Raises `FileNotFoundError` or `ValueError`, in one line, for a missing, damaged or foreign file, for animations
    and stacks, for sides under 16 pixels, for more than 150 million pixels (before decoding them) and for
    floating-point values that are not in [0, 1].
    """
    return decode_image(image_content(path), str(path))


def image_content(path: str | Path) -> bytes:
    """The bytes of an image file; `ValueError`, before any is read, where no image that is decoded has so many."""
    path = existing_file(path, "an image")
    if (size := path.stat().st_size) > 16 * LARGEST:  # four colours of 32 bits
        raise ValueError(f"{path} has {size} bytes, too many for an image of the {LARGEST} pixels that are read")
    return path.read_bytes()


def decode_image(data: bytes, name: str) -> Float[Tensor, "3 h w"]:
    """What `read_image` makes of a file with this content; `name` is what its `ValueError`s call it."""
    with _silenced():
        samples, turn = _decoded(name, data)
    return turn(torch.from_numpy(_rgb(name, samples)).permute(2, 0, 1)).contiguous()


def write_image(path: str | Path, x: Float[Tensor, "3 h w"], *, bits: int = 8) -> Path:
    """The path, once it holds `x` clamped to [0, 1] and rounded to 8 or 16 bits; the file appears whole or not at all.

    The suffix, one of `SUFFIXES`, chooses the format; JPEG loses detail. Raises `ValueError` for another suffix, for
    16 bits in a format other than PNG and TIFF, and for values that are not finite.
    """
    path = Path(path)
    demand_format(path, bits)
    if not torch.isfinite(x).all():
        raise ValueError(f"cannot write {path}: {int((~torch.isfinite(x)).sum())} of {x.numel()} values are not finite")
    samples = levels(x, bits).permute(1, 2, 0).cpu().numpy()
    with written_whole(path) as part:
        if bits == 8:
            from PIL import Image

            Image.fromarray(samples.astype(np.uint8)).save(part, **SUFFIXES[path.suffix.lower()])
        else:
            import cv2

            done, data = cv2.imencode(path.suffix.lower(), samples[..., ::-1].astype(np.uint16))
            if not done:
                raise ValueError(f"cannot write {path}: OpenCV cannot encode it; write 8 bits")
            part.write_bytes(data.tobytes())
    return path


def demand_format(path: Path, bits: int) -> None:
    """`ValueError` unless `write_image` can write such a file with so many bits."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write {path}: its suffix is none of {', '.join(SUFFIXES)}; use .png to lose nothing")
    if bits not in (8, 16) or (bits == 16 and suffix not in DEEP):
        raise ValueError(f"cannot write {path} with {bits} bits: 8 can be had, and 16 in {', '.join(DEEP)}")


def levels(x: Float[Tensor, "*b c h w"], bits: int) -> Float[Tensor, "*b c h w"]:
    """`x`, clamped to [0, 1], as the nearest of the whole numbers 0 ... 2^bits - 1, in float64; NaN stays NaN."""
    return (x.detach().double().clamp(0, 1) * (2**bits - 1)).round()


def crop_centre(x: Float[Tensor, "*b c h w"], h: int, w: int) -> Float[Tensor, "*b c {h} {w}"]:
    """The middle `h x w` pixels; the pixel at half the height and width (rounded down) stays there.

    Raises `ValueError` where `x` is smaller than that.
    """
    rows, columns = x.shape[-2:]
    if not (0 < h <= rows and 0 < w <= columns):
        raise ValueError(f"cannot cut {h} x {w} pixels out of {rows} x {columns}; ask for no more than there are")
    top, left = rows // 2 - h // 2, columns // 2 - w // 2
    return x[..., top : top + h, left : left + w]


@contextmanager
def _silenced() -> Iterator[None]:
    """Keeps standard error clean while the block runs: libtiff and libpng write there, past Python and OpenCV's log."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _decoded(name: str, data: bytes) -> tuple[np.ndarray, D4]:
    """The samples as stored, `h w` or `h w c` in the order RGB or RGBA, and the turn that brings them upright.

    Pillow examines every file and decodes those of 8 bits; deeper ones, which it would cut to 8, are left to OpenCV.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked here, and odd metadata are nobody's concern
        try:
            picture = Image.open(BytesIO(data))
        except Image.DecompressionBombError:
            raise ValueError(f"{name} has more than the {LARGEST} pixels that are read; cut it into parts") from None
        except Exception:  # the parsers of a dozen formats fail in as many ways
            return _unknown_to_pillow(name, data), IDENTITY
        _demand_size(name, *picture.size)
        if picture.format not in _FORMATS:
            raise ValueError(f"{name} is a {picture.format} image, whose depth would be uncertain; save it as PNG")
        try:
            frames, orientation = getattr(picture, "n_frames", 1), picture.getexif().get(0x0112, 1)
            deep = stored_bits(picture, data) > 8
            picture.load()
            mode = "RGBA" if picture.has_transparency_data else "RGB"
            shallow = None if deep else np.asarray(picture.convert(mode))
        except Exception as error:
            raise _damaged(name, error) from None
    if frames > 1 and picture.format != "MPO":
        raise ValueError(f"{name} holds {frames} pictures, where one was asked for; save one of them as PNG")
    if deep and picture.mode == "CMYK":
        raise ValueError(f"{name} is CMYK of more than 8 bits; convert it to RGB")
    turn = _UPRIGHT.get(orientation, IDENTITY) if picture.format != "TIFF" else IDENTITY  # both decoders turn TIFF
    return (_decoded_by_opencv(name, data) if shallow is None else shallow), turn


def stored_bits(picture: Any, data: bytes) -> int:
    """Bits of the deepest sample that a file of one of `_FORMATS` stores; Pillow may keep fewer."""
    if picture.format == "PNG":
        return data[24]  # the header chunk comes first (PNG, Sec. 11.2.1)
    return max(picture.tag_v2.get(258, (1,))) if picture.format == "TIFF" else 8


def _unknown_to_pillow(name: str, data: bytes) -> np.ndarray:
    """The samples of a floating-point TIFF of a kind that Pillow does not read; `ValueError` for anything else."""
    if not data.startswith((b"II*\0", b"MM\0*")):
        kind = kind_of_content(data)
        if kind == IMAGE:
            raise _damaged(name, "its beginning is incomplete")
        raise ValueError(f"{name} is no image but {kind}; give a PNG, JPEG or TIFF file")
    try:
        _demand_size(name, *_tiff_size(data))
    except (struct.error, KeyError):
        raise _damaged(name, "its directory is incomplete") from None
    samples = _decoded_by_opencv(name, data)
    if samples.dtype.kind != "f":
        raise ValueError(f"{name} is a TIFF of an unusual kind; save it as PNG of 8 or 16 bits")
    return samples


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first directory of a TIFF (TIFF 6.0, Sec. 2)."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    fields = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        (fields[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 8)
    return fields[256], fields[257]


def _decoded_by_opencv(name: str, data: bytes) -> np.ndarray:
    """The samples `h w` or `h w c` at full depth, in the order RGB or RGBA."""
    import cv2

    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _damaged(name, error) from None
    if samples is None:
        raise _damaged(name, "OpenCV cannot decode it")
    if samples.ndim == 2:
        return samples
    if samples.shape[2] not in (3, 4):
        raise ValueError(f"{name} has {samples.shape[2]} channels, where 1, 3 or 4 are read; save it as RGB")
    return samples[..., [2, 1, 0, 3][: samples.shape[2]]]


def _rgb(name: str, samples: np.ndarray) -> np.ndarray:
    """The samples as float32 `h w 3` in [0, 1], grey repeated and laid on white where transparent."""
    x = samples.astype(np.float32)
    if samples.dtype in (np.uint8, np.uint16):
        x /= np.iinfo(samples.dtype).max
    elif samples.dtype.kind != "f":
        raise ValueError(f"{name} has samples of type {samples.dtype}; save it as PNG of 8 or 16 bits")
    elif not np.isfinite(x).all():
        raise ValueError(f"{name} has {int((~np.isfinite(x)).sum())} values that are not finite; replace them")
    elif x.min() < 0 or x.max() > 1:
        raise ValueError(f"{name} has values from {x.min():g} to {x.max():g}; scale them to [0, 1] and save it again")
    x = x if x.ndim == 3 else repeat(x, "h w -> h w 3")
    colour, alpha = x[..., :3], x[..., 3:]
    return colour if alpha.size == 0 or alpha.min() == 1 else colour * alpha + (1 - alpha)


def _demand_size(name: str, w: int, h: int) -> None:
    if min(h, w) < SMALLEST:
        raise ValueError(f"{name} has {h} x {w} pixels; {SMALLEST} x {SMALLEST} is the least that a network takes")
    if h * w > LARGEST:
        raise ValueError(f"{name} claims {h} x {w} pixels; {LARGEST} is the most that is read; cut it into parts")


def _damaged(name: str, cause: object) -> ValueError:
    reason = str(cause).split("\n")[0] or type(cause).__name__
    return ValueError(f"{name} is an image cut short or damaged ({reason}); copy or download it again")
