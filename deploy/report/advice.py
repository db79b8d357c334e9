"""Advice: which backend and precision for each model, and why eight bits are not faster where they are not.

Only from rows of the report, each of which was measured. Nothing is advised that was not timed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from deploy.bench.statistics import Interval, plain_interval, ratio
from deploy.core.backend import title_of
from deploy.report.rows import same_cell

Plain = Mapping[str, Any]

LATENCY = "latency"
UNCLEAR = 1.2
"""An interval around no difference whose ends are farther apart than this factor tells nothing."""
PRECISIONS = {"fp32": "float32", "fp16": "float16", "int8": "INT8"}


def advice(rows: Sequence[Plain], profiles: Sequence[Plain], baseline: str) -> list[dict[str, str]]:
    """One entry a model and setting, the fastest that is proven; another where eight bits gained nothing.

    Args:
        rows: of the report.
        profiles: what ``deploy bench --explain`` found.
        baseline: the backend that speed-ups are against.

    Returns:
        ``where``, ``model``, ``kind`` (``fastest`` or ``int8``) and ``text``.
    """
    timed = [row for row in rows if row["latency"] and row["scenario"] == LATENCY]
    found = []
    for _, group in groupby(sorted(timed, key=_setting), key=_setting):
        members = list(group)
        found.append(_fastest(members, baseline))
        found += [item for row in members if row["precision"] == "int8" for item in _not_faster(row, members, profiles)]
    return found


def _setting(row: Plain) -> tuple[Any, ...]:
    machine = row["machine"]
    return (
        row["slug"],
        row["batch"],
        row["threads"],
        row["device"],
        machine.get("kind", ""),
        machine.get("cpu"),
        machine.get("cores"),
        str(row["sizes"]),
    )


def _fastest(rows: Sequence[Plain], baseline: str) -> dict[str, str]:
    best = next(row for row in rows if row["mark"] == "best")
    if len(rows) == 1:
        return _entry(best, "fastest", f"only {what(best)} was timed: {_time(best)}; {_accuracy(best)}")
    ties = [what(row) for row in rows if row["mark"] == "tie"]
    text = f"{what(best)} is fastest: {_time(best)}"
    if best["speedup"]:
        text += f", {_times(best['speedup'])} of {title_of(baseline)} in float32"
    text += f"; {_accuracy(best)}"
    if ties:
        text += f". Not told apart from it: {', '.join(ties)}"
    return _entry(best, "fastest", text)


def _not_faster(row: Plain, rows: Sequence[Plain], profiles: Sequence[Plain]) -> Iterator[dict[str, str]]:
    """Where eight bits do not detectably beat float32 on the same backend: that, with what the profile says of it."""
    plain = [item for item in rows if item["precision"] == "fp32" and item["backend"] == row["backend"]]
    gain = _gain(plain[0], row) if plain else None
    if gain is None or gain.low > 1:
        return
    where, times = title_of(row["backend"]), _times(plain_interval(gain) or {})
    if gain.high > 1 and gain.high / max(gain.low, 1e-9) > UNCLEAR:
        text = f"whether INT8 is faster than float32 on {where} cannot be told ({times}): measure on a quieter machine"
        yield _entry(row, "int8", f"{text}, or with more --repetitions")
        return
    text = f"INT8 is {'slower' if gain.high < 1 else 'not detectably faster'} than float32 on {where} ({times})"
    profile = next((item for item in profiles if same_cell(item, row)), None)
    if profile is None:
        line = f"deploy profile {row['model']} --backends {row['backend']} --precision int8"
        text += f"; what takes the time was not looked at: {line}"
    else:
        text += f"; by its profile, {'; '.join(reasons(profile))}"
    yield _entry(row, "int8", text)


def _entry(row: Plain, kind: str, text: str) -> dict[str, str]:
    return {"where": _where(row), "model": row["slug"], "kind": kind, "text": f"{text}."}


def _gain(plain: Plain, row: Plain) -> Interval | None:
    """How many times faster than float, from processes of the same number."""
    pairs = list(zip(row["medians_ns"], plain["medians_ns"], strict=False))
    return ratio([one for one, _ in pairs], [two for _, two in pairs]) if pairs else None


def reasons(profile: Plain) -> list[str]:
    """What a profile says of eight bits that gain nothing, the largest share of the time first."""
    total = sum(layer["ns"] for layer in profile["layers"]) or 1.0
    shares = {
        "is in layers that compute in float": sum(
            layer["ns"] for layer in profile["layers"] if layer["layer"] in profile["in_float"]
        ),
        "goes to quantizing and dequantizing on their own": sum(
            layer["ns"] for layer in profile["layers"] if layer["kind"] == "qdq"
        ),
        "goes to moving values into another layout": sum(
            layer["ns"] for layer in profile["layers"] if layer["kind"] == "reformat"
        ),
    }
    told = sorted(((value / total, words) for words, value in shares.items() if value / total >= 0.05), reverse=True)
    found = [f"{share:.0%} of the time {words}" for share, words in told]
    if profile["slower"]:
        worst = profile["slower"][0]
        more = f"{worst['layer']} takes {worst['ns'] / worst['float_ns']:.1f}× what it took in float"
        found.append(f"{len(profile['slower'])} layers are slower than in float, {more}")
    return found or ["its integer layers themselves take as long as the float ones"]


def what(row: Plain) -> str:
    """Backend and precision in words."""
    return f"{PRECISIONS.get(row['precision'], row['precision'])} on {title_of(row['backend'])}"


def _where(row: Plain) -> str:
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    device = row["machine"].get("cpu", "this machine") if row["device"] == "cpu" else "CUDA"
    kind = f"{row['machine']['kind']}: " if row["machine"].get("kind") else ""
    return f"{kind}{device}, {threads}, batch {row['batch']}"


def _time(row: Plain) -> str:
    median = row["latency"]["median_ns"]
    if median["low"] is None:
        return f"{median['value'] / 1e6:.3g} ms (one process, no interval)"
    return f"{median['value'] / 1e6:.3g} ms ({median['low'] / 1e6:.3g} to {median['high'] / 1e6:.3g})"


def _times(interval: Mapping[str, float | None]) -> str:
    value, low, high = interval["value"], interval["low"], interval["high"]
    ends = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{value:.2f} ×{ends} the speed"


def _accuracy(row: Plain) -> str:
    known = row["accuracy"]
    if known is None:
        return "its accuracy was not measured" + ("" if row["trained"] else " (untrained weights)")
    if known["difference"] is None:
        return f"top-1 {known['top1']:.1%} of {known['images']} images of {known['data']}"
    low, high = (100 * end for end in known["difference_interval"])
    return (
        f"top-1 {100 * known['difference']:+.1f} points against PyTorch ({low:+.1f} to {high:+.1f}, "
        f"{known['images']} images of {known['data']})"
    )
