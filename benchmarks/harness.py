"""Can the harness be believed? Its own overhead, equals called equal, and a slow-down of 3 % found.

    python -m benchmarks.harness [--trials 100] [--work DIR] [--part NAME]

``overhead``: what the clock says of a call that does nothing, in a worker process, beside a bare loop of such calls.
``verdicts``: the same file against itself, and against itself with every call made 3 % longer (a busy wait of 3 % of
that very call), each ``--trials`` times: what ``deploy bench --compare`` says within its 60 s, and what people do
instead says on the same machine in the same minutes (`benchmarks._two_loops`). ``agreement``: medians beside OpenVINO's
own ``benchmark_app`` on the same file with the same threads, taking turns. ``intervals``: how often intervals hold,
simulated. Results go to results/harness.json after every trial; a stopped run continues.
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

from benchmarks._common import deploy, load, write
from deploy.bench.compare import MARGIN, TIME_LIMIT_S, run_pairs
from deploy.bench.process import BenchProcess
from deploy.bench.sequential import LOOKS, interval_at, verdict_of
from deploy.bench.statistics import Interval, geometric
from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec
from deploy.parity.probes import probes_at

MODEL = "zoo/inception_small"
SLOWDOWN = 1.03
LOOP_S = 1.5
INPUTS = (TensorSpec(name="input", dtype="float32", shape=("batch", 3, 32, 32)),)


def main() -> None:
    """Run the parts that are asked for."""
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


def _store(result: dict[str, Any], name: str, found: Any) -> None:
    result[name] = found
    print(name, json.dumps(found)[:400], flush=True)
    write("harness", {key: value for key, value in result.items() if key not in ("machine", "versions")})


def _overhead() -> dict[str, Any]:
    """Nanoseconds of a call that does nothing: as the clock tells it, and in all, beside a bare loop."""
    told, whole, bare = [], [], []
    for _ in range(11):
        with BenchProcess("benchmarks._null", 1) as process:
            process.open({}, path=None, model=None, options={})
            details, samples = process.time(0.3, keep=1_000_000)
            told.append(float(np.median(samples)))
            whole.append(0.3e9 / details["calls"])
        bare.append(float(subprocess.run([sys.executable, "-c", BARE], capture_output=True, check=True).stdout))
    return {
        "told_ns": float(np.median(told)),
        "whole_call_ns": float(np.median(whole)),
        "bare_call_ns": float(np.median(bare)),
        "processes": len(told),
    }


BARE = """
import time
from benchmarks._null import NullRunner
launch, count = NullRunner().launch, 1_000_000
before = time.perf_counter_ns()
for _ in range(count):
    launch()
print((time.perf_counter_ns() - before) / count)
"""


def _intervals(trials: int = 20_000) -> dict[str, Any]:
    """How often 95 % intervals over five processes hold, and how often a comparison of equals is called different."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 0.02, (trials, 5))
    student = np.mean([found.low <= 1 <= found.high for found in map(geometric, np.exp(draws))])
    picks = rng.integers(5, size=(1000, 5))
    means = draws[:, picks].mean(axis=2)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    bootstrap = np.mean((low <= 0) & (high >= 0))
    called = {"ours": 0, "looking at 95 % after every pair": 0}
    for _ in range(trials // 4):
        ratios = np.exp(rng.normal(0.0, 0.02, LOOKS[-1])).tolist()
        called["ours"] += any(_excludes(interval_at(ratios[:count])) for count in LOOKS)
        every = range(LOOKS[0], LOOKS[-1] + 1)
        called["looking at 95 % after every pair"] += any(_excludes(geometric(ratios[:count])) for count in every)
    return {
        "held_of_95": {"student": float(student), "bootstrap over processes": float(bootstrap)},
        "equals_called_different": {name: count / (trials // 4) for name, count in called.items()},
    }


def _excludes(interval: Interval) -> bool:
    return not interval.low <= 1.0 <= interval.high


def _opener(path: Path, slowdown: float) -> Callable[[], BenchProcess]:
    feeds = probes_at(INPUTS, {"batch": 1})[0].feeds

    def start() -> BenchProcess:
        os.environ["SLOWDOWN"] = str(slowdown)
        process = BenchProcess("deploy.backends.onnxruntime.runner", 1, target="benchmarks._slowed:SlowedWorker")
        process.submit_open(feeds, path=path, model=None, options={"threads": 1})
        return process

    return start


def _ours(path: Path, slowdown: float) -> dict[str, Any]:
    began = time.perf_counter()
    found = run_pairs(
        [_opener(path, 1.0), _opener(path, slowdown)],
        decided=lambda interval: verdict_of(interval, MARGIN) != "cannot tell",
        more=lambda: time.perf_counter() < began + TIME_LIMIT_S,
    )
    interval = interval_at(found.ratios)
    return {
        "verdict": verdict_of(interval, MARGIN),
        "ratios": [round(ratio, 5) for ratio in found.ratios],
        "ratio": round(interval.value, 5),
        "interval": [round(interval.low, 5), round(interval.high, 5)],
        "pairs": len(found.ratios),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _verdicts(result: dict[str, Any], path: Path, trials: int) -> None:
    rows = result.get("verdicts", {}).get("rows", [])
    while len(rows) < trials:
        row: dict[str, Any] = {}
        for name, slowdown in (("equal", 1.0), ("slowed", SLOWDOWN)):
            loops = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks._two_loops", str(path), str(LOOP_S), str(slowdown)],
                capture_output=True,
                check=True,
            )
            row[name] = {"ours": _ours(path, slowdown), **json.loads(loops.stdout)}
        rows = [*rows, row]
        _store(result, "verdicts", {"trials": len(rows), "model": MODEL, **_count(rows), "rows": rows})


def _said(row: dict[str, Any]) -> str:
    """The verdict, from what was measured."""
    low, high = row["interval"]
    return verdict_of(Interval(value=row["ratio"], low=low, high=high), MARGIN)


def _count(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of so many trials: equals called different, the slow-down found, the wrong direction."""
    found: dict[str, Any] = {}
    for name in ("loop", "torch"):
        found[name] = {
            "equals_called_different": sum(row["equal"][name]["differs"] for row in rows),
            "slowdown_found": sum(row["slowed"][name]["differs"] and row["slowed"][name]["ratio"] > 1 for row in rows),
            "wrong_direction": sum(row["slowed"][name]["differs"] and row["slowed"][name]["ratio"] < 1 for row in rows),
        }
    found["ours"] = {
        "equals_called_different": sum(_said(row["equal"]["ours"]) in ("faster", "slower") for row in rows),
        "equals_called_equal": sum(_said(row["equal"]["ours"]) == "no difference" for row in rows),
        "slowdown_found": sum(_said(row["slowed"]["ours"]) == "slower" for row in rows),
        "wrong_direction": sum(_said(row["slowed"]["ours"]) == "faster" for row in rows),
        "median_seconds": {
            name: float(np.median([row[name]["ours"]["seconds"] for row in rows])) for name in ("equal", "slowed")
        },
    }
    return found


def _agreement(work: Path, turns: int = 7) -> dict[str, Any]:
    """The median of OpenVINO's own tool over ours, turn by turn.

    The tool tells the time within its library, ours that of the call from Python, some 5 µs more: hence a network
    of milliseconds.
    """
    deploy("-q", "--artifacts", str(work), "export", "resnet18", "--weights", "none")
    path = work / "resnet18" / "resnet18.fp32.onnx"
    images = TensorSpec(name="input", dtype="float32", shape=("batch", 3, 224, 224))
    feeds: Fetches = probes_at([images], {"batch": 1})[0].feeds
    ratios, ours, theirs = [], [], []
    tool = Path(sys.executable).with_name("benchmark_app")
    for _ in range(turns):
        with BenchProcess("deploy.backends.openvino.runner", 1) as process:
            process.open(feeds, path=path, model=None, options={"threads": 1})
            process.warm(3.0)
            ours.append(float(np.median(process.time(3.0)[1])))
        words = [str(tool), "-m", str(path), "-shape", "[1,3,224,224]", "-api", "sync", "-nthreads", "1", "-t", "3"]
        words += ["-hint", "none", "-nstreams", "1", "-infer_precision", "f32"]
        printed = subprocess.run(words, capture_output=True, check=True, text=True).stdout
        found = re.search(r"Median:\s+([\d.]+) (us|ms)", printed)
        if found is None:
            raise SystemExit(f"{tool} told no median: {printed[-500:]}")
        theirs.append(float(found[1]) * {"us": 1e3, "ms": 1e6}[found[2]])
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
