"""What else the machine did."""

import dataclasses

from deploy.bench.interference import between, conditions, snapshot
from deploy.bench.schedule import interleaved


def test_a_quiet_machine_has_no_flags_and_a_disturbed_one_says_why() -> None:
    first = dataclasses.replace(snapshot(), at=0.0, busy=0, stolen=0, total=0, own=0.0, throttled=0, hot=0, mhz=3000.0)
    quiet = dataclasses.replace(first, at=1.0, busy=100, total=200, own=1.0)
    assert between(first, quiet)["flags"] == {}
    loud = dataclasses.replace(first, at=1.0, busy=180, stolen=10, total=200, own=1.0, throttled=3, hot=1, mhz=2000.0)
    assert set(between(first, loud)["flags"]) == {"stolen", "others", "throttled", "hot", "mhz"}


def test_conditions_are_read() -> None:
    assert conditions().quota is None or conditions().quota > 0


def test_every_item_once_in_each_repetition_in_an_order_of_its_own() -> None:
    found = list(interleaved("abcdefgh", 4, seed=0))
    orders = ["".join(item for number, item in found if number == wanted) for wanted in range(4)]
    assert all(sorted(order) == list("abcdefgh") for order in orders) and len(set(orders)) == 4
    assert found == list(interleaved("abcdefgh", 4, seed=0)) != list(interleaved("abcdefgh", 4, seed=1))
