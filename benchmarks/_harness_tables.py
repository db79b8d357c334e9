"""The figures of benchmarks/harness.py, as the documents show them."""

from __future__ import annotations

from benchmarks._common import load

NAMES = {
    "ours": "`deploy bench --compare`, at most 60 s",
    "loop": "a loop over one, then the other, Welch's t test",
    "torch": "`torch.utils.benchmark`, medians to their significant digits",
}


def harness_figures() -> list[str]:
    """Rows of the README's table."""
    found, rows = load("harness"), []
    if "overhead" in found:
        spent = found["overhead"]["whole_call_ns"] - found["overhead"]["bare_call_ns"]
        rows.append(f"| the harness's own time a timed call | {spent / 1000:.2f} µs | ≤ 1 µs | `benchmarks.harness` |")
    if "verdicts" in found:
        trials, ours = found["verdicts"]["trials"], found["verdicts"]["ours"]
        rows.append(
            f"| a file against itself, {trials} comparisons: called different; a planted slow-down of 3 %: found; "
            f"wrong direction | {ours['equals_called_different']}; {ours['slowdown_found']}; {ours['wrong_direction']} "
            "| ≤ 5 %; ≥ 95 %; 0 | `benchmarks.harness` |"
        )
    if "agreement" in found:
        value, low, high = found["agreement"]["theirs_over_ours"]
        rows.append(
            f"| the median that {found['agreement']['tool']} tells over ours, same file and threads | "
            f"{value:.3f} ({low:.3f} to {high:.3f}) | within 3 % | `benchmarks.harness` |"
        )
    return rows


def harness_tables() -> str:
    """The table of docs/timing.md."""
    found = load("harness").get("verdicts")
    if not found:
        return ""
    trials = found["trials"]
    lines = [
        f"The same ONNX file ({found['model']}, one thread) against itself, and against itself with every call 3 % "
        f"longer, {trials} times each, on a shared machine with other work on it (`python -m benchmarks.harness`):",
        "",
        "| method | equals called different | slow-down found | wrong direction |",
        "|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        row = found[name]
        cells = (row["equals_called_different"], row["slowdown_found"], row["wrong_direction"])
        lines.append(f"| {words} | " + " | ".join(f"{value} of {trials}" for value in cells) + " |")
    seconds = found["ours"]["median_seconds"]
    lines += [
        "",
        f"Median time to a verdict: {seconds['equal']:.0f} s for equals, {seconds['slowed']:.0f} s otherwise.",
    ]
    return "\n".join(lines)
