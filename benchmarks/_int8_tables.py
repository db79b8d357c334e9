"""The tables of docs/int8.md, from the results."""

from __future__ import annotations

from typing import Any

from benchmarks._common import load

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
TOOLS = ("ours", "onnxruntime defaults", "NNCF")


def int8_tables() -> str:
    """Calibration, speed and accuracy, each with how it was measured."""
    parts = [_calibration(load("calibration")), _speed(load("int8_speed")), _accuracy(load("int8_accuracy"))]
    return "\n\n".join(part for part in parts if part)


def _calibration(result: dict[str, Any]) -> str:
    if not result:
        return ""
    lines = [
        "## What calibration takes",
        "",
        f"{result['model']} at 224², {result['images']} images, from the float file to the INT8 file, whole "
        "processes in turn (`python -m benchmarks.calibration`).",
        "",
        "| | seconds (95 %) | peak memory |",
        "|---|---|---|",
    ]
    for name, row in result["rows"].items():
        if row["failed"]:
            lines.append(f"| {name} | failed: {row['failed'][:80]} | |")
            continue
        low, high = row["interval_s"]
        lines.append(f"| {name} | {row['median_s']:.1f} ({low:.1f} to {high:.1f}) | {row['peak_bytes'] / 1e9:.2f} GB |")
    return "\n".join(lines)


def _speed(result: dict[str, Any]) -> str:
    if not result:
        return ""
    lines = [
        "## How fast the files are",
        "",
        f"Speed-up over the engine's own float32, batch 1, {result['threads']} threads, with 95 % intervals; the "
        "processes take turns (`python -m benchmarks.int8_speed`). In bold the fastest, and what is not detectably "
        "slower.",
        "",
        f"| | engine | float32 | {' | '.join(TOOLS)} |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in result["rows"].items():
        name, engine = key.split()
        cells = [_cell(row.get(tool, {}), row) for tool in TOOLS]
        lines.append(f"| {name} | {ENGINES[engine]} | {row['float32']['median_ms']:.2f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(item: dict[str, Any], row: dict[str, Any]) -> str:
    if "speed_up" not in item:
        return "does not run" if "failed" in item else ""
    low, high = item["speed_up_interval"]
    best = max((row[tool] for tool in TOOLS if "speed_up" in row.get(tool, {})), key=lambda other: other["speed_up"])
    text = f"{item['speed_up']:.2f} ({low:.2f} to {high:.2f})"
    return f"**{text}**" if high >= best["speed_up_interval"][0] else text


def _accuracy(result: dict[str, Any]) -> str:
    if not result:
        return ""
    targets = ("onnxruntime", "openvino", "tensorrt")
    lines = [
        "## What it costs in accuracy",
        "",
        "Points of top-1 lost on 359 held-out digits (one image is 0.28 points), for ONNX Runtime / OpenVINO / "
        "TensorRT (the last predicted), calibrated with 128 images (`python -m benchmarks.int8_accuracy`).",
        "",
        "| | float top-1 | minmax | percentile | entropy | mse |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        cells = []
        for method in ("minmax", "percentile", "entropy", "mse"):
            cells.append(" / ".join(f"{row['int8'][f'{method} {target}']['drop'] + 0.0:.2f}" for target in targets))
        lines.append(f"| {name} | {row['float_top1']:.2%} | {' | '.join(cells)} |")
    return "\n".join(lines)
