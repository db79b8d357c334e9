"""Interference during a measurement."""

import dataclasses

from deploy.bench.interference import between, conditions, snapshot


def test_flags_only_under_interference() -> None:
    first = dataclasses.replace(snapshot(), at=0.0, busy=0, stolen=0, total=0, own=0.0, throttled=0, hot=0, mhz=3000.0)
    quiet = dataclasses.replace(first, at=1.0, busy=100, total=200, own=1.0)
    assert between(first, quiet)["flags"] == {}
    loud = dataclasses.replace(first, at=1.0, busy=180, stolen=10, total=200, own=1.0, throttled=3, hot=1, mhz=2000.0)
    assert set(between(first, loud)["flags"]) == {"stolen", "others", "throttled", "hot", "mhz"}


def test_conditions_are_read() -> None:
    assert conditions().quota is None or conditions().quota > 0
