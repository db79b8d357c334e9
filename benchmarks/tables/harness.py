"""Figures of `benchmarks.harness` for README.md and docs/timing.md."""

from __future__ import annotations

from benchmarks.common import load

NAMES = {
    "ours": "`deploy compare`, at most 60 s",
    "loop": "one loop after the other, Welch's t-test",
    "torch": "`torch.utils.benchmark`, medians rounded to their significant digits",
}


def harness_figures() -> list[str]:
    """Return rows of the table of docs/figures.md."""
    result, rows = load("harness"), []
    if overhead := result.get("overhead"):
        spent = overhead["whole_call_ns"] - overhead["bare_call_ns"]
        rows.append(
            f"| overhead of the harness per timed call | {spent / 1000:.2f} µs | ≤ 1 µs | `benchmarks.harness` |"
        )
    if verdicts := result.get("verdicts"):
        trials, ours = verdicts["trials"], verdicts["ours"]
        rows.append(
            f"| {trials} comparisons of a file with itself: false positives; with itself slowed by 3 %: detected; "
            f"wrong direction | {ours['equals_called_different']}; {ours['slowdown_found']}; {ours['wrong_direction']} "
            "| ≤ 5 %; ≥ 95 %; 0 | `benchmarks.harness` |"
        )
    if agreement := result.get("agreement"):
        value, low, high = agreement["theirs_over_ours"]
        rows.append(
            f"| median latency of {agreement['tool']} relative to ours, same file and threads | "
            f"{value:.3f} ({low:.3f} to {high:.3f}) | within 3 % | `benchmarks.harness` |"
        )
    return rows


def harness_tables() -> str:
    """Return the table of docs/timing.md."""
    verdicts = load("harness").get("verdicts")
    if not verdicts:
        return ""
    trials = verdicts["trials"]
    lines = [
        f"An ONNX file ({verdicts['model']}, one thread) compared with itself, and with itself slowed by 3 %, {trials} "
        "times each, on a shared machine with competing load (`python -m benchmarks.harness`):",
        "",
        "| method | false positives | slowdown detected | wrong direction |",
        "|---|---|---|---|",
    ]
    for name, method in NAMES.items():
        row = verdicts[name]
        cells = (row["equals_called_different"], row["slowdown_found"], row["wrong_direction"])
        lines.append(f"| {method} | " + " | ".join(f"{value} of {trials}" for value in cells) + " |")
    seconds = verdicts["ours"]["median_seconds"]
    lines += [
        "",
        f"Median time to a verdict: {seconds['equal']:.0f} s for the equal file, {seconds['slowed']:.0f} s for the "
        "slowed one.",
    ]
    return "\n".join(lines)
