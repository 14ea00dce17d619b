"""Image files: exact where they can be, one clear line where they cannot; and the photographs that are always there."""

import ast
import contextlib
import os
import struct
import sys
import zlib
from io import BytesIO
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import evssm.images
import evssm.photographs
from evssm.images import crop_centre, decode_image, read_image, write_image
from evssm.photographs import PHOTOGRAPHS, photograph, photographs

RNG = np.random.default_rng()
SHAPE = (20, 28, 3)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples, w, h, depth, colour, *extra):
    """A PNG file written by hand, from the specification: an oracle that owes nothing to the libraries in use."""
    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in samples)
    body = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def encoded(picture, kind, **settings):
    file = BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def tiff(samples):
    plain = (cv2.IMWRITE_TIFF_COMPRESSION, 1)  # OpenCV 4 rounds floating-point colours otherwise (SGILOG)
    return cv2.imencode(".tiff", samples, plain)[1].tobytes()


def levels(depth, shape=SHAPE):
    return RNG.integers(0, 1 << depth, shape, dtype=f"uint{depth}")


def read(tmp_path, data, name="image.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_image(path)


def as_image(samples):
    return torch.from_numpy(samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)).permute(2, 0, 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_png_is_read_without_loss(tmp_path, depth):
    samples = levels(depth)
    x = read(tmp_path, png(samples, 28, 20, depth, 2))
    assert x.dtype == torch.float32
    assert torch.equal(x, as_image(samples))
    assert torch.equal(
        (x.double() * ((1 << depth) - 1)).round().permute(1, 2, 0), torch.from_numpy(samples.astype(float))
    )


@pytest.mark.parametrize("depth", [8, 16])
def test_bytes_are_decoded_as_the_file_is_and_called_by_their_name(tmp_path, depth):
    data = png(levels(depth), 28, 20, depth, 2)
    assert torch.equal(decode_image(data, "entry 7"), read(tmp_path, data))
    with pytest.raises(ValueError, match=r"^entry 7 is an image cut short"):
        decode_image(data[: len(data) // 2], "entry 7")
    with pytest.raises(ValueError, match=r"^entry 7 is no image but text"):
        decode_image(b"name,value", "entry 7")


@pytest.mark.parametrize("depth", [8, 16])
def test_all_levels_of_a_depth_stay_apart(tmp_path, depth):
    samples = np.arange(1 << depth, dtype=f"uint{depth}").reshape(-1, 16)
    samples = np.repeat(samples, 1 if depth == 16 else 2, axis=0)
    x = read(tmp_path, png(samples, 16, samples.shape[0], depth, 0))
    assert len(x[0].unique()) == 1 << depth
    assert (x.min(), x.max()) == (0, 1)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_becomes_three_equal_channels(tmp_path, depth):
    samples = levels(depth, (20, 28))
    x = read(tmp_path, png(samples, 28, 20, depth, 0))
    assert torch.equal(x, as_image(np.repeat(samples[..., None], 3, axis=2)))


@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_opaque_is_kept_and_what_is_transparent_lies_on_white(tmp_path, depth):
    top, samples = (1 << depth) - 1, levels(depth, (20, 28, 4))
    samples[..., 3] = top
    assert torch.equal(read(tmp_path, png(samples, 28, 20, depth, 6)), as_image(samples[..., :3]))
    samples[:5, :, 3], samples[5:10, :, 3] = 0, top // 3
    x = read(tmp_path, png(samples, 28, 20, depth, 6))
    assert torch.equal(x[:, :5], torch.ones(3, 5, 28))
    third = (top // 3) / top
    torch.testing.assert_close(x[:, 5:10], third * as_image(samples[5:10, :, :3]) + 1 - third)
    assert torch.equal(x[:, 10:], as_image(samples[10:, :, :3]))


def test_grey_with_transparency_and_palettes_are_colours_too(tmp_path):
    samples = levels(16, (20, 28, 2))
    samples[..., 1] = 65535
    grey = as_image(np.repeat(samples[..., :1], 3, axis=2))
    assert torch.equal(read(tmp_path, png(samples, 28, 20, 16, 4)), grey)
    palette = Image.fromarray(levels(8)).quantize(16)
    assert torch.equal(read(tmp_path, encoded(palette, "PNG")), as_image(np.asarray(palette.convert("RGB"))))
    assert torch.equal(read(tmp_path, encoded(palette, "GIF")), as_image(np.asarray(palette.convert("RGB"))))
    bits = Image.fromarray(levels(8)).convert("1")
    assert set(read(tmp_path, encoded(bits, "PNG")).unique().tolist()) == {0, 1}


@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_is_read_without_loss(tmp_path, depth):
    samples = levels(depth)
    assert torch.equal(read(tmp_path, tiff(samples[..., ::-1]), "image.tif"), as_image(samples))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:2]])
def test_floating_point_tiff_must_lie_in_0_to_1(tmp_path, kind, shape):
    samples = RNG.random(shape).astype(kind)
    x = read(tmp_path, tiff(samples[..., ::-1] if len(shape) == 3 else samples), "image.tif")
    grey_or_colour = samples if len(shape) == 3 else np.repeat(samples[..., None], 3, axis=2)
    assert torch.equal(x, torch.from_numpy(grey_or_colour.astype(np.float32)).permute(2, 0, 1))
    for bad, complaint in (
        (np.nan, "1 values? that (is|are) not finite|not finite"),
        (1.5, "to 1.5"),
        (-0.25, "from -0.25"),
    ):
        samples[3, 4] = bad
        with pytest.raises(ValueError, match=complaint):
            read(tmp_path, tiff(samples), "image.tif")


@pytest.mark.parametrize(("orientation", "kind"), list(product(range(1, 9), ("PNG", "JPEG", "WEBP", "TIFF"))))
def test_exif_orientation_is_applied(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(levels(8)), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert torch.equal(read(tmp_path, data), as_image(np.asarray(upright)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_16_bits(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = levels(16)
    shallow = (deep >> 8).astype(np.uint8)
    body = chunk(b"eXIf", exif.tobytes()[6:])
    x, y = read(tmp_path, png(deep, 28, 20, 16, 2, body)), read(tmp_path, png(shallow, 28, 20, 8, 2, body))
    assert x.shape == y.shape
    assert (x - y).abs().max() < 1 / 255


def test_cmyk_becomes_rgb(tmp_path):
    picture = Image.new("CMYK", (28, 20), (255, 0, 0, 0))
    red, green, blue = read(tmp_path, encoded(picture, "JPEG", quality=100), "ink.jpg").mean(dim=(1, 2)).tolist()
    assert red < 0.02
    assert min(green, blue) > 0.98


def test_the_photograph_of_a_phone_is_the_first_of_its_pictures(tmp_path):
    first, second = Image.new("RGB", (28, 20), "white"), Image.new("RGB", (28, 20), "black")
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert read(tmp_path, data, "phone.jpg").min() == 1


def test_paths_may_have_any_letters(tmp_path):
    samples = levels(16)
    assert torch.equal(read(tmp_path, png(samples, 28, 20, 16, 2), "ночь – 夜.png"), as_image(samples))
    write_image(tmp_path / "größe 夜.png", as_image(samples))
    assert read_image(tmp_path / "größe 夜.png").shape == (3, 20, 28)


def bad_files():
    whole = encoded(Image.fromarray(levels(8)), "PNG")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    frames = [Image.fromarray(levels(8)) for _ in range(3)]
    cmyk = levels(16, (20, 28, 4))
    return {
        "a web page": (b"<!DOCTYPE html><html><title>404</title>", "a web page"),
        "text": (b"just some words\n", "text that begins 'just some words'"),
        "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        "a heic photograph": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"),
        "noise": (bytes([0, 1, 2, 255]) * 99, "no image but something unknown"),
        "nothing": (b"", "0 bytes"),
        "a PNG header alone": (whole[:24], "cut short or damaged"),
        "half a PNG": (whole[: len(whole) // 2], "cut short or damaged"),
        "a PNG with a flipped byte": (bytes(flipped), "cut short or damaged"),
        "half a 16-bit PNG": (png(levels(16), 28, 20, 16, 2)[:999], "cut short or damaged"),
        "half a JPEG": (encoded(frames[0], "JPEG")[:700], "cut short or damaged"),
        "half a TIFF": (tiff(levels(16))[:900], "cut short or damaged"),
        "half a floating-point TIFF": (tiff(RNG.random(SHAPE))[:900], "cut short or damaged"),
        "a TIFF header alone": (b"II*\0\x08\0\0\0", "cut short or damaged"),
        "no pixels": (png([], 0, 0, 8, 2), "cut short or damaged"),
        "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "has 1 x 1 pixels; 16 x 16 is the least"),
        "a strip": (encoded(Image.new("RGB", (400, 15)), "PNG"), "has 15 x 400 pixels"),
        "a strip of floating point": (tiff(RNG.random((15, 400, 3))), "has 15 x 400 pixels"),
        "a bomb": (png([], 20_000, 10_000, 8, 2), "pixels"),
        "a larger bomb": (png([], 60_000, 60_000, 8, 2), "pixels"),
        "a gif that moves": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "holds 3 pictures"),
        "a PNG that moves": (encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), "holds 3 pictures"),
        "a stack": (encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), "holds 3 pictures"),
        "a Netpbm image": (encoded(frames[0], "PPM"), "save it as PNG"),
        "whole numbers of 32 bits": (tiff(levels(8).astype(np.int32)), "save it as PNG"),
        "two channels": (two_channel_tiff(), "save it as"),
        "deep ink": (cmyk_tiff(cmyk), "convert it to RGB"),
    }


def plain_tiff(samples, photometric, extra=()):
    """A TIFF written by hand (TIFF 6.0, Sec. 2): one strip, 16 bits a sample."""
    h, w, c = samples.shape
    body = samples.astype("<u2").tobytes()
    entries = [
        (256, 3, 1, w),
        (257, 3, 1, h),
        (258, 3, c, 8 if c > 2 else 16 | 16 << 16),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 16),
        (277, 3, 1, c),
        (278, 3, 1, h),
        (279, 4, 1, len(body)),
        *extra,
    ]
    bits = struct.pack("<4H", 16, 16, 16, 16)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 16 + len(body)) + bits + body + directory + bytes(4)


def two_channel_tiff():
    return plain_tiff(levels(16, (20, 28, 2)), 1, [(338, 3, 1, 2)])


def cmyk_tiff(samples):
    return plain_tiff(samples, 5)


BAD = bad_files()


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, capfd, what):
    data, complaint = BAD[what]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=complaint) as found:
        read_image(path)
    assert "\n" not in str(found.value)
    assert str(path) in str(found.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_a_file_cut_anywhere_never_passes_for_a_whole_one(tmp_path, capfd, kind):
    data = encoded(Image.fromarray(levels(8)), kind)
    whole = read(tmp_path, data)
    for length in RNG.integers(1, len(data), 25):
        try:
            found = read(tmp_path, data[:length])
        except ValueError:
            continue
        assert torch.equal(found, whole)  # only what follows the pixels was missing
    assert capfd.readouterr().err == ""


def test_missing_files_and_folders_are_told_apart(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"near it: photo\.png"):
        read_image(tmp_path / "foto.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("module", [evssm.images, evssm.photographs])
def test_importing_costs_no_image_library(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {"torch", "evssm.geometry", "evssm.images"} & set(names)
    assert not {"cv2", "PIL", "skimage"} & {name.split(".")[0] for name in names}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_no_decoder_writes_past_us_and_standard_error_comes_back(tmp_path, capfd, kind):
    whole = (
        png(levels(16), 28, 20, 16, 2)
        if kind == "PNG"
        else encoded(Image.fromarray(levels(8)), kind, compression="tiff_lzw")
    )
    for place in RNG.integers(8, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= RNG.integers(1, 256, dtype=np.uint8)
        with contextlib.suppress(ValueError):  # some bytes do not matter
            read(tmp_path, damaged)
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")


def test_images_are_read_where_there_is_no_standard_error(tmp_path, monkeypatch):
    def closed(descriptor):
        raise OSError("bad file descriptor")

    data = png(levels(16), 28, 20, 16, 2)
    monkeypatch.setattr(os, "dup", closed)
    assert read(tmp_path, data).shape == (3, 20, 28)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_what_was_written_is_read_again_to_half_a_level(tmp_path, suffix):
    x = torch.rand(3, 20, 28)
    path = write_image(tmp_path / f"image{suffix}", x)
    y = read_image(path)
    assert (x - y).abs().max() <= 0.5 / 255 + 1e-7
    write_image(path, y)
    assert torch.equal(read_image(path), y)


def test_values_are_clamped_and_rounded_to_the_nearest_level(tmp_path):
    values = torch.tensor([-0.3, 0.0, 0.49 / 255, 0.51 / 255, 254.4 / 255, 254.6 / 255, 1.0, 7.0])
    x = values.repeat(3, 16, 2)
    y = read_image(write_image(tmp_path / "x.png", x))
    assert (y[0, 0, :8] * 255).round().tolist() == [0, 0, 0, 1, 254, 255, 255, 255]


def test_half_precision_and_gradients_can_be_written(tmp_path):
    x = torch.full((3, 16, 16), 0.5, requires_grad=True)
    assert torch.equal(read_image(write_image(tmp_path / "a.png", x)), torch.full((3, 16, 16), 128 / 255))
    assert read_image(write_image(tmp_path / "b.png", x.bfloat16())).shape == (3, 16, 16)


def test_jpeg_is_written_near_enough(tmp_path):
    x = torch.linspace(0, 1, 64).expand(3, 64, 64)
    assert (read_image(write_image(tmp_path / "x.jpg", x)) - x).abs().max() < 0.03


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_image(tmp_path / "x.png", torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="1 of 768 values are not finite"):
        write_image(
            path,
            torch.zeros(3, 16, 16).index_fill(2, torch.tensor([3]), 0).put_(torch.tensor(5), torch.tensor(torch.inf)),
        )
    with pytest.raises(ValueError, match=r"none of \.png"):
        write_image(tmp_path / "x.gif", torch.zeros(3, 16, 16))
    with pytest.raises(FileNotFoundError, match="make it first"):
        write_image(tmp_path / "new" / "x.png", torch.zeros(3, 16, 16))
    assert list(tmp_path.iterdir()) == [path]
    assert read_image(path).max() == 0


def test_the_centre_stays_the_centre():
    for rows, columns in product(range(16, 21), repeat=2):
        x = torch.zeros(3, rows, columns)
        x[:, rows // 2, columns // 2] = 1
        for h, w in product((1, 2, 7, 15, 16), repeat=2):
            cut = crop_centre(x, h, w)
            assert cut.shape == (3, h, w)
            assert cut[0, h // 2, w // 2] == 1
    with pytest.raises(ValueError, match="17 x 3 pixels out of 16 x 16"):
        crop_centre(torch.zeros(2, 3, 16, 16), 17, 3)


def test_photographs_are_those_of_scikit_image():
    import skimage.data

    own = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS if name != "motorcycle"}
    own["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    found = photographs()
    assert list(found) == list(PHOTOGRAPHS)
    for name, x in found.items():
        assert torch.equal(x, as_image(own[name]))


def test_photographs_can_be_cut_and_say_whose_they_are():
    assert {tuple(x.shape) for x in photographs(64).values()} == {(3, 64, 64)}
    assert torch.equal(photograph("coffee", (32, 48)), crop_centre(photograph("coffee"), 32, 48))
    assert all(entry.credit and entry.licence for entry in PHOTOGRAPHS.values())
    with pytest.raises(ValueError, match=r"'cofee'; try coffee"):
        photograph("cofee")
    with pytest.raises(ValueError, match="cannot cut"):
        photograph("coffee", 401)


def test_a_scikit_image_without_its_photographs_is_told(monkeypatch, tmp_path):
    (tmp_path / "skimage").mkdir()
    (tmp_path / "skimage" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    with pytest.raises(FileNotFoundError, match=r"skimage.data.coffee\.png; reinstall"):
        photograph("coffee")
    monkeypatch.setattr("evssm.photographs.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        photograph("coffee")
