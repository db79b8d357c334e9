"""External data of an ONNX file is read only from a regular file in the same folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Any]
Place = Callable[[Path], Mapping[str, str]]
CANARY = b"the canary outside the folder "
TENSOR, BYTES = "conv2.weight", 16 * 6 * 5 * 5 * 4
"""A weight of LeNet-5 and its size."""


def at(location: str, **entries: str) -> Place:
    return lambda folder: {"location": location, **entries}


def absolute(folder: Path) -> Mapping[str, str]:
    return {"location": str(folder.parent / "secret.bin")}


def symbolic_link(folder: Path) -> Mapping[str, str]:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    return {"location": "link.bin"}


def link_to_a_link(folder: Path) -> Mapping[str, str]:
    (folder / "first.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "second.bin").symlink_to("first.bin")
    return {"location": "second.bin"}


def linked_parent(folder: Path) -> Mapping[str, str]:
    (folder / "sub").symlink_to(folder.parent)
    return {"location": "sub/secret.bin"}


def hard_link(folder: Path) -> Mapping[str, str]:
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    return {"location": "hard.bin"}


def directory(folder: Path) -> Mapping[str, str]:
    (folder / "data.d").mkdir()
    return {"location": "data.d"}


def pipe(folder: Path) -> Mapping[str, str]:
    os.mkfifo(folder / "pipe.bin")
    return {"location": "pipe.bin"}


PLACES: dict[str, Place] = {
    "parent": at("../secret.bin"),
    "parent in the middle": at("sub/../../secret.bin"),
    "dot and parent": at("./../secret.bin"),
    "absolute": absolute,
    "backslashes": at("..\\secret.bin"),
    "subfolder": at("sub/data.bin"),
    "device": at("/dev/zero"),
    "symbolic link": symbolic_link,
    "link to a link": link_to_a_link,
    "linked parent": linked_parent,
    "hard link": hard_link,
    "directory": directory,
    "pipe": pipe,
    "missing": at("nowhere.bin"),
    "no place": at(""),
    "dot": at("."),
    "negative offset": at("data.bin", offset="-1"),
    "huge offset": at("data.bin", offset="99999999999999999999"),
    "offset beyond": at("data.bin", offset="19999"),
    "offset in words": at("data.bin", offset="zero"),
    "negative length": at("data.bin", length="-8"),
    "huge length": at("data.bin", length="99999999999999999999"),
    "other length": at("data.bin", length="7"),
    "unknown key": at("data.bin", basepath="/"),
}
BY_DAY = ("parent", "symbolic link", "hard link", "pipe", "missing", "huge offset")
"""Places that every command meets by day; all of them are refused by one function, which `check` is tried with."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("check", "zoo/lenet5", "--weights", "none", "--onnx", "FILE"),
    "inspect": ("inspect", "FILE"),
    "quantize": ("quantize", "FILE", "--calib", "SAMPLES"),
    "trt build": ("trt", "build", "FILE", "--fp16", "--runtime", "tensorrt-rtx"),
}


def plant(lenet5: Path, folder: Path, place: Place) -> Path:
    """LeNet-5 with one weight somewhere else; a secret above the folder, sound data within."""
    folder.mkdir()
    (folder.parent / "secret.bin").write_bytes((CANARY * (BYTES // len(CANARY) + 1))[:BYTES])
    (folder / "data.bin").write_bytes(bytes(BYTES))
    model = onnx.load(next(lenet5.glob("*/*.onnx")))
    tensor = next(item for item in model.graph.initializer if item.name == TENSOR)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in place(folder).items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "theirs.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def words(command: str, path: Path) -> list[str]:
    samples = path.with_name("samples.npy")
    np.save(samples, np.zeros((4, 1, 32, 32), np.float32))
    return [{"FILE": str(path), "SAMPLES": str(samples)}.get(word, word) for word in COMMANDS[command]]


@pytest.mark.parametrize(
    ("command", "place"), pairs_by_day(COMMANDS, PLACES, lambda command, place: command == "check" or place in BY_DAY)
)
def test_it_is_refused_and_nothing_outside_is_read_or_changed(
    run: Run, store: Path, lenet5: Path, tmp_path: Path, command: str, place: str
) -> None:
    path = plant(lenet5, tmp_path / "model", PLACES[place])
    secret = tmp_path / "secret.bin"
    before = secret.read_bytes(), secret.stat().st_mtime_ns, path.read_bytes()
    ran = run(*words(command, path))
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert TENSOR in ran.err and "theirs.onnx" in ran.err
    assert (secret.read_bytes(), secret.stat().st_mtime_ns, path.read_bytes()) == before
    assert CANARY.decode() not in ran.out + ran.err
    for written in (item for item in store.rglob("*") if item.is_file()):
        assert CANARY not in written.read_bytes(), written


@pytest.mark.parametrize("command", ["inspect", "trt build"])
def test_sound_data_beside_the_file_is_read(run: Run, lenet5: Path, tmp_path: Path, command: str) -> None:
    path = plant(lenet5, tmp_path / "model", at("data.bin", offset="0", length=str(BYTES)))
    assert run(*words(command, path)).code == 0
