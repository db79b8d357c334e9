"""Preparation of graphs and collection of histograms."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import calibration
from calibration.graph import tensors_to_observe
from calibration.observations import pack, unpack
from calibration.target import find_target
from deploy.core.errors import ArtifactError, BackendError, DataError

Change = Callable[[Callable[[onnx.ModelProto], None]], Path]


def _batches(images: np.ndarray, size: int) -> list[dict[str, np.ndarray]]:
    return [{"input": images[start : start + size]} for start in range(0, len(images), size)]


def _values(graph: onnx.ModelProto, names: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    model = onnx.ModelProto.FromString(graph.SerializeToString())
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


def test_a_prepared_graph_computes_the_same(block: Path, images: np.ndarray) -> None:
    graph = calibration.prepare(block)
    before = ort.InferenceSession(str(block), providers=["CPUExecutionProvider"]).run(None, {"input": images})[0]
    after = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(before, after.run(None, {"input": images})[0], rtol=1e-5, atol=1e-5)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("BatchNormalization") == 1, "the batch normalization behind a convolution is folded"
    assert "GlobalAveragePool" in kinds and "ReduceMean" not in kinds
    assert {item.domain for item in graph.opset_import} == {""}
    assert len({node.name for node in graph.graph.node}) == len(kinds)


def test_histograms_count_every_value(block: Path, images: np.ndarray) -> None:
    graph = calibration.prepare(block)
    seen = calibration.collect(graph, _batches(images, 5), samples=len(images))
    assert seen.samples == len(images)
    computed = [name for name in seen.tensors if name != "input"]
    values = _values(graph, computed, images) | {"input": images}
    for name, item in seen.tensors.items():
        assert item.all.total == values[name].size
        assert item.all.low == pytest.approx(values[name].min(), rel=1e-5)
        assert item.all.high == pytest.approx(values[name].max(), rel=1e-5)


def test_histograms_do_not_depend_on_the_batch_size(block: Path, images: np.ndarray) -> None:
    graph = calibration.prepare(block)
    one, other = (calibration.collect(graph, _batches(images, size), samples=len(images)) for size in (3, 24))
    assert np.array_equal(one.tensors["input"].all.counts, other.tensors["input"].all.counts)
    for name, item in one.tensors.items():
        moved = np.abs(item.all.counts - other.tensors[name].all.counts).sum()
        assert moved <= 0.01 * item.all.total, name  # ONNX Runtime may round differently at another batch size


def test_every_float_activation_has_a_range(block: Path, images: np.ndarray) -> None:
    graph = calibration.prepare(block)
    observed, shared = tensors_to_observe(graph)
    made = {name for node in graph.graph.node for name in node.output}
    assert made | {"input"} == set(observed) | set(shared)
    assert set(shared.values()) <= set(observed)
    seen = calibration.collect(graph, _batches(images, 8))
    table = calibration.CalibrationTable.of(seen, "minmax", {})
    assert set(table.ranges(find_target("onnxruntime").grid)) == made | {"input"}


def test_observations_survive_the_transfer_to_another_process(block: Path, images: np.ndarray) -> None:
    seen = calibration.collect(calibration.prepare(block), _batches(images, 8), samples=len(images))
    again = unpack(*pack(seen))
    assert (again.samples, again.shared, list(again.tensors)) == (seen.samples, seen.shared, list(seen.tensors))
    for name, item in seen.tensors.items():
        other = again.tensors[name]
        for mine, theirs in ((item.all, other.all), (item.early, other.early)):
            assert mine is not None and theirs is not None
            assert np.array_equal(mine.counts, theirs.counts)
            assert vars(mine) | {"counts": 0} == vars(theirs) | {"counts": 0}
        np.testing.assert_array_equal(item.channels, other.channels)  # type: ignore[arg-type]


def test_dead_channels_are_counted(change: Change, images: np.ndarray) -> None:
    def kill(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "first.bias":
                value = onnx.numpy_helper.to_array(tensor).copy()
                value[:3] = -1e6
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))

    graph = calibration.prepare(change(kill))
    seen = calibration.collect(graph, _batches(images, 8))
    table = calibration.CalibrationTable.of(seen, "minmax", {})
    assert (3, 8) in table.dead.values()


def test_the_batch_size_is_limited_by_memory_or_fixed_by_the_graph(block: Path, tmp_path: Path) -> None:
    from tests.calibration.conftest import save

    assert calibration.batch_size(calibration.prepare(block)) == 32
    fixed = save(tmp_path / "fixed.onnx", batch=False)
    assert calibration.batch_size(calibration.prepare(fixed)) == 1


def test_unusable_data_is_refused(block: Path, images: np.ndarray) -> None:
    graph = calibration.prepare(block)
    with pytest.raises(DataError):
        calibration.collect(graph, [])
    images[7, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"'input'.*NaN.* 4 to 7"):
        calibration.collect(graph, _batches(images, 4))
    with pytest.raises(BackendError, match=r"input\[2, 4, 16, 16\]"):
        calibration.collect(graph, [{"input": np.zeros((2, 4, 16, 16), np.float32)}])


def test_a_graph_with_only_zeros_is_refused(block: Path) -> None:
    graph = calibration.prepare(block)
    for tensor in graph.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(value), tensor.name))
    seen = calibration.collect(graph, [{"input": np.zeros((2, 3, 16, 16), np.float32)}])
    with pytest.raises(DataError):
        calibration.CalibrationTable.of(seen, "minmax", {})


def _headless(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            node.op_type = "Relu"


@pytest.mark.parametrize(("change_model", "datum"), [(_headless, "Conv")])
def test_graphs_that_cannot_be_quantized(
    change: Change, change_model: Callable[[onnx.ModelProto], None], datum: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"changed\.onnx.*{datum}"):
        calibration.prepare(change(change_model))


def test_a_quantized_graph_is_refused(change: Change) -> None:
    def quantize(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "QuantizeLinear"

    with pytest.raises(ArtifactError, match=r"changed\.onnx"):
        calibration.prepare(change(quantize))
