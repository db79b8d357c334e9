"""The ``repr`` of reports: one line, without the arrays and tables that they hold."""

from __future__ import annotations

import math


def brief(report: object, *parts: object) -> str:
    """Return the class of a report and its most important values; empty ones and None are left out."""
    shown = [str(part) for part in parts if part is not None and str(part)]
    return f"<{type(report).__name__} {', '.join(shown)}>"


def margin_text(margin: float) -> str:
    """Return a margin, ``margin 4.0×``; empty if it is not a number."""
    return f"margin {margin:.1f}×" if math.isfinite(margin) else ""
