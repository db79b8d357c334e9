"""Advice: the fastest backend and precision of each model, and why INT8 is not faster where it is not.

Advice is based only on configurations that were timed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from deploy.bench.statistics import plain_interval, ratio
from deploy.core.artifact import UNPROVEN
from deploy.core.backend import title_of
from deploy.report import score
from deploy.report.rows import JsonObject, same_cell
from deploy.support.formatting import duration

MAX_INTERVAL_RATIO = 1.2
"""An interval around 1 whose upper end exceeds its lower end by more than this factor is inconclusive."""
MIN_SHARE = 0.05
"""Shares of the time below this are not mentioned."""
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "INT8"}


def advice(rows: Sequence[JsonObject], profiles: Sequence[JsonObject], baseline: str) -> list[dict[str, str]]:
    """Return the fastest configuration of every model and setting, and a remark for every INT8 file that is not faster.

    The rows contain their whole machine. The kind of an entry is ``fastest`` or ``int8``.
    """
    timed = [row for row in rows if row["latency"] and row["scenario"] == "latency"]
    entries = []
    for _, group in groupby(sorted(timed, key=_setting), key=_setting):
        members = list(group)
        entries.append(_fastest(members, baseline))
        for row in members:
            if row["precision"] == "int8":
                entries += _not_faster(row, members, profiles)
    return entries


def _setting(row: JsonObject) -> tuple[Any, ...]:
    machine = row["machine"]
    same_machine = (machine.get("kind", ""), machine.get("cpu"), machine.get("cores"))
    return row["slug"], row["batch"], row["threads"], row["device"], *same_machine, str(row["sizes"])


def _fastest(rows: Sequence[JsonObject], baseline: str) -> dict[str, str]:
    best = next(row for row in rows if row["mark"] == "best")
    verb = "is the only configuration timed" if len(rows) == 1 else "is fastest"
    text = f"{_label(best)} {verb}: {_latency(best)}"
    if best["speedup"]:
        text += f", speedup {_speedup(best['speedup'])} over {title_of(baseline)} in float32"
    text += f"; {_accuracy(best)}"
    if best["evidence"].get("verdict") == UNPROVEN:
        text += f"; {UNPROVEN}: no model is known to compare the file with"
    ties = [_label(row) for row in rows if row["mark"] == "tie"]
    if ties:
        text += f". Not detectably slower: {', '.join(ties)}"
    return _entry(best, "fastest", text)


def _not_faster(
    row: JsonObject, rows: Sequence[JsonObject], profiles: Sequence[JsonObject]
) -> Iterator[dict[str, str]]:
    """Yield an entry with the reason if INT8 is not detectably faster than float32 on the same backend."""
    floats = [item for item in rows if item["precision"] == "fp32" and item["backend"] == row["backend"]]
    # pairs of processes with the same number
    pairs = list(zip(row["medians_ns"], floats[0]["medians_ns"], strict=False)) if floats else []
    if not pairs:
        return
    gain = ratio([first for first, _ in pairs], [second for _, second in pairs])
    if gain.low > 1:
        return
    backend, speedup = title_of(row["backend"]), f"speedup {_speedup(plain_interval(gain) or {})}"
    if gain.high > 1 and gain.high / max(gain.low, 1e-9) > MAX_INTERVAL_RATIO:
        text = f"INT8 compared with float32 on {backend}: inconclusive, {speedup}"
        yield _entry(row, "int8", f"{text}. Measure on a quieter machine or with more --repetitions")
        return
    text = f"INT8 is {'slower' if gain.high < 1 else 'not detectably faster'} than float32 on {backend}: {speedup}"
    profile = next((item for item in profiles if same_cell(item, row)), None)
    if profile is None:
        words = ["deploy", "profile", row["model"], "--backends", row["backend"], "--precision", "int8"]
        words += ["--batch", str(row["batch"]), "--threads", str(row["threads"])]
        text += f". No profile is recorded ({shlex.join(words)})"
    else:
        text += f". Profile: {'; '.join(_reasons(profile))}"
    yield _entry(row, "int8", text)


def where(row: JsonObject) -> str:
    """Return the machine and the setting of a row, which contains its whole machine, in words."""
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    device = row["machine"].get("cpu", "this machine") if row["device"] == "cpu" else "CUDA"
    machine = f"{row['machine']['kind']}: " if row["machine"].get("kind") else ""
    return f"{machine}{device}, {threads}, batch {row['batch']}"


def _entry(row: JsonObject, kind: str, text: str) -> dict[str, str]:
    return {"where": where(row), "model": row["slug"], "kind": kind, "text": f"{text}."}


def _reasons(profile: JsonObject) -> list[str]:
    """Return why INT8 is not faster according to a profile, the largest share of the time first."""
    layers = profile["layers"]
    total = sum(layer["ns"] for layer in layers) or 1.0
    times = {
        "is in layers that compute in float": [item for item in layers if item["layer"] in profile["in_float"]],
        "is in separate quantize and dequantize operators": [item for item in layers if item["kind"] == "qdq"],
        "is in layout conversions": [item for item in layers if item["kind"] == "reformat"],
    }
    shares = sorted(((sum(item["ns"] for item in part) / total, text) for text, part in times.items()), reverse=True)
    reasons = [f"{share:.0%} of the time {text}" for share, text in shares if share >= MIN_SHARE]
    if profile["slower"]:
        count, worst = len(profile["slower"]), profile["slower"][0]
        by = f"by a factor of {worst['ns'] / worst['float_ns']:.1f}"
        name = worst.get("module") or worst["layer"]
        reasons.append(f"layers slower than in float: {count}, the worst ({name}) {by}")
    return reasons or ["the INT8 layers themselves take as long as the float ones"]


def _label(row: JsonObject) -> str:
    return f"{PRECISIONS.get(row['precision'], row['precision'])} on {title_of(row['backend'])}"


def _latency(row: JsonObject) -> str:
    median = row["latency"]["median_ns"]
    if median["low"] is None:
        return f"{duration(median['value'])} (one process, no confidence interval)"
    return f"{duration(median['value'])} (95 % CI {duration(median['low'])} to {duration(median['high'])})"


def _speedup(interval: JsonObject) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    ends = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{value:.2f}×{ends}"


def _accuracy(row: JsonObject) -> str:
    known = row["accuracy"]
    if known is None:
        return "accuracy not measured" + ("" if row["trained"] else " (untrained weights)")
    if known["difference"] is None:
        return f"{score.metric(known)} {score.value(known):.1%} on {known['images']} images of {known['data']}"
    low, high = (100 * end for end in known["difference_interval"])
    return (
        f"{score.metric(known)} {100 * known['difference']:+.1f} points relative to PyTorch "
        f"({low:+.1f} to {high:+.1f}, {known['images']} images of {known['data']})"
    )
