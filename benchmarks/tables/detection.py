"""Tables of docs/detectors.md: torchvision's detectors, and the trained networks of the zoo."""

from __future__ import annotations

from typing import Any

from benchmarks.common import load, table_cell


def detection_table() -> str:
    """Return the counts and both tables, empty without results."""
    stored = load("detection")
    parts = [_detectors(stored), _trained(stored.get("trained", {}))]
    return "\n\n".join(part for part in parts if part)


def _detectors(stored: dict[str, Any]) -> str:
    rows: dict[str, dict[str, Any]] = stored.get("detectors", {})
    if not rows:
        return ""
    exported = sum(row["exported"] for row in rows.values())
    passed = sum(row.get("verdict") == "pass" for row in rows.values())
    built = {kind: sum(row.get(kind, {}).get("built", False) for row in rows.values()) for kind in ("fp16", "int8")}
    lines = [
        f"{len(rows)} detectors of torchvision with seeded weights, {stored['candidates']} candidates and "
        f"`--probes quick` (`python -m benchmarks.detection`); those that resize pictures make them "
        f"{stored['side']} pixels large. {exported} are exported, {passed} pass, and TensorRT for RTX builds "
        f"{built['fp16']} engines in FP16 and {built['int8']} in INT8; how well INT8 holds shows with trained weights "
        "only. Suppression: what decoding, selection and "
        "suppression take of the time of the file in ONNX Runtime, with a batch of 1 and one thread.",
        "",
        "| detector | verdict | batches | FP16: operations in half precision | FP16 | INT8 | suppression |",
        "|---|---|---|---|---|---|---|",
    ]
    reasons = []
    for name, row in rows.items():
        if not row["exported"]:
            lines.append(f"| {name} | not exported |  |  |  |  |  |")
            reasons.append(f"- {name}: {table_cell(row['reason'], 300)}")
            continue
        share = row["fp16"].get("share")
        cut = row.get("suppression", {}).get("share")
        cells = [
            row["verdict"],
            ", ".join(map(str, row["batches"])),
            "" if share is None else f"{100 * share:.1f} %",
            *("built" if row[kind]["built"] else "no" for kind in ("fp16", "int8")),
            "" if cut is None else f"{100 * cut:.0f} %",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        told = [*row["reasons"], *(row[kind]["reason"] for kind in ("fp16", "int8") if "reason" in row[kind])]
        reasons += [f"- {name}: {table_cell(text, 300)}" for text in dict.fromkeys(told)]
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _trained(rows: dict[str, dict[str, Any]]) -> str:
    if not rows:
        return ""
    busy = any("others" in (item["flags"] or {}) for row in rows.values() for item in row["timed"])
    lines = [
        "Networks of the zoo trained on `shapes`, on held-out pictures; each INT8 file in the runtime that it is for, "
        "the one for TensorRT simulated and not timed. Times are medians with 95 % intervals, batch 1, one thread"
        f"{'; other processes kept the machine busy' if busy else ''}.",
        "",
        "| network | target | score, float | score, INT8 | difference | time, float | time, INT8 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        for target, made in row["int8"].items():
            both = [_score(made[key]) for key in ("float_accuracy", "accuracy")]
            times = [_time(row["timed"], target, precision) for precision in ("fp32", "int8")]
            lines.append(f"| {' | '.join([name, target, *both, _difference(made['comparison']), *times])} |")
    return "\n".join(lines)


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    second = f"{score['second_metric']} {100 * score['second']:.2f} %"
    return f"{score['metric']} {100 * score['value']:.2f} %, {second}"


def _difference(comparison: dict[str, Any] | None) -> str:
    if comparison is None:
        return ""
    low, high = (100 * value for value in comparison["difference_interval"])
    return f"{100 * comparison['difference']:+.2f} points ({low:+.2f} to {high:+.2f})"


def _time(timed: list[dict[str, Any]], target: str, precision: str) -> str:
    for item in timed:
        made_for = f"int8-{target}." in item["file"] if precision == "int8" else True
        if item["backend"] == target and item["precision"] == precision and made_for and item["median_ns"]:
            value = item["median_ns"]
            return f"{value['value'] / 1e6:.2f} ms ({value['low'] / 1e6:.2f} to {value['high'] / 1e6:.2f})"
    return ""
