"""Untrusted folders of images: unreadable files are named and counted, and nothing hangs."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Any]
SOUND = 40


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty valid images."""
    root = tmp_path / "images"
    root.mkdir()
    for seed in range(SOUND):
        picture(seed).save(root / f"{seed:02}.png")
    return root


def truncated(root: Path) -> None:
    data = (root / "00.png").read_bytes()
    (root / "bad.png").write_bytes(data[: len(data) // 2])


def empty(root: Path) -> None:
    (root / "bad.png").write_bytes(b"")


def text(root: Path) -> None:
    (root / "bad.jpg").write_text("these are not the pixels you are looking for")


def bomb(root: Path) -> None:
    """A PNG that claims to be 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    (root / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))


def flipped(root: Path) -> None:
    data = bytearray((root / "00.png").read_bytes())
    data[60] ^= 0xFF
    (root / "bad.png").write_bytes(data)


def dangling(root: Path) -> None:
    (root / "bad.png").symlink_to(root / "nowhere.png")


def pipe(root: Path) -> None:
    os.mkfifo(root / "bad.png")


def directory(root: Path) -> None:
    (root / "bad.png").mkdir()


def loop(root: Path) -> None:
    (root / "bad").symlink_to(root)


def device(root: Path) -> None:
    (root / "bad.png").symlink_to("/dev/zero")


def animated(root: Path) -> None:
    picture(1).save(root / "moving.gif", save_all=True, append_images=[picture(2), picture(3)])


def colors(root: Path) -> None:
    picture(1).convert("CMYK").save(root / "print.jpg")


def palette(root: Path) -> None:
    picture(1).convert("P").save(root / "indexed.png", transparency=0)


def deep(root: Path) -> None:
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64).save(root / "deep.png")


def odd_name(root: Path) -> None:
    picture(1).save(os.fsencode(root) + b"/\xff\xfe.png", format="png")


def odd_signs(root: Path) -> None:
    picture(1).save(root / "[red]a\n\x1b[31mb.png")


REFUSED = {item.__name__: item for item in (truncated, empty, text, bomb, flipped, dangling, pipe, device)}
TAKEN = {item.__name__: item for item in (directory, loop, animated, colors, palette, deep, odd_name, odd_signs)}


def quantize(run: Run, folder: Path, *more: str) -> Any:
    return run("quantize", "zoo/lenet5", "--calib", folder, "--samples", "64", *more)


@pytest.mark.parametrize("name", by_day(REFUSED, "truncated", "text", "bomb", "device"))
def test_what_cannot_be_read_is_named_and_counted(run: Run, folder: Path, name: str) -> None:
    REFUSED[name](folder)
    ran = quantize(run, folder)
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert "bad." in ran.err and "1 of 41" in ran.err, ran.err
    ran = quantize(run, folder, "--skip-bad")
    assert ran.code == 0 and "bad." in ran.err, ran.err


@pytest.mark.parametrize("name", by_day(TAKEN, "loop", "animated", "deep", "odd_signs"))
def test_what_can_be_read_is_and_what_is_no_file_is_not(run: Run, folder: Path, name: str) -> None:
    TAKEN[name](folder)
    ran = quantize(run, folder)
    assert ran.code == 0 and "Traceback" not in ran.err and "\x1b[31m" not in ran.err, ran.err


def none(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()


def one(root: Path) -> None:
    for path in sorted(root.iterdir())[1:]:
        path.unlink()


def few(root: Path) -> None:
    for path in sorted(root.iterdir())[5:]:
        path.unlink()


def alike(root: Path) -> None:
    data = (root / "00.png").read_bytes()
    for path in root.iterdir():
        path.write_bytes(data)


def empty_class(root: Path) -> None:
    for index, path in enumerate(sorted(root.iterdir())):
        (root / str(index % 2)).mkdir(exist_ok=True)
        path.rename(root / str(index % 2) / path.name)
    (root / "2").mkdir()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (none, 1, "FOLDER/<class>"),
        (one, 1, "1 image"),
        (few, 0, "5 calibration samples"),
        (alike, 0, "identical"),
        (empty_class, 1, "2"),
    ],
)
def test_sizes_of_data_sets(run: Run, folder: Path, change: Callable[[Path], None], code: int, words: str) -> None:
    change(folder)
    ran = quantize(run, folder)
    assert ran.code == code and words in ran.err and "Traceback" not in ran.err, ran.err


def test_the_names_in_messages_are_shown_as_text(run: Run, folder: Path) -> None:
    (folder / "a\x1b[31mb\nc.png").write_bytes(b"")
    ran = quantize(run, folder)
    assert ran.code == 1 and "\x1b[31m" not in ran.err and "\\x1b[31m" in ran.err
