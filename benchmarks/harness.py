"""Validate the benchmark harness: overhead, false positives, and detection of a slowdown of 3 %.

    python -m benchmarks.harness [--trials 100] [--work DIR] [--part NAME]

``overhead``: the measured latency of an empty call in a worker process, and that of a plain loop of such calls.
``verdicts``: a file compared with itself, and with itself where every call is followed by a busy wait of 3 % of its
duration, ``--trials`` times each: the verdicts of ``deploy compare`` within 60 s, and of common alternatives on
the same machine at the same time (`benchmarks.two_loops`). ``agreement``: medians relative to OpenVINO's
``benchmark_app`` on the same file with the same threads, interleaved. ``intervals``: simulated coverage of the
confidence intervals. Writes results/harness.json after every trial; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import deploy, load, write
from deploy.bench.compare import MARGIN, TIME_LIMIT_S, run_pairs
from deploy.bench.process import BenchProcess
from deploy.bench.sequential import LOOKS, interval_at, verdict_of
from deploy.bench.statistics import Interval, geometric
from deploy.core.tensors import TensorSpec
from deploy.parity.probes import probes_at

MODEL = "zoo/inception_small"
SLOWDOWN = 1.03
LOOP_S = 1.5
INPUTS = (TensorSpec(name="input", dtype="float32", shape=("batch", 3, 32, 32)),)


def main() -> None:
    """Run the selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "deploy-harness")
    parser.add_argument("--part", choices=["overhead", "verdicts", "agreement", "intervals"])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    deploy("-q", "--artifacts", str(arguments.work), "export", MODEL, "--weights", "none")
    path = next(arguments.work.glob(f"{MODEL.partition('/')[2]}/*.fp32.onnx"))
    result = load("harness")
    parts: dict[str, Callable[[], None]] = {
        "overhead": lambda: _store(result, "overhead", _overhead()),
        "intervals": lambda: _store(result, "intervals", _intervals()),
        "agreement": lambda: _store(result, "agreement", _agreement(arguments.work)),
        "verdicts": lambda: _verdicts(result, path, arguments.trials),
    }
    for name, part in parts.items():
        if arguments.part in (None, name):
            part()


def _store(result: dict[str, Any], name: str, value: Any) -> None:
    result[name] = value
    print(name, json.dumps(value)[:400], flush=True)
    write("harness", {key: value for key, value in result.items() if key not in ("machine", "versions")})


def _overhead() -> dict[str, Any]:
    """Return nanoseconds per empty call: as measured by the clock, in total, and in a plain loop."""
    measured, whole, bare = [], [], []
    for _ in range(11):
        with BenchProcess("benchmarks.null_runner", 1) as process:
            process.open({}, path=None, model=None, options={})
            details, samples = process.time(0.3, keep=1_000_000)
            measured.append(float(np.median(samples)))
            whole.append(0.3e9 / details["calls"])
        bare.append(float(subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True).stdout))
    return {
        "told_ns": float(np.median(measured)),
        "whole_call_ns": float(np.median(whole)),
        "bare_call_ns": float(np.median(bare)),
        "processes": len(measured),
    }


BARE = """
import time
from benchmarks.null_runner import NullRunner
launch, count = NullRunner().launch, 1_000_000
before = time.perf_counter_ns()
for _ in range(count):
    launch()
print((time.perf_counter_ns() - before) / count)
"""


def _intervals(trials: int = 20_000) -> dict[str, Any]:
    """Return the coverage of 95 % intervals over five processes, and the rate of false positives of comparisons."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 0.02, (trials, 5))
    student = np.mean([item.low <= 1 <= item.high for item in map(geometric, np.exp(draws))])
    picks = rng.integers(5, size=(1000, 5))
    means = draws[:, picks].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    bootstrap = np.mean((low <= 0) & (high >= 0))
    false_positives = {"ours": 0, "looking at 95 % after every pair": 0}
    for _ in range(trials // 4):
        ratios = np.exp(rng.normal(0.0, 0.02, LOOKS[-1])).tolist()
        false_positives["ours"] += any(_excludes(interval_at(ratios[:count])) for count in LOOKS)
        every = range(LOOKS[0], LOOKS[-1] + 1)
        false_positives["looking at 95 % after every pair"] += any(
            _excludes(geometric(ratios[:count])) for count in every
        )
    return {
        "held_of_95": {"student": float(student), "bootstrap over processes": float(bootstrap)},
        "equals_called_different": {name: count / (trials // 4) for name, count in false_positives.items()},
    }


def _excludes(interval: Interval) -> bool:
    return not interval.low <= 1.0 <= interval.high


def _opener(path: Path, slowdown: float) -> Callable[[], BenchProcess]:
    feeds = probes_at(INPUTS, {"batch": 1})[0].feeds

    def start() -> BenchProcess:
        os.environ["SLOWDOWN"] = str(slowdown)
        process = BenchProcess("deploy.backends.onnxruntime.runner", 1, target="benchmarks.slowed_runner:SlowedWorker")
        process.submit_open(feeds, path=path, model=None, options={"threads": 1})
        return process

    return start


def _ours(path: Path, slowdown: float) -> dict[str, Any]:
    began = time.perf_counter()
    pairs = run_pairs(
        [_opener(path, 1.0), _opener(path, slowdown)],
        decided=lambda interval: verdict_of(interval, MARGIN) != "cannot tell",
        more=lambda: time.perf_counter() < began + TIME_LIMIT_S,
    )
    interval = interval_at(pairs.ratios)
    return {
        "verdict": verdict_of(interval, MARGIN),
        "ratios": [round(ratio, 5) for ratio in pairs.ratios],
        "ratio": round(interval.value, 5),
        "interval": [round(interval.low, 5), round(interval.high, 5)],
        "pairs": len(pairs.ratios),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _verdicts(result: dict[str, Any], path: Path, trials: int) -> None:
    rows = result.get("verdicts", {}).get("rows", [])
    while len(rows) < trials:
        row: dict[str, Any] = {}
        for name, slowdown in (("equal", 1.0), ("slowed", SLOWDOWN)):
            loops = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.two_loops", str(path), str(LOOP_S), str(slowdown)],
                capture_output=True,
                check=True,
            )
            row[name] = {"ours": _ours(path, slowdown), **json.loads(loops.stdout)}
        rows = [*rows, row]
        _store(result, "verdicts", {"trials": len(rows), "model": MODEL, **_count(rows), "rows": rows})


def _verdict(row: dict[str, Any]) -> str:
    """Return the verdict from the stored ratio and interval."""
    low, high = row["interval"]
    return verdict_of(Interval(value=row["ratio"], low=low, high=high), MARGIN)


def _count(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count false positives, detected slowdowns and wrong directions by method."""
    counts: dict[str, Any] = {}
    for name in ("loop", "torch"):
        counts[name] = {
            "equals_called_different": sum(row["equal"][name]["differs"] for row in rows),
            "slowdown_found": sum(row["slowed"][name]["differs"] and row["slowed"][name]["ratio"] > 1 for row in rows),
            "wrong_direction": sum(row["slowed"][name]["differs"] and row["slowed"][name]["ratio"] < 1 for row in rows),
        }
    counts["ours"] = {
        "equals_called_different": sum(_verdict(row["equal"]["ours"]) in ("faster", "slower") for row in rows),
        "equals_called_equal": sum(_verdict(row["equal"]["ours"]) == "no difference" for row in rows),
        "slowdown_found": sum(_verdict(row["slowed"]["ours"]) == "slower" for row in rows),
        "wrong_direction": sum(_verdict(row["slowed"]["ours"]) == "faster" for row in rows),
        "median_seconds": {
            name: float(np.median([row[name]["ours"]["seconds"] for row in rows])) for name in ("equal", "slowed")
        },
    }
    return counts


def _agreement(work: Path, turns: int = 7) -> dict[str, Any]:
    """Return the ratio of the median of OpenVINO's tool to ours, over interleaved turns.

    The tool measures inside the library; ours includes the call from Python, about 5 µs more. The network takes
    milliseconds, so that this does not matter.
    """
    deploy("-q", "--artifacts", str(work), "export", "resnet18", "--weights", "none")
    path = work / "resnet18" / "resnet18.fp32.onnx"
    images = TensorSpec(name="input", dtype="float32", shape=("batch", 3, 224, 224))
    feeds = probes_at([images], {"batch": 1})[0].feeds
    ratios, ours, theirs = [], [], []
    tool = Path(sys.executable).with_name("benchmark_app")
    for _ in range(turns):
        with BenchProcess("deploy.backends.openvino.runner", 1) as process:
            process.open(feeds, path=path, model=None, options={"threads": 1})
            process.warm(3.0)
            ours.append(float(np.median(process.time(3.0)[1])))
        command = [str(tool), "-m", str(path), "-shape", "[1,3,224,224]", "-api", "sync", "-nthreads", "1", "-t", "3"]
        command += ["-hint", "none", "-nstreams", "1", "-infer_precision", "f32"]
        printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        match = re.search(r"Median:\s+([\d.]+) (us|ms)", printed)
        if match is None:
            raise SystemExit(f"{tool}: no median in its output: {printed[-500:]}")
        theirs.append(float(match[1]) * {"us": 1e3, "ms": 1e6}[match[2]])
        ratios.append(theirs[-1] / ours[-1])
    both = geometric(ratios)
    return {
        "tool": "OpenVINO benchmark_app",
        "theirs_over_ours": [both.value, both.low, both.high],
        "ours_ns": ours,
        "theirs_ns": theirs,
    }


if __name__ == "__main__":
    main()
