"""Tables of docs/gpu.md."""

from __future__ import annotations

import json
import math
from typing import Any

from benchmarks.common import RESULTS
from deploy.bench.statistics import geometric

MOST_ROUNDINGS = 2.0
"""Error of a float16 kernel that adds up in float32, at most."""

MIN_ROUNDS = 5
"""Rounds below which a configuration has no interval and is left out."""


def gpu_tables() -> str:
    """Return a section for every GPU that was measured: what was checked, and the latencies."""
    files = sorted((RESULTS / "gpu").glob("*.json"))
    sections = [_section(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return "\n\n".join([*sections, _half_sums()])


def _half_sums() -> str:
    """Return which float16 kernels of ONNX Runtime lose values in a sum."""
    result = json.loads((RESULTS / "half_sums" / "cuda.json").read_text(encoding="utf-8"))
    by_operator: dict[str, list[dict[str, Any]]] = {}
    without: set[str] = set()
    for name, case in result["cases"].items():
        operator = name.split()[0]
        if isinstance(case["finite"], str):
            without.add(operator)
        else:
            by_operator.setdefault(operator, []).append(case)
    lost = {
        operator: [case for case in cases if not (case["finite"] and (case["roundings"] or 0.0) <= MOST_ROUNDINGS)]
        for operator, cases in by_operator.items()
    }
    lines = [
        "## Sums in float16",
        "",
        f"One node at a time, ONNX Runtime {result['versions']['onnxruntime-gpu']}, {result['gpu']}: results inside "
        f"the range of float16, from sums outside it. {sum(not cases for cases in lost.values())} of {len(lost)} "
        f"operators lose nothing; {', '.join(sorted(without))} has no float16 kernel there. The others:",
        "",
        "| operator | axes or shapes that lose values | worst error of 4,096 ordinary values, in roundings |",
        "|---|---|---|",
    ]
    for operator, cases in lost.items():
        if cases:
            worst = max(
                (case["roundings"] for case in by_operator[operator]), key=lambda value: (value != value, value)
            )
            error = f"{worst:,.1f}" if math.isfinite(worst) else "not finite"
            lines.append(f"| {operator} | {len(cases)} of {len(by_operator[operator])} | {error} |")
    return "\n".join(lines)


def _section(result: dict[str, Any]) -> str:
    gpu, versions = result["gpu"], result["versions"]
    rows = [(model, row) for model, rows in result["models"].items() for row in rows]
    checked = [(model, row) for model, row in rows if row["verdict"]]
    full = [(model, row) for model, row in checked if row["precision"] != "tf32"]
    tf32 = [row for _, row in checked if row["precision"] == "tf32"]
    passed = sum(row["verdict"] == "pass" for _, row in full)
    failed = [f"{model}, {row['backend']} {row['precision']}" for model, row in full if row["verdict"] == "fail"]
    lines = [
        f"## {gpu['name']}",
        "",
        f"Compute capability {gpu['capability']}, CUDA {gpu['cuda']}, PyTorch {versions['torch']}, ONNX Runtime "
        f"{versions.get('onnxruntime-gpu', versions.get('onnxruntime'))}, untrained weights. {passed} of {len(full)} "
        f"configurations of {_networks(result['models'])} pass the parity check against float64"
        + (f"; failed: {', '.join(failed)}." if failed else "."),
    ]
    if tf32:
        refused = sum(row["verdict"] == "fail" for row in tf32)
        lines.append(
            f"Run with TF32, which ONNX Runtime allows by default, {refused} of {len(tf32)} float32 files fail it."
        )
    lines += [
        "",
        f"Batch {result['batch']}. Latency from launch to the end of synchronize: median, with the 95 % interval over "
        "rounds in random order; GPU: time between CUDA events.",
        "",
        "| network | runs on | precision | latency, ms | GPU, ms |",
        "|---|---|---|---|---|",
    ]
    for model, row in rows:
        if len(row["medians_ms"]) >= MIN_ROUNDS:
            median = geometric(row["medians_ms"])
            device = "" if row["device_ms"] is None else f"{row['device_ms']:.3f}"
            mark = " (fails)" if row["verdict"] == "fail" else ""
            lines.append(
                f"| {model.split('/')[-1]} | {_title(row['backend'])} | {row['precision']}{mark} | {median.value:.3f} "
                f"({median.low:.3f} to {median.high:.3f}) | {device} |"
            )
    return "\n".join(lines)


def _networks(models: dict[str, Any]) -> str:
    return f"{len(models)} network" + "s" * (len(models) > 1)


def _title(backend: str) -> str:
    """Return the backend in the words of the documentation."""
    titles = {
        "torch.compile graph": "torch.compile, CUDA graph",
        "torch channels-last graph": "PyTorch, channels last, CUDA graph",
        "torch graph": "PyTorch, CUDA graph",
        "torch channels-last": "PyTorch, channels last",
        "torch": "PyTorch",
        "onnxruntime cuda": "ONNX Runtime",
    }
    return titles.get(backend, backend)
