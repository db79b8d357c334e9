"""Measure time and memory of calibration: whole processes from a float ONNX file and images to an INT8 file.

    python -m benchmarks.calibration [--rounds 3] [--peers PYTHON]

ResNet-18 at 224 × 224 with 64 seeded images in an ``.npy`` file. Compares our streaming calibration (entropy,
percentile and mse) with the calibrators of ONNX Runtime, and with NVIDIA ModelOpt and NNCF if the interpreter PYTHON
has them. One process per case, in random order each round. Ours also runs with 512 images to measure memory. Writes
results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import deploy, interval, write
from benchmarks.quantizers import MODELOPT, NNCF, ONNXRUNTIME, command

IMAGES, MANY = 64, 512
TARGETS = {"time_of_onnxruntime_entropy": 1 / 3, "peak_bytes": 0.8e9, "peak_growth": 1.05}

OURS = """
import sys, numpy as np, onnx, calibration
from pathlib import Path
source, images, made, method = sys.argv[1:5]
graph = calibration.prepare(Path(source))
count, size = len(np.load(images, mmap_mode="r")), calibration.batch_size(graph)
def feeds():  # read, not mapped: mapped pages would count as memory of this process
    with open(images, "rb") as stream:
        stream.seek(128)
        while (batch := np.fromfile(stream, np.float32, size * 3 * 224 * 224)).size:
            yield {"input": batch.reshape(-1, 3, 224, 224)}
table = calibration.CalibrationTable.of(calibration.collect(graph, feeds(), samples=count), method, {})
onnx.save(calibration.quantize(graph, table, "onnxruntime"), made)
"""

CASES = {
    "ours entropy": (OURS, "entropy", False),
    "ours percentile": (OURS, "percentile", False),
    "ours mse": (OURS, "mse", False),
    "onnxruntime Entropy": (ONNXRUNTIME, "Entropy", False),
    "onnxruntime Percentile": (ONNXRUNTIME, "Percentile", False),
    "onnxruntime MinMax": (ONNXRUNTIME, "MinMax", False),
    "ModelOpt entropy": (MODELOPT, "entropy", True),
    "NNCF": (NNCF, "", True),
}


def main() -> None:
    """Run every case in every round and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", metavar="PYTHON", help="Interpreter with the other tools.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # exported in another process: the peak memory of a child starts at that of its parent when forked
        exported = deploy("-q", "--artifacts", folder, "export", "resnet18", "--weights", "none")[1]
        source = Path(exported["file"])
        images, many = Path(folder) / "images.npy", Path(folder) / "many.npy"
        rng = np.random.default_rng(0)
        np.save(images, rng.standard_normal((IMAGES, 3, 224, 224), np.float32))
        np.save(many, rng.standard_normal((MANY, 3, 224, 224), np.float32))
        rows: dict[str, dict[str, Any]] = {}
        for turn in range(arguments.rounds):
            names = list(CASES)
            random.Random(turn).shuffle(names)
            for name in names:
                script, method, peer = CASES[name]
                if peer and not arguments.peers:
                    continue
                python = arguments.peers if peer else sys.executable
                _add(rows, name, _run(python, script, source, images, method))
        _add(rows, f"ours entropy, {MANY} images", _run(sys.executable, OURS, source, many, "entropy"))
    for row in rows.values():
        row["median_s"] = float(np.median(row["seconds"]))
        row["interval_s"] = interval(row["seconds"])
        row["peak_bytes"] = max(row["peaks"])
        print(json.dumps(row))
    peers = _versions(arguments.peers) if arguments.peers else {}
    write("calibration", {"model": "resnet18", "images": IMAGES, "targets": TARGETS, "peers": peers, "rows": rows})


def _add(rows: dict[str, dict[str, Any]], name: str, run: dict[str, Any]) -> None:
    row = rows.setdefault(name, {"name": name, "seconds": [], "peaks": [], "failed": ""})
    if run["code"]:
        row["failed"] = run["error"]
        print(name, run["error"], file=sys.stderr)
    row["seconds"].append(run["seconds"])
    row["peaks"].append(run["peak"])


def _run(python: str, script: str, source: Path, images: Path, method: str) -> dict[str, Any]:
    """Run a case in a process; return its wall time and peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    made = source.with_name("made.xml" if script is NNCF else "made.onnx")
    words = command(python, script, source, images, made, method)
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    return {
        "seconds": seconds,
        "peak": usage.ru_maxrss * 1024,
        "code": os.waitstatus_to_exitcode(status),
        "error": lines[-1][:300] if lines else "",
    }


def _versions(python: str) -> dict[str, str]:
    script = "import json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in " + (
        '("nncf", "nvidia-modelopt", "openvino", "onnxruntime-gpu", "onnx")}))'
    )
    versions: dict[str, str] = json.loads(
        subprocess.run([python, "-c", script], capture_output=True, check=True).stdout
    )
    return versions


if __name__ == "__main__":
    main()
