"""Shared by the benchmark scripts: run the command line; read and write results."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.environment import machine, versions

RESULTS = Path(__file__).parent / "results"


def deploy(*arguments: str, timeout: float | None = None) -> tuple[int, dict[str, Any], float]:
    """Run ``deploy`` with ``--json`` in a new process.

    Returns:
        Exit code (124 after ``timeout`` seconds), JSON document (empty if there is none), and duration in seconds.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, _ = process.communicate()
        return 124, {}, time.perf_counter() - began
    elapsed = time.perf_counter() - began
    try:
        document = json.loads(out)
    except ValueError:
        document = {}
    return process.returncode, document, elapsed


def deploy_or_exit(*arguments: str) -> dict[str, Any]:
    """Run ``deploy`` and return its JSON document; exit if it fails."""
    code, document, _ = deploy(*arguments)
    if code:
        raise SystemExit(f"deploy {' '.join(arguments)}: exit {code}: {document.get('error')}")
    return document


def time_interleaved(cases: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Run every command once per round, in seeded random order; return the seconds of each run."""
    order = random.Random(0)
    times_s: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name in order.sample(list(cases), len(cases)):
            began = time.perf_counter()
            subprocess.run(cases[name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times_s[name].append(time.perf_counter() - began)
    return times_s


def write(name: str, document: dict[str, Any]) -> Path:
    """Write a result with the machine and the package versions; return its path."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "versions": versions(), **document}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


def load(name: str) -> dict[str, Any]:
    """Return a stored result; empty if there is none."""
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return result


def interval(samples: list[float], resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap confidence interval of the median, with a fixed seed."""
    values = np.asarray(samples)
    picks = np.random.default_rng(0).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), [2.5, 97.5])
    return float(low), float(high)


def table_cell(text: str, max_length: int | None = None) -> str:
    """Return a text as a cell of a Markdown table, without the paths of temporary folders."""
    text = re.sub(r"/\S*/tmp[^/\s]+/", "", text)
    return text.replace("|", "\\|").replace("\n", " ")[:max_length]
