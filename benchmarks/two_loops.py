"""Common ways to compare latencies: time a file and a slowed copy one after the other in one process.

    python -m benchmarks.two_loops FILE SECONDS SLOWDOWN

Prints one JSON line with the results of a plain loop (Welch's t-test on single calls, 5 %) and of
``torch.utils.benchmark`` (whether the medians of ``blocked_autorange``, rounded to their significant digits, differ).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import ttest_ind
from torch.utils.benchmark import Timer

from benchmarks.slowed_runner import Slowed
from deploy.backends.onnxruntime.runner import open as open_onnx
from deploy.core.runner import Runner
from deploy.parity.probes import probes_at


def _loop(runner: Runner, seconds: float) -> list[float]:
    for _ in range(20):
        runner.launch()
    seconds_taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        runner.launch()
        seconds_taken.append(time.perf_counter() - before)
    return seconds_taken


def main() -> None:
    """Time two runners of the same file, the second one slowed."""
    path, seconds, slowdown = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    runners: list[Runner] = []
    for factor in (1.0, slowdown):
        inner = open_onnx(path, threads=1)
        inner.bind(probes_at(inner.inputs, {"batch": 1})[0].feeds)
        runners.append(Slowed(inner, factor))
    first, second = (_loop(runner, seconds) for runner in runners)
    ratio = float(np.mean(second) / np.mean(first))
    differs = bool(ttest_ind(first, second, equal_var=False).pvalue < 0.05)
    results = {"loop": {"ratio": ratio, "differs": differs}}
    measured = []
    for runner in runners:
        timer = Timer("runner.launch()", globals={"runner": runner}, num_threads=1)
        measured.append(timer.blocked_autorange(min_run_time=seconds))
    digits = min(item.significant_figures for item in measured)
    shown = [float(f"{item.median:.{digits}g}") for item in measured]
    results["torch"] = {"ratio": measured[1].median / measured[0].median, "differs": shown[0] != shown[1]}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
