"""What the plots share: their form, the colors and symbols of backends and precisions, and how rows are grouped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deploy.core.backend import backends
from deploy.support.formatting import duration

Plain = Mapping[str, Any]
Figure = dict[str, Any]

OTHER = "#56B4E9"
"""Color of a backend that declares none. The built-in ones use Okabe and Ito's color-blind-safe palette."""
SYMBOLS = {"fp32": "circle", "fp16": "square", "int8": "diamond"}
MILLI = 1e-6


def color_of(backend: str) -> str:
    """Return the plot color of a backend or quantization target, ``#RRGGBB``."""
    known = backends()
    return (known[backend].color if backend in known else None) or OTHER


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot of the page.

    Attributes:
        name: of its place in the page.
        title: what it shows.
        text: the same in words, for those who do not see it.
        figures: by what the reader may choose; one of them is no choice.
    """

    name: str
    title: str
    text: str
    figures: Mapping[str, Figure]


def series(rows: Sequence[Plain]) -> list[tuple[tuple[str, str], list[Plain]]]:
    """Rows by backend and precision."""

    def key(row: Plain) -> tuple[str, str]:
        return row["backend"], row["precision"]

    return [(name, list(group)) for name, group in groupby(sorted(rows, key=key), key=key)]


def marker(name: tuple[str, str], **more: Any) -> dict[str, Any]:
    """Of a series: its color and symbol."""
    backend, precision = name
    return {
        "color": color_of(backend),
        "symbol": SYMBOLS.get(precision, "x") + ("-open" if more.pop("hollow", False) else ""),
        "size": 9,
        **more,
    }


def median(row: Plain) -> float:
    """Of the latency, in nanoseconds."""
    return float(row["latency"]["median_ns"]["value"])


def ends(row: Plain) -> tuple[float, float]:
    """Of the interval; the value itself where there is no interval."""
    median = row["latency"]["median_ns"]
    if median["low"] is None:
        return median["value"], median["value"]
    return median["low"], median["high"]


def error_x(rows: Sequence[Plain]) -> dict[str, Any]:
    """Intervals of latencies, in milliseconds."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [rounded((ends(row)[1] - median(row)) * MILLI) for row in rows],
        "arrayminus": [rounded((median(row) - ends(row)[0]) * MILLI) for row in rows],
        "thickness": 1.2,
    }


def rounded(value: float) -> float:
    """Five digits: more than any interval here, and short."""
    return float(f"{value:.5g}")


def setting_of(row: Plain) -> str:
    """What rows must share to stand in one figure, in words."""
    words = [f"batch {row['batch']}", f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"]
    words += [row["device"]] if row["device"] != "cpu" else []
    return ", ".join([*words, f"machine {row['machine'] + 1}"])


def by_setting(rows: Sequence[Plain]) -> dict[str, list[Plain]]:
    """Rows that may be compared; the setting with most rows first."""
    found: dict[str, list[Plain]] = {}
    for row in rows:
        found.setdefault(setting_of(row), []).append(row)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def fastest(rows: Sequence[Plain]) -> list[Plain]:
    """Of each model, the fastest first."""
    best: dict[str, Plain] = {}
    for row in rows:
        if row["slug"] not in best or median(row) < median(best[row["slug"]]):
            best[row["slug"]] = row
    return sorted(best.values(), key=median)


def in_words(row: Plain) -> str:
    """A row in words."""
    return f"{row['slug']} {duration(median(row))} ({row['backend']} {row['precision']})"


def operations(row: Plain) -> float:
    """Of one call."""
    return float(sum(row["work"]["operations"].values()))
