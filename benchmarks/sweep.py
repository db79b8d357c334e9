"""Measure the overhead of ``deploy sweep``, and compare it with the same commands by hand.

    python -m benchmarks.sweep [--rounds 5]

Three networks (LeNet-5, the small Inception, ResNet-18 for digits), float32 and INT8, three backends, accuracy on the
digits. Each round runs, in random order, the sweep as a whole process and the equivalent commands in sequence (for each
model: export, quantize twice, evaluate; then one bench of all models, and the report). Each starts with an artifacts
directory that contains only the trained checkpoints.

Overhead is the wall time of the process minus the sum of its tasks, divided by that sum. A task starts when its worker
has received it, so starting workers, imports outside tasks, records and the report count as overhead. Ratios are
computed within a round. Writes results/sweep.json, with the median seconds of tasks by kind.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import deploy_or_exit, interval, write

MODELS = ("lenet5", "inception_small", "resnet18_digits")
EPOCHS = {"lenet5": "3", "inception_small": "2", "resnet18_digits": "1"}
BACKENDS, PRECISIONS = "torch,onnxruntime,openvino", "fp32,int8"
TARGETS = {"overhead": 0.05}


def main() -> None:
    """Run all rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "trained"
        for name in MODELS:
            _run(base, "train", f"zoo/{name}", "--data", "digits", "--epochs", EPOCHS[name])
        for number in range(options.rounds):
            row: dict[str, Any] = {}
            for case in order.sample(("sweep", "by hand"), 2):
                root = Path(folder) / f"{case}-{number}"
                shutil.copytree(base, root)
                if case == "sweep":
                    row |= {"sweep": _sweep(root), "again": _sweep(root)}
                else:
                    row[case] = _by_hand(root)
                shutil.rmtree(root)
            rounds.append(row)
            print(json.dumps({case: round(result["seconds"], 1) for case, result in row.items()}), flush=True)
    write("sweep", _summary(rounds))


def _run(root: Path, *arguments: str) -> dict[str, Any]:
    return deploy_or_exit("--artifacts", str(root), *arguments)


def _sweep(root: Path) -> dict[str, Any]:
    options = ("--precision", PRECISIONS, "--backends", BACKENDS, "--calib", "digits", "--data", "digits")
    began = time.perf_counter()
    report = _run(root, "sweep", *MODELS, *options, "--threads", "1")
    seconds = time.perf_counter() - began
    if any(task["state"] not in ("done", "kept") for task in report["tasks"]):
        sys.exit("a task failed")
    return {"seconds": seconds, "work_seconds": report["work_seconds"], "tasks": report["tasks"]}


def _by_hand(root: Path) -> dict[str, Any]:
    began = time.perf_counter()
    for name in MODELS:
        _run(root, "export", name)
        for target in ("onnxruntime", "openvino"):
            _run(root, "quantize", name, "--calib", "digits", "--target", target)
        _run(root, "evaluate", name, "--data", "digits")
    _run(root, "bench", *MODELS, "--precision", PRECISIONS, "--backends", BACKENDS, "--threads", "1")
    _run(root, "report")
    return {"seconds": time.perf_counter() - began}


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    overhead = [row["sweep"]["seconds"] / row["sweep"]["work_seconds"] - 1 for row in rounds]
    ratio = [row["sweep"]["seconds"] / row["by hand"]["seconds"] for row in rounds]
    kinds: dict[str, list[float]] = {}
    for row in rounds:
        for task in row["sweep"]["tasks"]:
            kinds.setdefault(task["kind"], []).append(task["seconds"])
    return {
        "targets": TARGETS,
        "overhead": {"median": statistics.median(overhead), "interval": interval(overhead)},
        "over_by_hand": {"median": statistics.median(ratio), "interval": interval(ratio)},
        "again_seconds": statistics.median(row["again"]["seconds"] for row in rounds),
        "task_seconds": {kind: statistics.median(values) for kind, values in kinds.items()},
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
