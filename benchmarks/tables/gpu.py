"""Tables of docs/gpu.md."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS
from deploy.bench.statistics import geometric

MIN_ROUNDS = 5
"""Rounds below which a configuration has no interval and is left out."""


def gpu_tables() -> str:
    """Return a section for every GPU that was measured: what was checked, and the latencies."""
    files = sorted((RESULTS / "gpu").glob("*.json"))
    return "\n\n".join(_section(json.loads(file.read_text(encoding="utf-8"))) for file in files)


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
        f"configurations of {len(result['models'])} networks pass the parity check against float64"
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
