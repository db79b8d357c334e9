"""Measure the INT8 speedup of eleven architectures on ONNX Runtime and OpenVINO, compared with other tools.

    python -m benchmarks.int8_speed [--only PATTERN] [--peers PYTHON] [--work DIR] [--threads 2] [--blocks 30]

For each architecture and backend: the float export, our INT8 file for this backend, ONNX Runtime's static quantization
with default settings, and NNCF if the interpreter PYTHON has it. One process per file, batch 1, the same number of
threads; the processes alternate in blocks of ten inferences, in random order. A speedup is the median over rounds of
the ratio to the float block, with a bootstrap interval. Calibration uses 16 seeded random images, since their values
affect accuracy but not speed. Writes results/int8_speed.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, quantize_static

import calibration
from benchmarks.common import interval, load, write
from benchmarks.quantizers import NNCF, quantize_by
from calibration.table import CalibrationTable
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest

ARCHITECTURES = (
    "resnet18", "resnet50", "vgg11", "googlenet", "inception_v3", "densenet121", "mobilenet_v2", "mobilenet_v3_large",
    "squeezenet1_1", "efficientnet_b0", "shufflenet_v2_x1_0",
)  # fmt: skip
BACKENDS = ("onnxruntime", "openvino")
TARGETS = {"onnxruntime": 2.5, "openvino": 3.2}
"""Target speedup of ResNet-18 over float32 on the same backend."""

INFERENCES = 10
IMAGES = 16

WORKER = """
import sys, time, numpy as np
backend, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
if backend == "onnxruntime":
    import onnxruntime as ort
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 4
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    item = session.get_inputs()[0]
    shape = [1, *item.shape[1:]]
    feeds = {item.name: np.random.default_rng(0).standard_normal(shape, np.float32)}
    run = lambda: session.run(None, feeds)
else:
    from deploy.support.openvino_library import openvino as ov
    core = ov.Core()
    model = core.read_model(path)
    shape = [1, *[dim.get_length() for dim in list(model.inputs[0].partial_shape)[1:]]]
    model.reshape(shape)
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    run = lambda: request.infer([image])
for _ in range(5):
    run()
print("ready", flush=True)
for line in sys.stdin:
    times_ns = []
    for _ in range(int(line)):
        began = time.perf_counter_ns()
        run()
        times_ns.append(time.perf_counter_ns() - began)
    print(*times_ns, flush=True)
"""


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, images: np.ndarray) -> None:
        self._left = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def main() -> None:
    """Measure the architectures without a result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching models.")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="Interpreter with the other tools.")
    parser.add_argument("--work", type=Path, help="Folder to keep the files in.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=30)
    arguments = parser.parse_args()
    rows: dict[str, Any] = load("int8_speed").get("rows", {})
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        for name in fnmatch.filter(ARCHITECTURES, arguments.only):
            for backend in BACKENDS:
                key = f"{name} {backend}"
                if key in rows:
                    continue
                files = _files(name, backend, work, arguments.peers)
                rows[key] = _measure(backend, files, arguments.threads, arguments.blocks)
                shown = {file: round(row["speed_up"], 2) for file, row in rows[key].items() if "speed_up" in row}
                print(key, shown, flush=True)
                write("int8_speed", {"threads": arguments.threads, "targets": TARGETS, "rows": rows})


def _files(name: str, backend: str, work: Path, peers: str) -> dict[str, Path]:
    """Return the file of every tool; make the missing ones."""
    source = work / name / f"{name}.fp32.onnx"
    if not source.exists():
        export_model(ModelRequest(name=name, weights="none"), artifacts=work)
    item = onnx.load(str(source)).graph.input[0]
    shape = [IMAGES, *(dim.dim_value for dim in list(item.type.tensor_type.shape.dim)[1:])]
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    folder = work / "int8_speed" / name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    files = {"float32": source, "ours": folder / f"ours-{backend}.onnx", "onnxruntime defaults": folder / "ort.onnx"}
    if not files["ours"].exists():
        graph = calibration.prepare(source)
        table = CalibrationTable.of(calibration.collect(graph, [{item.name: images}]), "minmax", {})
        onnx.save(calibration.quantize(graph, table, backend), str(files["ours"]))
    if not files["onnxruntime defaults"].exists():
        quantize_static(str(source), str(files["onnxruntime defaults"]), _Reader(item.name, images))
    if peers:
        files["NNCF"] = folder / ("nncf.xml" if backend == "openvino" else "nncf.onnx")
        if not files["NNCF"].exists():
            quantize_by(peers, NNCF, source, folder / "images.npy", files["NNCF"])
    return files


def _measure(backend: str, files: Mapping[str, Path], threads: int, blocks: int) -> dict[str, Any]:
    """Time blocks of inferences in alternating processes."""
    workers: dict[str, subprocess.Popen[str]] = {}
    rows: dict[str, Any] = {}
    for file, path in files.items():
        command = [sys.executable, "-W", "ignore", "-c", WORKER, backend, str(path), str(threads)]
        with tempfile.TemporaryFile("w+") as log:
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            if worker.stdout is not None and worker.stdout.readline() == "ready\n":
                workers[file] = worker
                rows[file] = {"blocks_ms": [], "bytes": path.stat().st_size}
                continue
            log.seek(0)
            rows[file] = {"failed": f"exit {worker.wait()}: {log.read()[-300:]}"}
    for turn in range(blocks):
        order = list(workers)
        random.Random(turn).shuffle(order)
        for file in order:
            rows[file]["blocks_ms"].append(_block(workers[file]))
    for worker in workers.values():
        worker.kill()
        worker.wait()
    base = np.asarray(rows["float32"]["blocks_ms"])
    for file in workers:
        block_ms = np.asarray(rows[file]["blocks_ms"])
        ratios = (base / block_ms).tolist()
        rows[file] |= {
            "median_ms": float(np.median(block_ms)),
            "speed_up": float(np.median(ratios)),
            "speed_up_interval": interval(ratios),
        }
    return rows


def _block(worker: subprocess.Popen[str]) -> float:
    """Return the median latency of one block in milliseconds."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(f"{INFERENCES}\n")
    worker.stdin.flush()
    return float(np.median([int(text) for text in worker.stdout.readline().split()])) / 1e6


if __name__ == "__main__":
    main()
