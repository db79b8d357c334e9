"""Tables of docs/tensorrt.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.common import load, table_cell

RESULT = "tensorrt_build"
KINDS = ("fp16", "int8")


def tensorrt_tables() -> str:
    """Return the tables of the architectures that were built, and of the overhead around the builder."""
    result = load(RESULT)
    parts = [_built(result)] if result.get("rows") else []
    parts += [_overhead(result)] if result.get("overhead") else []
    return "\n\n".join(parts)


def tensorrt_figures() -> list[str]:
    """Return rows of the table of docs/figures.md."""
    result, lines = load(RESULT), []
    rows = result.get("rows", {})
    if rows:
        built = " · ".join(f"{kind.upper()} {_count(rows, kind)} of {len(rows)}" for kind in KINDS)
        lines.append(
            f"| engines built without a GPU, of {result['asked']} classification, segmentation and zoo networks | "
            f"{built} | ≥ 95 % | `benchmarks.tensorrt_build` |"
        )
    if result.get("overhead"):
        ratios = " · ".join(f"{name} {row['ratio']['deploy']:.2f} ×" for name, row in result["overhead"].items())
        target = next(iter(result["overhead"].values()))["target"]
        lines.append(
            f"| time of `deploy trt build FILE.onnx` relative to the builder alone, whole process | {ratios} | ≤ "
            f"{target} × | `benchmarks.tensorrt_build --overhead` |"
        )
    return lines


def _reason(row: dict[str, Any]) -> str:
    """Return why there is no engine; of a process that the system killed, its peak memory."""
    reason: str = row["reason"]
    return f"killed, at a peak of {row['peak_bytes'] / 1e9:.1f} GB of memory" if reason == "status -9" else reason


def _count(rows: dict[str, Any], kind: str) -> int:
    return sum(bool(row.get(kind, {}).get("built")) for row in rows.values())


def _built(result: dict[str, Any]) -> str:
    rows = result["rows"]
    lines = [
        "## Architectures",
        "",
        f"{len(rows)} of {result['asked']} networks were measured: the classification and segmentation networks of "
        f"torchvision, and the zoo. TensorRT for RTX {result['versions'].get('tensorrt-rtx', '')} built "
        f"{_count(rows, 'fp16')} engines in FP16 and {_count(rows, 'int8')} in INT8 without a GPU (`python -m "
        "benchmarks.tensorrt_build`). The engines were built, not run; the weights are untrained, and the INT8 ranges "
        f"come from {result['samples']} random samples.",
        "",
        "| network | fixed batch | FP16 | layers with weights | INT8 | layers with weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        fixed = "" if row.get("dynamic") else "yes"
        if not row["exported"]:
            lines.append(f"| {name} | {fixed} | not exported: {table_cell(row['why'], 300)} | | | |")
            continue
        cells = " | ".join(f"{_size(row[kind])} | {_layers(row[kind])}" for kind in KINDS)
        lines.append(f"| {name} | {fixed} | {cells} |")
    reasons = Counter(_reason(row[kind]) for row in rows.values() for kind in KINDS if row.get(kind, {}).get("reason"))
    lines += (
        ["", *(f"- {count} not built: {table_cell(reason, 300)}" for reason, count in reasons.most_common())]
        if reasons
        else []
    )
    return "\n".join(lines)


def _size(built: dict[str, Any]) -> str:
    return f"{built['bytes'] / 1e6:.1f} MB" if built["built"] else "no"


def _layers(built: dict[str, Any]) -> str:
    if not built["built"]:
        return table_cell(_reason(built), 300)
    total = sum(built["weighted"].values())
    return ", ".join(f"{count} of {total} {kind}" for kind, count in built["weighted"].items())


def _overhead(result: dict[str, Any]) -> str:
    lines = [
        "## Overhead of the build",
        "",
        "`deploy trt build FILE.onnx` relative to a script that only parses, builds and writes; whole processes, "
        "interleaved (`python -m benchmarks.tensorrt_build --overhead`). `deploy` adds the command line, digests of "
        "the graph and the engine, flushing both to disk, and the manifest; with `--fp16` also the conversion to FP16, "
        "which the script does not do.",
        "",
        "| network | builder alone, s | `deploy`, s | ratio (95 % interval) | with `--fp16` |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["overhead"].items():
        times, (low, high) = row["median_s"], row["ratio_interval"]["deploy"]
        half = row["ratio"]["deploy --fp16"]
        lines.append(
            f"| {name} | {times['bare']:.2f} | {times['deploy']:.2f} | {row['ratio']['deploy']:.2f} "
            f"({low:.2f} to {high:.2f}) | {half:.2f} |"
        )
    return "\n".join(lines)
