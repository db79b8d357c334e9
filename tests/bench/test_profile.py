"""Where the time goes, and what the machine could do at best: real profilers, real peaks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bench import measured_limits as _bench_limits
from deploy.bench.measure import measure_speed
from deploy.bench.profile import explain
from deploy.bench.repetition import Budget
from deploy.core.errors import BackendError, UsageError
from deploy.core.progress import SILENT
from deploy.core.store import Store
from deploy.quantization.quantize import quantize
from deploy.support.onnx_costs import costs
from deploy.tools.verify import verify
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]


def test_a_float_file_on_every_backend(artifacts: Path) -> None:
    found = {item.plan.cell.backend: item for item in explain("lenet5", threads=1, artifacts=artifacts)}
    assert set(found) == {"onnxruntime", "openvino"}
    kinds = {name: set(item.profile.by_operator()) for name, item in found.items()}
    assert "Conv" in kinds["onnxruntime"] and "Convolution" in kinds["openvino"]
    for item in found.values():
        assert item.profile.wall_ns > 0 and not item.in_float and item.before is None
    (torch,) = explain("lenet5", backends=("torch",), threads=1, artifacts=artifacts)
    assert {"conv1", "conv2", "fc3"} <= {item.layer for item in torch.profile.layers}


def test_eight_bits_beside_float(artifacts: Path) -> None:
    for target in ("onnxruntime", "openvino"):
        quantize("lenet5", calib="digits", target=target, samples=8, artifacts=artifacts)
    found = explain("lenet5", precision="int8", threads=1, artifacts=artifacts)
    for item in found:
        assert item.before is not None
        assert any(layer.arithmetic == "int8" for layer in item.profile.layers), item.plan.cell.backend
        assert any("Quantize" in layer.layer for layer in item.unfused), (
            "the input is rounded by an operator of its own"
        )
        assert json.dumps(item.to_dict())


def test_what_cannot_be_explained(artifacts: Path) -> None:
    with pytest.raises(BackendError, match="no INT8 file"):
        explain("lenet5", precision="int8", threads=1, artifacts=artifacts)
    with pytest.raises(UsageError, match="no profiler"):
        explain("lenet5", backends=("torch-compile",), threads=1, artifacts=artifacts)


def test_the_floor_of_every_row_from_measured_peaks(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bench_limits, "SECONDS", 0.02)
    monkeypatch.setattr(_bench_limits, "SIZES", (2**16, 2**24))
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
    limits = _bench_limits.measured_limits(1, Store(artifacts), SILENT)
    assert limits.operations["fp32"] > 0 and limits.operations["int8"] > 0 and len(limits.bandwidth) == 2
    (path,) = (artifacts / ".limits").glob("*.json")
    before = path.read_bytes()
    assert _bench_limits.measured_limits(1, Store(artifacts), SILENT) == limits and path.read_bytes() == before
    assert verify(artifacts).problems == ()


def test_operations_in_eight_bits_are_counted_as_such(artifacts: Path) -> None:
    plain = costs(artifacts / "lenet5" / "lenet5.fp32.onnx", {"batch": 1})
    quantize("lenet5", calib="digits", target="onnxruntime", samples=8, artifacts=artifacts)
    rounded = costs(artifacts / "lenet5" / "lenet5.int8-onnxruntime.onnx", {"batch": 1})
    assert set(plain.by_precision) == {"fp32"}
    assert rounded.by_precision["int8"] > 0.95 * sum(plain.by_precision.values())
    assert rounded.least_bytes < 0.35 * plain.least_bytes


def test_the_command(artifacts: Path, run: Callable[..., Ran]) -> None:
    told = run("-q", "bench", "lenet5", "--explain", "--backends", "onnxruntime", "--threads", "1")
    assert told.code == 0 and "by operator" in told.out and "Conv" in told.out
    assert run("bench", "--explain").code == 2
