"""Weights and data with extreme values are refused or reported by name; every scale is finite and positive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy.core.errors import DeployError
from deploy.quantization.quantize import quantize
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]

Array = np.ndarray
Change = Callable[[Array], Array]
TARGETS = ("onnxruntime", "openvino", "tensorrt")
WEIGHT = "conv2.weight"


def some(values: Array, value: float) -> Array:
    values[0, 0, 0, 0] = value
    return values


def first_filter(values: Array, value: float) -> Array:
    values[0] = value
    return values


BROKEN: dict[str, Change] = {
    "a NaN": lambda values: some(values, np.nan),
    "an infinity": lambda values: some(values, np.inf),
    "nothing but NaN": lambda values: np.full_like(values, np.nan),
}
ODD: dict[str, Change] = {
    "denormal": lambda values: values * np.float32(1e-40),
    "smallest": lambda values: first_filter(values, np.float32(1e-45)),
    "a dead filter": lambda values: first_filter(values, 0),
    "all dead": lambda values: values * 0,
    "one filter a million times the others": lambda values: first_filter(values, 1e6 * float(np.abs(values).max())),
    "one value alone": lambda values: some(values * 0, 1.0),
}
"""Extreme but finite weights."""


def theirs(lenet5: Path, folder: Path, change: Change) -> Path:
    model = onnx.load(next(lenet5.glob("*/*.onnx")))
    tensor = next(item for item in model.graph.initializer if item.name == WEIGHT)
    with np.errstate(all="ignore"):
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), WEIGHT))
    path = folder / "theirs.onnx"
    onnx.save(model, path)
    return path


def data(folder: Path, change: Change = lambda values: values) -> Path:
    values = np.random.default_rng(0).standard_normal((32, 1, 32, 32)).astype(np.float32)
    with np.errstate(all="ignore"):
        np.save(folder / "data.npy", change(values))
    return folder / "data.npy"


def scales(path: Path) -> list[Array]:
    """Every scale of a quantized graph."""
    model = onnx.load(path)
    stored = {item.name: item for item in model.graph.initializer}
    names = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    return [numpy_helper.to_array(stored[name]) for name in sorted(names)]


@pytest.mark.parametrize("name", BROKEN)
def test_weights_that_are_not_finite_are_refused_by_name(lenet5: Path, tmp_path: Path, name: str) -> None:
    path = theirs(lenet5, tmp_path, BROKEN[name])
    with pytest.raises(DeployError, match=WEIGHT):
        quantize(str(path), calib=data(tmp_path), artifacts=tmp_path / "artifacts")
    assert not list(tmp_path.rglob("*int8*"))


@pytest.mark.parametrize(
    ("name", "target"),
    pairs_by_day(ODD, TARGETS, lambda name, target: target == "onnxruntime" or name in ("smallest", "all dead")),
)
def test_scales_of_odd_weights(lenet5: Path, tmp_path: Path, name: str, target: str) -> None:
    path = theirs(lenet5, tmp_path, ODD[name])
    report = quantize(str(path), calib=data(tmp_path), target=target, artifacts=tmp_path / "artifacts")
    found = scales(report.artifact.path)
    assert len(found) > 4
    assert all(np.isfinite(item).all() and (item > 0).all() for item in found)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_data_that_is_not_finite_is_refused_by_sample(lenet5: Path, tmp_path: Path, value: float) -> None:
    path = theirs(lenet5, tmp_path, lambda values: values)

    def spoil(values: Array) -> Array:
        values[7, 0, 3, 3] = value
        return values

    with pytest.raises(DeployError, match="not finite"):
        quantize(str(path), calib=data(tmp_path, spoil), artifacts=tmp_path / "artifacts")


@pytest.mark.parametrize("factor", [1e-42, 0.0, 1e30])
def test_scales_of_odd_data(lenet5: Path, tmp_path: Path, factor: float) -> None:
    """Denormal, zero and very large data."""
    path, listener = theirs(lenet5, tmp_path, lambda values: values), Listener()
    odd = data(tmp_path, lambda values: values * np.float32(factor))
    report = quantize(str(path), calib=odd, artifacts=tmp_path / "artifacts", progress=listener)
    assert all(np.isfinite(item).all() and (item > 0).all() for item in scales(report.artifact.path))
    if factor == 0.0:
        assert any("identical" in warning for warning in listener.warnings)
