"""The table of limits in the documentation is that of the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from deploy.core.limits import PREFIX, Limits

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


def test_every_limit_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| `(\w+)` \| \S.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: (int(default.replace(",", "")), variable) for name, default, variable in rows}
    expected = {item.name: (item.default, PREFIX + item.name.upper()) for item in dataclasses.fields(Limits)}
    assert len(documented) == len(rows), "a limit is listed twice"
    assert sorted(expected.keys() - documented.keys()) == [], "limits that docs/limits.md lacks"
    assert sorted(documented.keys() - expected.keys()) == [], "limits in docs/limits.md that do not exist"
    assert documented == expected
