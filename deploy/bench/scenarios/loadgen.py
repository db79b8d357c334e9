"""MLPerf's load generator issues the queries; its log is kept. These short runs are not valid MLPerf submissions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np
from numpy.typing import NDArray

from deploy.bench import clock
from deploy.core.errors import UnknownNameError, UsageError
from deploy.core.runner import Runner

MODES = {
    "single-stream": lg.TestScenario.SingleStream,
    "offline": lg.TestScenario.Offline,
    "server": lg.TestScenario.Server,
}
MIN_QUERIES = 100
"""Minimum number of queries of a run."""

ESTIMATE_NS = 200_000_000
"""Duration of the run that estimates the latency of a query, which the load generator wants in advance."""

SUMMARY = "mlperf_log_summary.txt"


def run(
    runner: Runner,
    *,
    time_s: float,
    log_dir: str,
    mode: str = "single-stream",
    rate: float | None = None,
    p99_ms: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Let the load generator issue queries.

    Args:
        runner: runner with bound inputs; every query sample is one run of it.
        time_s: minimum duration of the run, seconds.
        log_dir: folder for the load generator's log.
        mode: ``single-stream``, ``offline`` or ``server``.
        rate: expected queries per second; None takes the measured maximum (half of it for ``server``).
        p99_ms: bound on the 99th percentile, for ``server``.
        seed: seed of the order and of the arrivals.

    Returns:
        The summary, and nanoseconds of every call.
    """
    if mode not in MODES:
        raise UnknownNameError("mode of the load generator", mode, MODES, f"known: {', '.join(MODES)}")
    if p99_ms is not None and mode != "server":
        raise UsageError(f"a bound on p99 has no effect on the mode {mode}, only on server.")
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    possible = 1e9 / float(np.median(clock.sample(runner, ESTIMATE_NS)))
    samples: list[int] = []

    def issue(queries: Any) -> None:
        for query in queries:
            began = time.perf_counter_ns()
            runner.launch()
            runner.synchronize()
            samples.append(time.perf_counter_ns() - began)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])

    system = lg.ConstructSUT(issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(
            system, library, _settings(mode, time_s, rate, possible, p99_ms, seed), _log(log_dir)
        )
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(system)
    text = (Path(log_dir) / SUMMARY).read_text(encoding="utf-8")
    return {"loadgen": _summary(text), "log": log_dir}, np.array(samples, np.int64)


def _settings(mode: str, time_s: float, rate: float | None, possible: float, p99_ms: float | None, seed: int) -> Any:
    settings = lg.TestSettings()
    settings.scenario = MODES[mode]
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(time_s * 1000)
    settings.min_query_count = MIN_QUERIES if mode != "offline" else 1
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = seed
    settings.single_stream_expected_latency_ns = int(1e9 / (rate or possible))
    settings.offline_expected_qps = rate or possible
    settings.server_target_qps = rate or possible / 2
    if p99_ms is not None:
        settings.server_target_latency_ns = int(p99_ms * 1e6)
    settings.server_target_latency_percentile = 0.99
    return settings


def _log(folder: str) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


def _summary(text: str) -> dict[str, str]:
    """Parse the lines ``name : value`` of the summary, up to the settings of the test."""
    lines = text.partition("Test Parameters Used")[0].splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}
