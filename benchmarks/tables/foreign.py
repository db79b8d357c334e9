"""Table of docs/onnx-files.md: public files, simplified and checked against themselves."""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.common import load


def foreign_table() -> str:
    """Return the sentence of counts and the table, empty without results."""
    result = load("foreign")
    if not result:
        return ""
    rows, summary = result["rows"], result["summary"]
    verdicts = " · ".join(f"{summary[name]} {name}" for name in ("pass", "inconclusive", "fail", "error"))
    right = [row for row in rows.values() if row["verdict"] in ("pass", "inconclusive")]  # others fail in any case
    verdicts_of = [fault["verdict"] for row in right for fault in row["faults"]]
    caught, unclear = (sum(item in kinds for item in verdicts_of) for kinds in (("fail", "error"), ("inconclusive",)))
    times = [1e3 * row["seconds"] / row["run_ms"] for row in rows.values() if row["verdict"] != "error"]
    lines = [
        f"{summary['files']} files: {verdicts}. Of {len(verdicts_of)} planted faults, "
        f"{caught} fail and {unclear} are inconclusive. A check takes {summary['check_seconds']:.0f} s "
        f"(median), {statistics.median(times):,.0f} times one run of the original, which is at the smallest sizes; the "
        "target of 20 times is missed. One thread, measured beside other work (`python -m benchmarks.foreign`).",
        "",
        "| file | nodes | simplified | verdict | margin | coverage | faults that fail | check | one run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        lines.append(f"| {name.replace('==', ' ')} | {' | '.join(_cells(row))} |")
    notes = [
        f"- {name.replace('==', ' ')}: {_short(row['why'])}" for name, row in sorted(rows.items()) if row.get("why")
    ]
    return "\n".join([*lines, "", *notes])


def _cells(row: dict[str, Any]) -> list[str]:
    if row["verdict"] == "error":
        return [*map(str, (row.get("nodes", ""), row.get("edited_nodes", ""))), "error", "", "", "", "", ""]
    margin = row["margin"]
    known = margin is not None and not math.isnan(margin)
    return [
        str(row["nodes"]),
        str(row["edited_nodes"]),
        row["verdict"],
        f"{margin:.1f}" if known else "",
        f"{row['coverage']:.1f} %" if row["coverage"] is not None else "",
        f"{row['caught']} of {row['planted']}" if row["verdict"] != "fail" else "",
        f"{row['seconds']:.0f} s",
        f"{row['run_ms']:.1f} ms",
    ]


def _short(reason: str) -> str:
    """Return the first reason, without a path."""
    first = reason.split(";")[0].split(": ", 1)
    return (first[1] if first[0].startswith("/") and len(first) > 1 else reason.split(";")[0])[:160].replace("|", "\\|")
