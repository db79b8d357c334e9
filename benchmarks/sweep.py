"""What ``deploy sweep`` adds to the work it does, and beside the same commands by hand.

    python -m benchmarks.sweep [--rounds 5]

Three networks (LeNet-5, the small Inception, ResNet-18 for the digits), float32 and eight bits, three backends,
accuracy on the digits. In every round, in an order drawn anew: the sweep as a whole process, and the commands that do
the same one after the other (export, quantize twice, evaluate for each model; one bench of all, and the report), each
with an artifacts directory of its own that holds the trained checkpoints and nothing else.

Overhead is the time of the whole process beyond the sum of its tasks, over that sum. A task's time begins when its
worker has read it: starting workers, imports outside of tasks, records and the report count as overhead. Ratios are of
one round. Results go to results/sweep.json, with the median seconds of tasks by kind.
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

from benchmarks._common import deploy, interval, write

MODELS = ("lenet5", "inception_small", "resnet18_digits")
EPOCHS = {"lenet5": "3", "inception_small": "2", "resnet18_digits": "1"}
BACKENDS, PRECISIONS = "torch,onnxruntime,openvino", "fp32,int8"
TARGETS = {"overhead": 0.05}


def main() -> None:
    """Measure."""
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
            found: dict[str, Any] = {}
            for case in order.sample(("sweep", "by hand"), 2):
                root = Path(folder) / f"{case}-{number}"
                shutil.copytree(base, root)
                if case == "sweep":
                    found |= {"sweep": _sweep(root), "again": _sweep(root)}
                else:
                    found[case] = _by_hand(root)
                shutil.rmtree(root)
            rounds.append(found)
            print(json.dumps({name: round(row["seconds"], 1) for name, row in found.items()}), flush=True)
    write("sweep", _summary(rounds))


def _run(root: Path, *words: str) -> tuple[dict[str, Any], float]:
    code, document, seconds = deploy("--artifacts", str(root), *words)
    if code:
        sys.exit(f"deploy {' '.join(words)} ended with {code}: {document.get('error')}")
    return document, seconds


def _sweep(root: Path) -> dict[str, Any]:
    words = (
        "--precision",
        PRECISIONS,
        "--backends",
        BACKENDS,
        "--calib",
        "digits",
        "--data",
        "digits",
        "--threads",
        "1",
    )
    told, seconds = _run(root, "sweep", *MODELS, *words)
    if any(task["state"] not in ("done", "kept") for task in told["tasks"]):
        sys.exit("a task failed")
    return {"seconds": seconds, "work_seconds": told["work_seconds"], "tasks": told["tasks"]}


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
