"""The badges of the README: small pictures of what is in pyproject.toml and in the results. Nothing is fetched."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from benchmarks.common import load

ROOT = Path(__file__).parent.parent
FOLDER = "docs/badges"
HEIGHT, PADDING = 20, 7
NARROW, NORMAL, WIDE = 3.9, 6.7, 8.6
"""Pixels; about what letters of 11 px are wide. textLength makes a text as wide as computed in any font."""
GREEN, BLUE = "#2e7d32", "#1565c0"


def badge(label: str, text: str, color: str) -> str:
    """Return a badge as SVG: a label on gray, and a text on a color."""
    widths = [_width(part) for part in (label, text)]
    left, whole = widths[0] + 2 * PADDING, sum(widths) + 4 * PADDING
    words = [
        f'<text x="{x}" y="14" textLength="{width}">{escape(part)}</text>'
        for part, x, width in ((label, PADDING, widths[0]), (text, left + PADDING, widths[1]))
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(label)}: {escape(text)}">'
        f'<rect width="{whole}" height="{HEIGHT}" rx="3" fill="#444"/>'
        f'<path d="M{left} 0h{whole - left - 3}a3 3 0 0 1 3 3v{HEIGHT - 6}a3 3 0 0 1-3 3H{left}z" fill="{color}"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{"".join(words)}</g></svg>\n'
    )


def _width(text: str) -> int:
    letters = ((NARROW if one in "fijlrt.-: 1" else WIDE if one in "mwAGMPUW≥" else NORMAL) for one in text)
    return round(sum(letters))


def badges() -> dict[str, str]:
    """Return every badge by its path in the repository."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    python, license_ = (_value(project, name) for name in ("requires-python", "license"))
    found = {
        "python": badge("python", python.replace(">=", "≥ "), BLUE),
        "license": badge("license", license_, BLUE),
        "gpu": badge("GPU", "not needed", BLUE),
    }
    if rows := load("coverage").get("rows"):
        passed = sum(row.get("verdict") == "pass" for row in rows.values())
        found["proven"] = badge("torchvision and timm", f"{passed} of {len(rows)} proven", GREEN)
    return {f"{FOLDER}/{name}.svg": text for name, text in found.items()}


def _value(project: str, name: str) -> str:
    match = re.search(rf'^{name} = "([^"]+)"', project, re.MULTILINE)
    assert match is not None
    return match[1]
