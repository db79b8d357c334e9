"""Cases of one kind, most of which run at night."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def by_day(cases: Iterable[str], *names: str) -> list[Any]:
    """Return the cases with a mark on those that only `make test-nightly` runs: all but ``names``."""
    known = list(cases)
    assert set(names) <= set(known), set(names) - set(known)
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in known]
