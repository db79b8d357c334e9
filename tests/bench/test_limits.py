"""The floor under a latency, and the peak rates it comes from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.bench import limits
from deploy.bench.limits import MachineLimits, Work, floor, floor_of
from deploy.bench.measure import measure_speed
from deploy.bench.records import Cell, CellRecord
from deploy.bench.repetition import Budget
from deploy.core.progress import SILENT
from deploy.core.store import Store
from deploy.quantization.quantize import quantize
from deploy.support.onnx_costs import costs
from deploy.tools.verify import verify

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


def test_a_precision_without_a_peak_rate_has_no_floor() -> None:
    """A processor may compute bfloat16 faster than any rate that is measured."""
    about = {"work": {"operations": {"fp32": 10**9}, "bytes": 1000, "unknown": {}}}
    cell = Cell(
        model="zoo/m", slug="m", backend="torch", precision="fp32", digest="0" * 64, batch=1, sizes={}, threads=1
    )
    record = CellRecord(cell=cell, evidence={}, about=about)
    assert floor_of(record, LIMITS) is not None
    assert floor_of(replace(record, cell=replace(cell, precision="bf16")), LIMITS) is None


def test_limits_come_back_from_json() -> None:
    assert MachineLimits.from_dict(json.loads(json.dumps(LIMITS.to_dict()))) == LIMITS


@pytest.mark.slow
def test_the_floor_of_every_row_from_measured_peaks(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    monkeypatch.setattr(limits, "SIZES", (2**16, 2**24))
    budget = Budget(time_s=0.02, warm_s=0.2, patience_s=60)
    report = measure_speed(
        ["lenet5"],
        backends=("torch", "onnxruntime"),
        precisions=("fp32",),
        threads=1,
        repetitions=1,
        budget=budget,
        limits=True,
        artifacts=artifacts,
    )
    for row in report.rows:
        assert row.floor is not None and row.floor.nanoseconds > 0
        assert row.to_dict()["limit"]["bound"] in ("compute-bound", "memory-bound") and not row.floor.unknown
    found = limits.machine_limits(1, Store(artifacts), SILENT)
    assert found.operations["fp32"] > 0 and found.operations["int8"] > 0 and len(found.bandwidth) == 2
    (path,) = (artifacts / ".limits").glob("*.json")
    before = path.read_bytes()
    assert limits.machine_limits(1, Store(artifacts), SILENT) == found and path.read_bytes() == before
    assert verify(artifacts).problems == ()


def test_operations_in_eight_bits_are_counted_as_such(artifacts: Path) -> None:
    plain = costs(artifacts / "lenet5" / "lenet5.fp32.onnx", {"batch": 1})
    quantize("lenet5", calib="digits", target="onnxruntime", samples=8, artifacts=artifacts)
    rounded = costs(artifacts / "lenet5" / "lenet5.int8-onnxruntime.onnx", {"batch": 1})
    assert set(plain.by_precision) == {"fp32"}
    assert rounded.by_precision["int8"] > 0.95 * sum(plain.by_precision.values())
    assert rounded.minimum_bytes < 0.35 * plain.minimum_bytes
