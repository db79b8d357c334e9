"""Cases of one kind, most of which run at night."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def by_day(cases: Iterable[Any], *names: Any) -> list[Any]:
    """Return the cases with a mark on those that only `make test-nightly` runs: all but ``names``."""
    known = list(cases)
    assert set(names) <= set(known), set(names) - set(known)
    return [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in known]


def pairs_by_day(first: Iterable[Any], second: Iterable[Any], chosen: Callable[[Any, Any], bool]) -> list[Any]:
    """Return all pairs, with a mark on those that only `make test-nightly` runs: all that are not ``chosen``."""
    pairs, other = [], list(second)
    for one in first:
        pairs += [pytest.param(one, two, marks=() if chosen(one, two) else pytest.mark.slow) for two in other]
    return pairs
