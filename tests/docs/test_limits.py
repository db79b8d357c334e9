"""The table of limits in the documentation is that of the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from deploy.core.limits import PREFIX, Limits

DOCS = Path(__file__).parents[2] / "docs"
SERVE = "serve_"
LIMITS = dataclasses.fields(Limits)
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}


def test_every_limit_is_documented_with_its_default() -> None:
    text = (DOCS / "limits.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| `(\w+)` \| \S.*\|$", text, re.MULTILINE)
    documented = {name: (int(default.replace(",", "")), variable) for name, default, variable in rows}
    expected = {
        item.name: (item.default, PREFIX + item.name.upper()) for item in LIMITS if not item.name.startswith(SERVE)
    }
    assert len(documented) == len(rows), "a limit is listed twice"
    assert sorted(expected.keys() - documented.keys()) == [], "limits that docs/limits.md lacks"
    assert sorted(documented.keys() - expected.keys()) == [], "limits in docs/limits.md that do not exist"
    assert documented == expected


def test_every_limit_of_the_server_is_documented_with_its_default() -> None:
    documented: dict[str, int] = {}
    for line in (DOCS / "serving.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| (`[A-Z_`, ]+`) \| ([\d,A-Za-z ]+) \|", line):
            names = re.findall(r"[A-Z_]+", match[1])
            for name, default in zip(names, match[2].split(", "), strict=True):
                number, _, unit = default.partition(" ")
                documented[SERVE + name.lower()] = int(number) * UNITS[unit]
    assert documented == {item.name: item.default for item in LIMITS if item.name.startswith(SERVE)}
