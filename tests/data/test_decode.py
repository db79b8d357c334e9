"""Decoding images: formats, sample types, and files that are not what their names say."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from deploy.core.errors import DataError
from deploy.data.collection import open_dataset
from deploy.data.decode import EXTENSIONS, FORMATS, decode, decode_file

Array = NDArray[Any]
RAMP = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
GRAY = np.round(RAMP * 255).astype(np.uint8)
COLORS = np.stack([GRAY, GRAY[::-1], 255 - GRAY], axis=2)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_the_extensions_are_those_of_image_folder() -> None:
    assert set(EXTENSIONS) == set(torchvision.datasets.folder.IMG_EXTENSIONS)
    assert set(EXTENSIONS) <= set(Image.registered_extensions())
    assert {Image.registered_extensions()[extension] for extension in EXTENSIONS} == set(FORMATS)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_decoded(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    assert np.abs(decode(encoded(Image.fromarray(COLORS), kind, **options)).astype(int) - COLORS).max() <= 60
    if kind != "JPEG":
        assert np.array_equal(decode(encoded(Image.fromarray(COLORS), kind, **options)), COLORS)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 10 10 rectfill\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [POSTSCRIPT, b"%PDF-1.4", b"P6\n8 6\n", b"\x01\0\x09\0\0\x03"])
def test_what_is_no_image_starts_no_program(tmp_path: Path, content: bytes) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c", "djpeg", "ps2pdf", "convert"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/CANARY\n")
        (programs / name).chmod(0o755)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat.png").write_bytes(content)
    code = "import sys; from deploy.data.collection import open_dataset; open_dataset(sys.argv[1])"
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "images")], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 1 and b"DataError" in done.stderr and b"cat.png" in done.stderr
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "SGI", "PCX", "EPS", "PDF", "JPEG2000", "DDS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(DataError):
        decode(encoded(Image.fromarray(COLORS), kind))


def scaled(image: Array) -> Array:
    return image / np.float32(255) if image.dtype == np.uint8 else image


def tiff(array: Array, **tags: Any) -> bytes:
    return encoded(Image.fromarray(array), "TIFF", **tags)


def twelve_bits() -> bytes:
    """A TIFF of 12 bits per sample, which Pillow reads but does not write."""
    values = np.round(RAMP * 4095).astype(np.uint16)
    packed = bytearray()
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes((first >> 4, (first & 15) << 4 | second >> 8, second & 255))
    tags = {256: 8, 257: 6, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def plain_pgm(top: int) -> bytes:
    values = np.round(RAMP.ravel() * top).astype(int).tolist()
    return f"P2 8 6 {top} {' '.join(map(str, values))}\n".encode()


RAMPS: dict[str, tuple[Callable[[], bytes], float]] = {
    "float32 TIFF": (lambda: tiff(RAMP), 0),
    "compressed float TIFF": (lambda: tiff(RAMP, compression="tiff_lzw"), 0),
    "PFM": (lambda: encoded(Image.fromarray(RAMP), "PPM"), 0),
    "8-bit TIFF": (lambda: tiff(GRAY), 1 / 510),
    "12-bit TIFF": (twelve_bits, 1 / 8190),
    "16-bit TIFF": (lambda: tiff(np.round(RAMP * 65535).astype(np.uint16)), 1 / 131070),
    "16-bit PNG": (lambda: encoded(Image.fromarray(np.round(RAMP * 65535).astype(np.uint16))), 1 / 131070),
    "16-bit PGM": (lambda: encoded(Image.fromarray(np.round(RAMP * 65535).astype(np.uint16)), "PPM"), 1 / 131070),
    "PGM of 1000": (
        lambda: b"P2 8 6 1000\n" + " ".join(map(str, np.round(RAMP.ravel() * 1000).astype(int))).encode(),
        1 / 1990,
    ),
    "LA": (lambda: encoded(Image.merge("LA", [Image.fromarray(GRAY)] * 2)), 1 / 510),
    "L": (lambda: encoded(Image.fromarray(GRAY)), 1 / 510),
    "1": (lambda: encoded(Image.fromarray(GRAY).convert("1", dither=Image.Dither.NONE)), 0.51),
}


@pytest.mark.parametrize("name", RAMPS)
def test_gray_of_every_depth_is_the_same_ramp(name: str) -> None:
    make, tolerance = RAMPS[name]
    image = decode(make())
    assert image.shape == (6, 8, 1) and image.dtype in (np.uint8, np.float32)
    assert np.abs(scaled(image)[:, :, 0] - RAMP).max() <= tolerance + 1e-6


@pytest.mark.parametrize(
    "array",
    [RAMP * 255, RAMP - 0.5, np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), (RAMP * 65535).astype(np.int32)],
    ids=["floats to 255", "negative floats", "NaN", "32-bit integers"],
)
def test_samples_without_a_known_white_are_refused(array: Array) -> None:
    with pytest.raises(DataError):
        decode(tiff(array))


def test_colors() -> None:
    image = Image.fromarray(COLORS)
    transparent = image.convert("RGBA")
    transparent.putalpha(3)
    assert np.array_equal(decode(encoded(transparent)), COLORS), "transparency is dropped"
    palette = image.quantize(48)
    expected = np.asarray(palette.convert("RGB"))
    for options in ({}, {"transparency": 0}, {"transparency": bytes(range(48))}):
        assert np.array_equal(decode(encoded(palette, **options)), expected)
    printed = image.convert("CMYK")
    assert np.array_equal(decode(encoded(printed, "TIFF")), np.asarray(printed.convert("RGB")))


def test_orientation_tags_are_not_applied_like_in_image_folder(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.fromarray(COLORS).save(tmp_path / "a" / "turned.png", exif=exif)
    theirs = np.asarray(torchvision.datasets.ImageFolder(str(tmp_path))[0][0])
    assert np.array_equal(open_dataset(tmp_path / "a").images[0], theirs)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_of_several_images_in_a_file_the_first(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    others = [Image.fromarray(255 - COLORS)]
    data = encoded(Image.fromarray(COLORS), kind, save_all=True, append_images=others, **options)
    assert np.array_equal(decode(data), COLORS)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, side: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes((side + 1) * side) if side < 1000 else bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body + chunk(b"IEND", b"")


ZEROS = zlib.compress(bytes(200 << 20))
BOMBS = {
    "PNG": lambda: png(side=60_000),
    "PNG text": lambda: png(chunk(b"zTXt", b"Comment\0\0" + ZEROS)),
    "PNG profile": lambda: png(chunk(b"iCCP", b"icc\0\0" + ZEROS)),
    "BMP": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "PPM": lambda: b"P6 60000 60000 255\n" + bytes(100),
    "PGM digits": lambda: b"P2 " + b"9" * 5000 + b" 8 255\n",
    "TIFF": lambda: twelve_bits().replace(struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, 1 << 30)),
    "JPEG": lambda: encoded(Image.fromarray(COLORS), "JPEG").replace(
        struct.pack(">HH", 6, 8), struct.pack(">HH", 65_000, 65_000), 1
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_is_refused(name: str) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError):
        decode(BOMBS[name]())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10, "150 MB, in KiB"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_image_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    for size in (len(data) // 2, len(data) // 4, 20, 3):
        with pytest.raises(DataError):
            decode(data[:size])


def test_a_tiff_tag_that_claims_gigabytes(tmp_path: Path) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = "text"
    data = tiff(GRAY, tiffinfo=info)
    place = data.index(struct.pack("<HHI", 270, 2, 5))
    damaged = data[:place] + struct.pack("<HHI", 270, 2, 0xFFFFFFF0) + data[place + 8 :]
    assert np.array_equal(decode(damaged)[:, :, 0], GRAY), "the tag is ignored"


def test_only_regular_files_within_the_limit_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "missing.png").symlink_to(tmp_path / "nowhere")
    with (tmp_path / "huge.png").open("wb") as stream:
        stream.write(encoded(Image.fromarray(GRAY)))
        stream.truncate(1 << 40)
    for path in tmp_path.iterdir():
        with pytest.raises(DataError):
            decode_file(path)


def test_the_limits_can_be_raised_and_lowered(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    code = "import sys; from deploy.data.collection import open_dataset; open_dataset(sys.argv[1])"
    for name, value, expected in (("IMAGE_PIXELS", "47", 1), ("IMAGE_PIXELS", "48", 0), ("IMAGE_BYTES", "10", 1)):
        environment = {**os.environ, f"DEPLOY_LIMIT_{name}": value}
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True)
        assert done.returncode == expected and (expected == 0 or f"DEPLOY_LIMIT_{name}".encode() in done.stderr)
