"""Numbers in words, and rows as CSV: what tables on a terminal, in Markdown and on the page share."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from typing import Any

UNKNOWN = "–"


def size(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def duration(nanoseconds: float | None) -> str:
    """In the unit that reads best, three digits; a dash where it is not known."""
    if nanoseconds is None:
        return UNKNOWN
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= factor:
            return f"{nanoseconds / factor:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def spread(value: float, low: float | None, high: float | None) -> str:
    """The farther end of an interval in percent of its value; a dash where one process says nothing of others."""
    if not low or not high:
        return UNKNOWN
    farther = max(high / value, value / low) - 1
    if farther >= 1:
        return "±>100 %"
    return f"±{100 * farther:.1f} %" if farther < 0.1 else f"±{100 * farther:.0f} %"


def times_faster(value: float, low: float | None, high: float | None) -> str:
    """A speed-up with its interval; one that may be none is marked."""
    unclear = not low or not high or low <= 1 <= high
    return f"{'≈ ' if unclear else ''}{value:.2f}× {spread(value, low, high)}"


def as_csv(rows: Iterable[Mapping[str, Any]], without: Collection[str] = ()) -> str:
    """One line a row; a mapping within a row becomes columns, a list one cell.

    Args:
        rows: plain values.
        without: names that are left out, at any depth.
    """
    flat = [_flat(row, without) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flat(values: Mapping[str, Any], without: Collection[str], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in without:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, without, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = "; ".join(map(str, value)) if isinstance(value, list) else value
    return found
