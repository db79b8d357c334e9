"""Untrusted documents, arrays and folders: each is read within limits, or refused without a traceback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from calibration.table import CalibrationTable
from deploy.bench import records as timings
from deploy.bench.limits import LIMITS, stored_limits
from deploy.core import records
from deploy.core.archive import ArchiveError, inflate
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, DataError, UsageError, WeightsError
from deploy.data.collection import open_dataset
from deploy.exporting.samples import load_samples
from deploy.models.weights import load_into, read_state_dict
from deploy.report.compare import compare_reports
from deploy.sweeps.document import Document
from deploy.training.state import load_state

Run = Callable[..., Any]
DEEP, DIGITS = "[" * 200_000, '{"schema": ' + "9" * 1_000_000 + "}"
JSON = {"deep": DEEP, "digits": DIGITS, "a list": "[1]", "nothing": "", "not text": "\udcff"}


def save_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("name", JSON)
def test_a_damaged_document_is_an_error(tmp_path: Path, name: str) -> None:
    text = JSON[name]
    (tmp_path / "net.onnx").write_bytes(b"")
    save_text(tmp_path / "net.onnx.json", text)
    with pytest.raises(ArtifactError):
        Artifact.open(tmp_path / "net.onnx")
    with pytest.raises(ArtifactError):
        records.check(save_text(tmp_path / "record.0123456789abcdef.json", text))
    with pytest.raises(ArtifactError):
        compare_reports(save_text(tmp_path / "a.json", text), tmp_path / "a.json")
    with pytest.raises(ArtifactError):
        CalibrationTable.from_json(text, tmp_path / "table.json")
    save_text(tmp_path / LIMITS / "x.json", text)
    assert stored_limits(tmp_path) == []
    if name != "not text":
        state = {"state": text, "sha256": ""}
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "state.safetensors", metadata=state)
        with pytest.raises(ArtifactError):
            load_state(tmp_path / "state.safetensors")


@pytest.mark.parametrize("rows", [None, 5, [5], [{}], [{"slug": "a", "model": "b", "medians_ns": "c"}]])
def test_a_report_with_other_rows_is_an_error(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"kind": "report", "schema": 1, "machines": [], "rows": rows}))
    document = json.loads((tmp_path / "old.json").read_text())
    for schema in range(1, 9):
        (tmp_path / "old.json").write_text(json.dumps({**document, "schema": schema}))
        with pytest.raises(ArtifactError):
            compare_reports(tmp_path / "old.json", tmp_path / "old.json")


def read_manifest(path: Path) -> None:
    path.rename(path.with_name("net.onnx.json"))
    Artifact.open(path.with_name("net.onnx"))


READERS: dict[str, Callable[[Path], object]] = {
    "manifest": read_manifest,
    "record": records.check,
    "report": lambda path: compare_reports(path, path),
    "sweep": Document,
    "samples": lambda path: load_samples(str(path.rename(path.with_suffix(".npz")))),
    "arrays": lambda path: open_dataset(path.rename(path.with_suffix(".npy"))),
    "checkpoint": lambda path: read_state_dict(str(path), torch.nn.Linear(2, 2)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    start = time.monotonic()
    with pytest.raises((ArtifactError, UsageError, DataError, WeightsError)):
        READERS[name](tmp_path / "pipe.json")
    assert time.monotonic() - start < 30, "it would wait forever"


@pytest.mark.parametrize("name", ["manifest", "record", "report", "sweep"])
def test_a_document_of_terabytes_is_refused(tmp_path: Path, name: str) -> None:
    with (tmp_path / "huge.json").open("wb") as stream:
        stream.truncate(1 << 42)
    with pytest.raises((ArtifactError, UsageError)):
        READERS[name](tmp_path / "huge.json")


def test_samples_of_a_record_unpack_within_limits(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(100 << 20), 9)
    with pytest.raises(ArchiveError):
        inflate(packed)
    with pytest.raises(ArchiveError):
        inflate(zlib.compress(b"text")[:-3])
    assert inflate(zlib.compress(b"text")) == b"text"
    cell = {"model": "m", "slug": "s", "backend": "b", "precision": "p", "digest": "d", "batch": 1, "sizes": {}}
    repetition = {"number": 0, "samples": base64.b85encode(packed).decode()}
    content = {"cell": {**cell, "threads": 1}, "evidence": {}, "about": {}, "repetitions": [repetition]}
    path = tmp_path / "bench" / "x.0123456789abcdef.json"
    records.save(path, timings.KIND, timings.SCHEMA, content)
    with pytest.raises(ArtifactError):
        timings.load(path)


SWEEPS = {
    "deep": "[" * 100_000,
    "deep mappings": "{a: " * 10_000,
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\n",
    "sexagesimal": "a: 1" + ":59" * 100_000,
    "digits": "a: " + "9" * 100_000,
    "hexadecimal": "a: 0x" + "f" * 100_000,
    "python object": "a: !!python/object/apply:os.system touch CANARY",
    "python name": "!!python/name:os.system : b",
    "bool": "a: !!bool x",
    "int": 'a: !!int ""',
    "float": 'a: !!float ""',
    "timestamp": "a: !!timestamp x",
    "binary": "a: !!binary x",
    "key": '? !!int ""\n: b',
    "not text": "a: \x07",
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_file_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(UsageError):
        Document(save_text(tmp_path / "sweep.yaml", SWEEPS[name]))
    assert time.monotonic() - start < 30, "its time is bounded"
    assert not (tmp_path / "CANARY").exists()


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


NPY = {
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"\x80\x04."),
    "code": npy("{'descr': __import__('os').system('touch CANARY'), 'fortran_order': False, 'shape': (1,)}\n"),
    "petabytes": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1000000, 1000000000)}\n"),
    "overflow": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808, 4)}\n"),
    "negative": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}\n"),
    "long header": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 20_000 + ")}\n"),
    "deep header": npy("(" * 5_000),
    "other keys": npy("{'descr': '<f4'}\n"),
    "pickle": b"\x80\x04K\x01.",
    "text": b"no array",
    "empty": b"",
}


@pytest.mark.parametrize("name", NPY)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_damaged_array_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(NPY[name])
    if suffix == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", NPY[name])
    for read in (lambda: load_samples(str(path)), lambda: open_dataset(path)):
        with pytest.raises(DataError):
            read()
    assert not (tmp_path / "CANARY").exists()


def test_an_archive_of_arrays_that_is_a_bomb(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((100, 1, 1024, 1024), np.uint8))
    np.savez_compressed(tmp_path / "small.npz", images=np.zeros((2, 1, 1024, 1024), np.uint8))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("images.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1)}\n", b"a"))
    for name in ("bomb", "twice"):
        for read in (load_samples, open_dataset):
            with pytest.raises(DataError):
                read(str(tmp_path / f"{name}.npz"))
    assert len(open_dataset(tmp_path / "small.npz")) == 2, "small archives may be as compressible as they are"


def test_tensors_without_data_are_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save({"weight": torch.zeros(2, 2, device="meta"), "bias": torch.zeros(2)}, tmp_path / "meta.pt")
    with pytest.raises(WeightsError):
        load_into(module, read_state_dict(str(tmp_path / "meta.pt"), module)[0], "meta.pt")


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    """A folder that was received may contain files with the names of packages."""
    root = str(Path(__file__).parents[2])
    for name in ("numpy", "onnx", "onnxruntime", "torch", "ast", "json", "deploy"):
        (tmp_path / f"{name}.py").write_text("open('CANARY', 'a').write(__name__)\n")
    start = "import sys; sys.path[:] = [item for item in sys.path if item]\n"
    work = (
        "from deploy.core.remote import Remote\n"
        "with Remote('collections:Counter', name='child') as child:\n"
        "    child.send('items')\n"
        "    try: child.receive(100)\n"
        "    except Exception as exc: print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + work],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "items" in done.stdout, done.stderr
    assert not (tmp_path / "CANARY").exists(), (tmp_path / "CANARY").read_text()
