"""Format numbers as text, and rows as CSV, for the terminal, Markdown and the report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from deploy.support.deployment import VARIANT

UNKNOWN = "–"


def size(count: float) -> str:
    """Format a number of bytes: ``44.7 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def duration(nanoseconds: float | None) -> str:
    """Format a duration with three digits: ``1.23 ms``; None is a dash."""
    if nanoseconds is None:
        return UNKNOWN
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def spread(value: float, low: float | None, high: float | None) -> str:
    """Format an interval as the larger deviation in percent of its value: ``±2.1 %``; an unknown one is a dash."""
    if not low or not high:
        return UNKNOWN
    deviation = max(high / value, value / low) - 1
    if deviation >= 1:
        return "±>100 %"
    return f"±{100 * deviation:.1f} %" if deviation < 0.1 else f"±{100 * deviation:.0f} %"


CANNOT_TELL = "cannot tell"
"""A speedup whose interval is too wide for a statement."""
SAME = "≈ 1×"
"""Beginning of a speedup that is no difference."""
_SAME, _WIDE = 1.1, 4.0
"""Ends of an interval, as factors: within the first of 1 it means no difference; wider than the second, nothing."""


def times_faster(value: float, low: float | None, high: float | None) -> str:
    """Format a speedup with its interval: ``1.52× ±2.1 %``.

    ``≈ 1×`` is one whose interval includes 1 and nothing far from it; one with a wider interval is `CANNOT_TELL`. A
    speedup without an interval, from single processes, is shown as it is.
    """
    if not low or not high or math.isinf(high):
        return f"{value:.2f}× {UNKNOWN}"
    if low <= 1 <= high and max(high, 1 / low) <= _SAME:
        return f"{SAME} {spread(value, low, high)}"
    if low <= 1 <= high or high / low > _WIDE:
        return CANNOT_TELL
    return f"{value:.2f}× {spread(value, low, high)}"


def as_csv(rows: Iterable[Mapping[str, Any]], without: Collection[str] = ()) -> str:
    """Format plain values as CSV with a header, without some keys; nested mappings become columns, lists one cell."""
    flat = [_flatten(row, without) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flatten(values: Mapping[str, Any], without: Collection[str], prefix: str = "") -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name, value in values.items():
        if name in without:
            continue
        if isinstance(value, Mapping):
            cells |= _flatten(value, without, f"{prefix}{name}.")
        else:
            cells[f"{prefix}{name}"] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return cells


def runs_on(backend: str, options: Mapping[str, Any]) -> str:
    """Return the backend with what the options of a timed cell say: CUDA graphs, the variant of a choice."""
    return " ".join(filter(None, (backend, "+graph" if options.get("graph") else "", options.get(VARIANT, ""))))
