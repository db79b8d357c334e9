"""Taking calls apart, and the floor under them."""

import pytest

from deploy.bench.layers import Profile, slower
from deploy.bench.limits import MachineLimits, Work, floor


def _item(layer: str, operator: str, ns: float, arithmetic: str = "float") -> dict[str, object]:
    return {"layer": layer, "operator": operator, "ns": ns, "arithmetic": arithmetic}


def test_a_profile_adds_up() -> None:
    nodes = [_item("a", "Conv", 60), _item("q", "QuantizeLinear", 30), _item("r", "Reorder", 6), _item("a", "Conv", 4)]
    profile = Profile.of(nodes, wall_ns=120)
    assert [item.layer for item in profile.layers] == ["a", "q", "r"]
    assert profile.by_operator() == {"Conv": 64, "QuantizeLinear": 30, "Reorder": 6}
    assert (profile.share("qdq"), profile.share("reformat")) == (0.3, 0.06)
    assert profile.to_dict()["outside_layers_ns"] == 20


def test_layers_that_became_slower_are_named_the_worst_first() -> None:
    before = Profile.of([_item("one_nchwc", "Conv", 50), _item("two", "Conv", 50), _item("three", "Gemm", 50)], 150)
    after = Profile.of(
        [_item("one_quant", "QLinearConv", 20, "int8"), _item("two", "Conv", 70), _item("three_quant", "QGemm", 90)],
        180,
    )
    assert [(item.layer, was) for item, was in slower(before, after)] == [("three_quant", 50), ("two", 50)]


LIMITS = MachineLimits(
    threads=1, operations={"fp32": 100e9, "int8": 400e9}, bandwidth={1 << 16: 30e9, 1 << 20: 80e9, 1 << 28: 10e9}
)


@pytest.mark.parametrize(
    ("operations", "size", "nanoseconds", "bound"),
    [
        ({"fp32": 10**9}, 1000, 1e7, "compute-bound"),
        ({"int8": 10**9}, 1000, 2.5e6, "compute-bound"),
        ({"fp32": 10**9, "int8": 10**9}, 1000, 1.25e7, "compute-bound"),
        ({"fp16": 10**9}, 1000, 1e7, "compute-bound"),
        ({"fp32": 1}, 10**9, 1e8, "memory-bound"),
        ({"fp32": 1}, 8 * 10**4, 1e3, "memory-bound"),
    ],
)
def test_the_floor(operations: dict[str, int], size: int, nanoseconds: float, bound: str) -> None:
    found = floor(Work(operations=operations, bytes=size, unknown={}), LIMITS)
    assert (found.nanoseconds, found.bound) == (pytest.approx(nanoseconds), bound)
    assert found.to_dict(2 * nanoseconds)["attained"] == pytest.approx(0.5)


def test_limits_come_back_from_json() -> None:
    import json

    assert MachineLimits.from_dict(json.loads(json.dumps(LIMITS.to_dict()))) == LIMITS
