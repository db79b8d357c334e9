"""Untrusted checkpoints: code is never run, and damage is reported."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from deploy.models.zoo.lenet import lenet5

Run = Callable[..., Any]
Spoil = Callable[[Path, Path], Path]
"""Writes a file to a folder, given the path of the canary file."""
UNSAFE, DAMAGED = "refused and not run", "not a complete checkpoint"


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Twice:
    """Fails the safe reader without naming code at first: bait for a second, unsafe try."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Path.touch, (self.canary,)


def touching(folder: Path, canary: Path) -> Path:
    torch.save({"weight": Calls(Path.touch, canary)}, folder / "x.pt")
    return folder / "x.pt"


def evaluating(folder: Path, canary: Path) -> Path:
    torch.save({"weight": Calls(eval, f"open({str(canary)!r}, 'w')")}, folder / "x.pt")
    return folder / "x.pt"


def resolving(folder: Path, canary: Path) -> Path:
    import pkgutil

    torch.save({"weight": Calls(pkgutil.resolve_name, "os:system"), "then": Calls(Path.touch, canary)}, folder / "x.pt")
    return folder / "x.pt"


def bare_pickle(folder: Path, canary: Path) -> Path:
    (folder / "x.pth").write_bytes(pickle.dumps({"weight": Calls(Path.touch, canary)}))
    return folder / "x.pth"


def called_safetensors(folder: Path, canary: Path) -> Path:
    return touching(folder, canary).rename(folder / "x.safetensors")


def whole_module(folder: Path, canary: Path) -> Path:
    module = lenet5()
    module.extra = Calls(Path.touch, canary)  # type: ignore[assignment]
    torch.save(module, folder / "x.pt")
    return folder / "x.pt"


def tempting(folder: Path, canary: Path) -> Path:
    state: dict[str, Any] = {**lenet5().state_dict(), "version": np.dtype("float32"), "then": Twice(canary)}
    torch.save(state, folder / "x.pt")
    return folder / "x.pt"


def legacy_tar(folder: Path, canary: Path) -> Path:
    with tarfile.open(folder / "x.pt", "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps({"weight": Calls(Path.touch, canary)})
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return folder / "x.pt"


def torchscript(folder: Path, canary: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and its files are about
        torch.jit.save(torch.jit.trace(lenet5().eval(), torch.zeros(1, 1, 32, 32)), folder / "x.pt")
    return folder / "x.pt"


def bad_sum(folder: Path, canary: Path) -> Path:
    torch.save(lenet5().state_dict(), folder / "x.pt")
    data = bytearray((folder / "x.pt").read_bytes())
    place = data.index(lenet5_bytes(folder / "x.pt"))
    data[place + 8] ^= 0xFF
    (folder / "x.pt").write_bytes(data)
    return folder / "x.pt"


def lenet5_bytes(path: Path) -> bytes:
    """The first bytes of the largest tensor within an archive."""
    with zipfile.ZipFile(path) as archive:
        name = max((item for item in archive.infolist() if "/data/" in item.filename), key=lambda item: item.file_size)
        return archive.read(name)[:64]


def bomb(folder: Path, canary: Path) -> Path:
    """Two gigabytes of zeros in a few megabytes."""
    torch.save(lenet5().state_dict(), folder / "small.pt")
    with (
        zipfile.ZipFile(folder / "small.pt") as small,
        zipfile.ZipFile(folder / "x.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as big,
    ):
        for item in small.infolist():
            if item.filename.endswith("/data/0"):
                with big.open(item.filename, "w", force_zip64=True) as stream:
                    for _ in range(2_000):
                        stream.write(bytes(1 << 20))
            else:
                big.writestr(item.filename, small.read(item))
    return folder / "x.pt"


def not_a_dictionary(folder: Path, canary: Path) -> Path:
    torch.save([torch.zeros(3)], folder / "x.pt")
    return folder / "x.pt"


def cut(folder: Path, canary: Path) -> Path:
    torch.save(lenet5().state_dict(), folder / "whole.pt")
    (folder / "x.pt").write_bytes((folder / "whole.pt").read_bytes()[:-5_000])
    return folder / "x.pt"


PICKLES: dict[str, tuple[Spoil, str]] = {
    "__reduce__": (touching, UNSAFE),
    "eval": (evaluating, UNSAFE),
    "resolve_name": (resolving, UNSAFE),
    "a bare pickle": (bare_pickle, UNSAFE),
    "renamed to safetensors": (called_safetensors, DAMAGED),
    "a whole module": (whole_module, UNSAFE),
    "bait for a second try": (tempting, UNSAFE),
    "legacy tar": (legacy_tar, ""),
    "TorchScript": (torchscript, ""),
    "bad CRC": (bad_sum, "the checksum of"),
    "zip bomb": (bomb, "claims to unpack to 2.1 GB"),
    "not a dictionary": (not_a_dictionary, "not a dictionary of tensors"),
    "truncated": (cut, DAMAGED),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_or_archive(run: Run, store: Path, tmp_path: Path, name: str) -> None:
    make, said = PICKLES[name]
    canary = tmp_path / "canary"
    path = make(tmp_path, canary)
    ran = run("export", "zoo/lenet5", "--weights", path)
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert said in ran.err and path.name in ran.err, ran.err
    assert not canary.exists() and not store.exists()


def header(tensors: dict[str, Any], data: bytes) -> bytes:
    """A safetensors file as its header tells it."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def sound() -> bytes:
    return safetensors.torch.save(lenet5().state_dict())


def not_finite() -> bytes:
    state = lenet5().state_dict()
    state["fc1.weight"].view(-1)[3] = float("nan")
    return safetensors.torch.save(state)


SAFETENSORS: dict[str, tuple[Callable[[], bytes], str]] = {
    "overlap": (lambda: header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "offset"),
    "hole": (lambda: header({"a": entry([2], 0, 8), "b": entry([2], 16, 24)}, bytes(24)), "offset"),
    "header longer than the file": (lambda: struct.pack("<Q", 10**6) + b"{}", "header"),
    "header of petabytes": (lambda: struct.pack("<Q", 2**60) + b"{" + bytes(100), "header"),
    "size that is not the type's": (lambda: header({"a": entry([3], 0, 8)}, bytes(8)), "a"),
    "unknown type": (lambda: header({"a": entry([2], 0, 8, "F31")}, bytes(8)), "F31"),
    "truncated": (lambda: sound()[:-100], "incomplete"),
    "more than it tells": (lambda: sound() + bytes(100), "incomplete"),
    "negative offset": (lambda: header({"a": entry([2], -8, 0)}, bytes(8)), "header"),
    "sizes that overflow": (lambda: header({"a": entry([2**40, 2**40], 0, 8)}, bytes(8)), "overflow"),
    "not a number": (not_finite, "tensor 'fc1.weight' holds 1 values that are not finite"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_safetensors_file(run: Run, store: Path, tmp_path: Path, name: str) -> None:
    make, said = SAFETENSORS[name]
    path = tmp_path / "their.safetensors"
    path.write_bytes(make())
    ran = run("export", "zoo/lenet5", "--weights", path)
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    assert said.lower() in ran.err.lower(), ran.err
    assert not store.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x80\x02broken", b"\x08\0\0\0\0\0\0\0{}", b"x" * 100])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_broken_checkpoint_is_named(run: Run, tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    ran = run("export", "zoo/lenet5", "--weights", path)
    assert ran.code == 1 and "broken" in ran.err and "Traceback" not in ran.err


def test_a_sound_one_is_taken(run: Run, tmp_path: Path) -> None:
    (tmp_path / "their.safetensors").write_bytes(sound())
    assert run("export", "zoo/lenet5", "--weights", tmp_path / "their.safetensors").code == 0
