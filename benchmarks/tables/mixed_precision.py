"""Table of docs/fp16.md: networks in half precision by a searched plan, as a whole, and by AutoCast."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.common import load

Rows = dict[str, dict[str, Any]]


def mixed_rows() -> list[str]:
    """Return the row of docs/figures.md."""
    rows = load("mixed_precision").get("rows")
    if not rows:
        return []
    measured = f"{_held(rows, 'mixed')} of {len(rows)}; {' · '.join(f'{100 * share:.1f} %' for share in _shares(rows))}"
    return [
        "| networks in float16 that hold 40 dB against float64; share of the operations in float16, median of those "
        f"without and with planted outliers | {measured} | all 24; ≥ 95 % · ≥ 85 % | `benchmarks.mixed_precision` |"
    ]


def mixed_table() -> str:
    """Return the sentences of counts and the table, empty without results."""
    result = load("mixed_precision")
    if not result:
        return ""
    rows: Rows = result["rows"]
    others = {name: row for name, row in rows.items() if "autocast" in row}
    plain, planted = _shares(rows)
    times = [row["mixed"]["search_s"] / row["one_run_s"] for row in rows.values()]
    built = sum(row.get("engine") == "built" for row in rows.values())
    lines = [
        f"{len(rows)} networks with random weights, held to {result['bound_db']:.0f} dB against float64 "
        f"(`python -m benchmarks.mixed_precision`): **{_held(rows, 'mixed')} hold by `--precision mixed`**, with "
        f"{100 * plain:.1f} % of the operations in float16 (median), and {100 * planted:.1f} % where channels of "
        f"activations were scaled to reach 1.5e5 (*planted*). Converted as a whole, {_held(rows, 'plain')} hold; by "
        f"AutoCast of NVIDIA's ModelOpt, {_held(others, 'autocast')} of {len(others)}. The files of all three "
        f"are judged alike. TensorRT for RTX built engines of {built} of the mixed files.",
        "",
        f"A search takes {statistics.median(times):,.0f} times one run of the float32 graph in ONNX Runtime, batch 1 "
        "(median): it runs several inputs, node by node in PyTorch, and measures every channel. The target of 30 is "
        f"missed. One thread, measured beside other work. {_peak(rows)}",
        "",
        "| network | mixed | in float16 | stay in float32 | search | as a whole | AutoCast | its share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items(), key=lambda item: (item[0].endswith(")"), item[0])):
        lines.append(f"| {name} | {' | '.join(_cells(row))} |")
    return "\n".join(lines)


def _peak(rows: Rows) -> str:
    """Return the peak memory of the command for the network with the largest weights, beside the target."""
    name, row = max(rows.items(), key=lambda item: int(item[1]["bytes"]))
    ratio = row["mixed"]["peak_bytes"] / row["bytes"]
    return (
        f"For {name}, the command takes {ratio:.1f} times the {row['bytes'] / 1e6:.0f} MB of its weights in memory; "
        "the target is 3.5."
    )


def _held(rows: Rows, kind: str) -> int:
    return sum(row[kind]["result"] == "pass" for row in rows.values())


def _shares(rows: Rows) -> tuple[float, float]:
    """Return the median shares in half precision of the networks without and with planted channels."""
    shares: dict[bool, list[float]] = {False: [], True: []}
    for name, row in rows.items():
        shares[name.endswith("(planted)")].append(row["mixed"]["share"])
    return statistics.median(shares[False]), statistics.median(shares[True])


def _cells(row: dict[str, Any]) -> list[str]:
    mixed, others = row["mixed"], row.get("autocast", {})
    kept = ", ".join(f"{count} {reason}" for reason, count in mixed["kept"].items())
    share = others.get("share")
    return [
        mixed["result"],
        f"{100 * mixed['share']:.1f} %",
        kept or "none",
        f"{mixed['search_s']:.0f} s",
        row["plain"]["result"],
        _told(others),
        f"{100 * share:.1f} %" if share is not None else "",
    ]


def _told(row: dict[str, Any]) -> str:
    """Return the result, and what happened where the file could not be judged."""
    crashed = "SIGSEGV" in row.get("reason", "")
    return "crashes ONNX Runtime" if crashed else str(row.get("result", ""))
