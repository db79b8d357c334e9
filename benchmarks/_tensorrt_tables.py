"""The tables of docs/tensorrt.md, from the results."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks._common import load

RESULT = "tensorrt_build"
KINDS = ("fp16", "int8")


def tensorrt_tables() -> str:
    """Which architectures were built, and what it costs around the builder."""
    result = load(RESULT)
    parts = [_built(result)] if result.get("rows") else []
    parts += [_overhead(result)] if result.get("overhead") else []
    return "\n\n".join(parts)


def tensorrt_figures() -> list[str]:
    """Rows of the README's table."""
    result, lines = load(RESULT), []
    rows = result.get("rows", {})
    if rows:
        told = " · ".join(
            f"{kind} {_count(rows, key)} of {len(rows)}" for key, kind in (("fp16", "FP16"), ("int8", "INT8"))
        )
        lines.append(
            f"| engines built without a GPU, of {result['asked']} classification, segmentation and zoo networks | "
            f"{told} | ≥ 95 % | `benchmarks.tensorrt_build` |"
        )
    if result.get("overhead"):
        told = " · ".join(f"{name} {row['ratio']['deploy']:.2f} ×" for name, row in result["overhead"].items())
        target = next(iter(result["overhead"].values()))["target"]
        lines.append(
            f"| `deploy trt build FILE.onnx` beside the bare builder, whole process | {told} | ≤ {target} × | "
            "`benchmarks.tensorrt_build --overhead` |"
        )
    return lines


def _count(rows: dict[str, Any], kind: str) -> int:
    return sum(bool(row.get(kind, {}).get("built")) for row in rows.values())


def _built(result: dict[str, Any]) -> str:
    rows = result["rows"]
    lines = [
        "## What is built",
        "",
        f"{len(rows)} of {result['asked']} classification and segmentation networks of torchvision and networks of the "
        f"zoo measured: {_count(rows, 'fp16')} became an engine in FP16, {_count(rows, 'int8')} one in INT8, by "
        f"TensorRT for RTX {result['versions'].get('tensorrt-rtx', '')} without a GPU (`python -m "
        "benchmarks.tensorrt_build`). Only building is shown: nothing was run, the weights are untrained, and the INT8 "
        f"ranges are of {result['samples']} random samples.",
        "",
        "| network | fixed batch | FP16 | of its layers with weights | INT8 | of its layers with weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        fixed = "" if row.get("dynamic") else "yes"
        if not row["exported"]:
            lines.append(f"| {name} | {fixed} | not exported: {_cell(row['why'])} | | | |")
            continue
        cells = " | ".join(f"{_size(row[kind])} | {_layers(row[kind])}" for kind in KINDS)
        lines.append(f"| {name} | {fixed} | {cells} |")
    reasons = Counter(
        row[kind]["why"] for row in rows.values() for kind in ("fp16", "int8") if row.get(kind, {}).get("why")
    )
    lines += ["", *(f"- {count} not built: {_cell(why)}" for why, count in reasons.most_common())] if reasons else []
    return "\n".join(lines)


def _size(built: dict[str, Any]) -> str:
    return f"{built['bytes'] / 1e6:.1f} MB" if built["built"] else "no"


def _layers(built: dict[str, Any]) -> str:
    if not built["built"]:
        return _cell(built["why"])
    total = sum(built["weighted"].values())
    return ", ".join(f"{count} of {total} {kind}" for kind, count in built["weighted"].items())


def _overhead(result: dict[str, Any]) -> str:
    lines = [
        "## What it costs around the builder",
        "",
        "`deploy trt build FILE.onnx` beside a script that only parses, builds and writes, whole processes in turn "
        "(`python -m benchmarks.tensorrt_build --overhead`). Ours adds the command line, digests of the graph and the "
        "engine, flushing both to the disk, and the manifest; with `--fp16` also the conversion, which the bare "
        "builder is not given to do.",
        "",
        "| network | bare, s | ours, s | ratio (95 %) | with `--fp16` |",
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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:300]
