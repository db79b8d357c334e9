"""Detectors from pictures to boxes in one file: do they pass, do they become engines, and what does suppression cost?

    python -m benchmarks.detection [--only PATTERN] [--again]
    python -m benchmarks.detection --trained FOLDER

The first command exports the detectors of torchvision ``--with postprocessing``, with seeded weights, and builds an
engine in FP16 and one in INT8 of each with TensorRT for RTX, without a GPU. Detectors that resize pictures make
them small, since the structure of the graph is the same. It also times the files of detectors with one stage in ONNX
Runtime beside the same files that end at the last layers: the difference is the decoding, the selection and the
suppression.

The second command takes an artifacts directory with ``fcos_small`` and ``unet_small``, trained by ``deploy train`` on
``shapes``, makes an INT8 file for each target, and scores and times every file on held-out pictures.

Writes results/detection.json after every network; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.common import deploy, interval, load, write
from calibration.graph import last_layers

NAME = "detection"
TIMEOUT_S = 3600.0
CANDIDATES = 300
SIDE = 160
SAMPLES = 8
ROUNDS = 60
BATCHES = (1, 2, 3, 5)

SMALL = ("-o", f"min_size={SIDE}", "-o", f"max_size={SIDE}")
DETECTORS: dict[str, tuple[str, ...]] = {
    "ssdlite320_mobilenet_v3_large": (),
    "fasterrcnn_mobilenet_v3_large_320_fpn": SMALL,
    "ssd300_vgg16": (),
    "fcos_resnet50_fpn": SMALL,
    "retinanet_resnet50_fpn": SMALL,
    "fasterrcnn_mobilenet_v3_large_fpn": SMALL,
    "fasterrcnn_resnet50_fpn": SMALL,
    "maskrcnn_resnet50_fpn": SMALL,
    "retinanet_resnet50_fpn_v2": SMALL,
    "fasterrcnn_resnet50_fpn_v2": SMALL,
    "maskrcnn_resnet50_fpn_v2": SMALL,
    "keypointrcnn_resnet50_fpn": SMALL,
}
"""Detectors of torchvision and their options, fast ones first."""

ONE_STAGE = ("ssd*", "fcos*", "retinanet*")
TARGETS = ("onnxruntime", "openvino", "tensorrt")
"""Targets of INT8 files; those for TensorRT are scored by a simulation and not timed."""
TRAINED = ("fcos_small", "unet_small")
TIMING = "--backends onnxruntime,openvino --baseline onnxruntime --precision fp32,int8 --threads 1"


def main() -> None:
    """Measure the networks without a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="Measure only the matching networks.")
    parser.add_argument("--again", action="store_true", help="Measure again what has a result.")
    parser.add_argument("--trained", type=Path, metavar="FOLDER", help="Score the trained networks in a folder.")
    arguments = parser.parse_args()
    part = "detectors" if arguments.trained is None else "trained"
    for name in fnmatch.filter(DETECTORS if arguments.trained is None else TRAINED, arguments.only):
        if name in load(NAME).get(part, {}) and not arguments.again:
            continue
        row = _detector(name) if arguments.trained is None else _trained(name, arguments.trained)
        print(name, json.dumps(row), flush=True)
        stored = {key: value for key, value in load(NAME).items() if key in ("detectors", "trained")}
        settings = {"candidates": CANDIDATES, "side": SIDE, "samples": SAMPLES, "rounds": ROUNDS}
        write(NAME, {**settings, **stored, part: {**stored.get(part, {}), name: row}})


def _detector(name: str) -> dict[str, Any]:
    """Export a detector, run its file at several batches, build both engines, and time the file."""
    with tempfile.TemporaryDirectory() as scratch:
        common = ("-q", "--artifacts", scratch)
        asked = ("--weights", "none", "--with", "postprocessing", "--candidates", str(CANDIDATES))
        code, made, seconds = deploy(
            *common, "export", name, *asked, *DETECTORS[name], "--probes", "quick", timeout=TIMEOUT_S
        )
        row: dict[str, Any] = {"exported": bool(made.get("file")), "seconds": round(seconds, 1)}
        if not row["exported"]:
            return {**row, "reason": made.get("error", {}).get("message", f"status {code}")[:400]}
        path = Path(made["file"])
        row |= {"verdict": made["parity"]["verdict"], "reasons": made["parity"]["reasons"]}
        feeds = _pictures(path, max(BATCHES))
        row["batches"] = _batches(path, feeds)
        np.save(Path(scratch) / "samples.npy", _pictures(path, SAMPLES))
        for kind, options in (("fp16", ()), ("int8", ("--calib", f"{scratch}/samples.npy"))):
            row[kind] = _engine(path, kind, (*common, "trt", "build", str(path), f"--{kind}", *options))
        if any(fnmatch.fnmatch(name, pattern) for pattern in ONE_STAGE):
            row["suppression"] = _suppression(path, feeds[:1])
    return row


def _pictures(path: Path, count: int) -> np.ndarray[Any, Any]:
    """Return seeded pictures of blocks, values from 0 to 1, in the size that a file takes."""
    _, _, height, width = _session(path).get_inputs()[0].shape
    coarse = np.random.default_rng(0).random((count, 3, -(-height // 16), -(-width // 16)), np.float32)
    pictures: np.ndarray[Any, Any] = np.repeat(np.repeat(coarse, 16, 2), 16, 3)[:, :, :height, :width].copy()
    return pictures


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _batches(path: Path, pictures: np.ndarray[Any, Any]) -> list[int]:
    """Return the sizes of batches at which the file runs and every picture gets what it gets alone."""
    session = _session(path)
    name = session.get_inputs()[0].name
    alone = [session.run(["count"], {name: pictures[index : index + 1]})[0][0] for index in range(len(pictures))]
    return [count for count in BATCHES if session.run(["count"], {name: pictures[:count]})[0].tolist() == alone[:count]]


def _engine(path: Path, kind: str, command: tuple[str, ...]) -> dict[str, Any]:
    code, built, seconds = deploy(*command, "--runtime", "tensorrt-rtx", timeout=TIMEOUT_S)
    row: dict[str, Any] = {"built": code in (0, 4) and "weighted" in built, "seconds": round(seconds, 1)}
    if not row["built"]:
        return {**row, "reason": str(built.get("error", {}).get("message", f"status {code}"))[:400]}
    row |= {key: built[key] for key in ("bytes", "weighted", "weight_bytes")}
    if kind == "fp16":
        (plan,) = path.parent.glob("*.precision.json")
        document = json.loads(plan.read_text(encoding="utf-8"))
        row |= {"share": document["share"], "margin": document["margin"]}
    return row


def _suppression(path: Path, picture: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Time a file and the same file up to its last layers, in turns; the share is that of what comes after."""
    with tempfile.TemporaryDirectory() as scratch:
        short = Path(scratch) / "short.onnx"
        _cut(path, short)
        runs = {"whole": _session(path), "layers": _session(short)}
        (name,) = (item.name for item in runs["whole"].get_inputs())
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(ROUNDS + 5):
            for key, session in runs.items():
                began = time.perf_counter()
                session.run(None, {name: picture})
                times[key].append(1e3 * (time.perf_counter() - began))
    shares = [1 - layers / whole for layers, whole in zip(times["layers"][5:], times["whole"][5:], strict=True)]
    return {
        "median_ms": {key: round(statistics.median(values[5:]), 3) for key, values in times.items()},
        "share": statistics.median(shares),
        "share_interval": interval(shares),
    }


def _cut(path: Path, short: Path) -> None:
    """Write the graph up to the results of layers with no layer after them."""
    model = onnx.load(path)
    last = set(last_layers(model))
    needed = {node.output[0] for node in model.graph.node if node.name in last}
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(needed))
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept[::-1])
    onnx.save(model, short)


def _trained(name: str, folder: Path) -> dict[str, Any]:
    """Score the INT8 files of a trained network beside the float file, and time all of them where they run here."""
    common = ("-q", "--artifacts", str(folder))
    options = ("--with", "postprocessing") if name == "fcos_small" else ()
    row: dict[str, Any] = {"int8": {}}
    code, made, _ = deploy(*common, "export", name, *options, timeout=TIMEOUT_S)
    row["verdict"] = made["parity"]["verdict"] if code == 0 else f"status {code}"
    for target in TARGETS:
        code, made, seconds = deploy(
            *common, "quantize", name, "--calib", "shapes", "--target", target, "--max-drop", "1", timeout=TIMEOUT_S
        )
        kept = {key: made.get(key) for key in ("verdict", "reasons", "bytes", "cpu", "judged_on")}
        evidence = {key: made.get("evidence", {}).get(key) for key in ("accuracy", "float_accuracy", "comparison")}
        row["int8"][target] = {"code": code, "seconds": round(seconds, 1), **kept, **evidence}
    _, timed, _ = deploy(*common, "bench", name, *TIMING.split(), timeout=TIMEOUT_S)
    row["timed"] = [
        {key: item.get(key) for key in ("backend", "precision", "file", "bytes", "flags")}
        | {"median_ns": (item.get("latency") or {}).get("median_ns")}
        for item in timed.get("rows", ())
    ]
    return row


if __name__ == "__main__":
    main()
