"""Quantized graphs of every target: their structure, and the values they compute."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import calibration
from calibration.graph import weighted_layers
from calibration.layers import NoiseMeter
from calibration.sensitivity import choose_float_layers
from calibration.table import CalibrationTable
from calibration.target import targets
from calibration.targets import onnxruntime
from deploy.core.errors import ArtifactError, UnknownNameError

TARGETS = [name for name, target in targets().items() if not target.floating]
"""Targets in INT8; those of FP8 need a later opset than the graphs here, see tests/quantization/test_fp8.py."""


@pytest.fixture
def graph(block: Path) -> onnx.ModelProto:
    return calibration.prepare(block)


@pytest.fixture
def table(graph: onnx.ModelProto, images: np.ndarray) -> CalibrationTable:
    seen = calibration.collect(graph, [{"input": images}], samples=len(images))
    return CalibrationTable.of(seen, "minmax", {"graph": "x"})


def _run(model: onnx.ModelProto, images: np.ndarray, *, fused: bool = True) -> np.ndarray:
    settings = ort.SessionOptions()
    if not fused:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"input": images})[0]
    return result


def _stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _nodes(model: onnx.ModelProto, *kinds: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in kinds]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fused", [True, False])
def test_the_values_are_close_to_those_of_the_float_graph(
    graph: onnx.ModelProto, table: CalibrationTable, images: np.ndarray, target: str, fused: bool
) -> None:
    expected = _run(graph, images)
    found = _run(calibration.quantize(graph, table, target), images, fused=fused)
    noise = np.square(found - expected).sum() / np.square(expected - expected.mean(0)).sum()
    assert noise < 0.02 and not np.array_equal(found, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_every_scale_is_finite_and_positive(graph: onnx.ModelProto, table: CalibrationTable, target: str) -> None:
    made = calibration.quantize(graph, table, target)
    stored = _stored(made)
    scales = [stored[node.input[1]] for node in _nodes(made, "QuantizeLinear", "DequantizeLinear")]
    assert scales and all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales)
    onnx.checker.check_model(made)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_int8_with_a_scale_for_each_channel(
    graph: onnx.ModelProto, table: CalibrationTable, target: str
) -> None:
    made = calibration.quantize(graph, table, target)
    stored, by_output = _stored(made), {node.output[0]: node for node in made.graph.node}
    for node in _nodes(made, "Conv", "Gemm"):
        source = by_output[node.input[1]]
        assert source.op_type == "DequantizeLinear" and stored[source.input[0]].dtype == np.int8
        assert stored[source.input[1]].shape == (stored[source.input[0]].shape[0],)
        assert not stored[source.input[2]].any()


def test_onnxruntime_rules(graph: onnx.ModelProto, table: CalibrationTable) -> None:
    made = calibration.quantize(graph, table, "onnxruntime")
    stored = _stored(made)
    zero_points = {stored[node.input[2]].dtype for node in _nodes(made, "QuantizeLinear")}
    assert zero_points == {np.dtype(np.uint8)}
    assert any(
        stored[node.input[0]].dtype == np.int32 for node in _nodes(made, "DequantizeLinear") if node.input[0] in stored
    )
    assert not _nodes(made, "Relu", "Clip", "BatchNormalization"), (
        "fused into the quantization, or rewritten to a convolution"
    )
    for features, reduced in ((["avx2"], True), (["avx512_vnni"], False), (["asimddp"], False)):
        assert onnxruntime.rules(features).reduce_range is reduced


def test_openvino_rules(graph: onnx.ModelProto, table: CalibrationTable) -> None:
    made = calibration.quantize(graph, table, "openvino")
    stored = _stored(made)
    assert _nodes(made, "Relu") and _nodes(made, "BatchNormalization")
    assert not any(value.dtype == np.int32 for value in stored.values())
    dequantized = {node.output[0] for node in _nodes(made, "DequantizeLinear")}
    assert not any(dequantized & set(node.input) for node in _nodes(made, "Relu", "Clip", "BatchNormalization"))
    assert all(dequantized >= set(node.input) for node in _nodes(made, "Add", "MaxPool", "AveragePool"))


def test_tensorrt_rules(graph: onnx.ModelProto, table: CalibrationTable) -> None:
    made = calibration.quantize(graph, table, "tensorrt")
    stored, by_output = _stored(made), {node.output[0]: node for node in made.graph.node}
    for node in _nodes(made, "QuantizeLinear", "DequantizeLinear"):
        zero_point = stored[node.input[2]]
        assert zero_point.dtype == np.int8 and not zero_point.any()
    assert not any(value.dtype in (np.int32, np.uint8) for value in stored.values())
    for node in _nodes(made, "Conv", "Gemm"):
        assert by_output[node.input[0]].op_type == "DequantizeLinear"
        assert node.input[2] in stored and stored[node.input[2]].dtype == np.float32
    quantized = [[by_output[name].op_type == "DequantizeLinear" for name in node.input] for node in _nodes(made, "Add")]
    assert quantized == [[False, True]], "only the skip branch of a residual sum is quantized"


@pytest.mark.parametrize("target", TARGETS)
def test_layers_can_stay_in_float(
    graph: onnx.ModelProto, table: CalibrationTable, images: np.ndarray, target: str
) -> None:
    names = weighted_layers(graph)
    assert len(names) == 4
    made = calibration.quantize(graph, table, target, keep_float=names)
    kept = [node for node in made.graph.node if node.name in names]
    by_output = {node.output[0]: node for node in made.graph.node}
    assert all(by_output.get(node.input[1]) is None for node in kept), "their weights are not quantized"
    every = calibration.quantize(graph, table, target, keep_float=[node.name for node in graph.graph.node])
    assert not _nodes(every, "QuantizeLinear", "DequantizeLinear")
    assert np.allclose(_run(every, images), _run(graph, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_noise_of_every_layer(graph: onnx.ModelProto, table: CalibrationTable, images: np.ndarray, target: str) -> None:
    made = calibration.quantize(graph, table, target)
    meter = NoiseMeter(graph, made)
    meter.add({"input": images})
    found = meter.finish()
    assert {item.layer for item in found} == set(weighted_layers(graph))
    assert [item.sqnr_db for item in found] == sorted(item.sqnr_db for item in found)
    assert all(15 < item.sqnr_db < 80 for item in found)


def test_a_layer_with_outliers_in_its_weights_is_the_most_sensitive(
    graph: onnx.ModelProto, table: CalibrationTable, images: np.ndarray
) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == "third.weight":
            value = onnx.numpy_helper.to_array(tensor).copy()
            value[:, 0] *= 4000  # leaves one or two levels for the other weights of each channel
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    table = CalibrationTable.of(calibration.collect(graph, [{"input": images}]), "minmax", {})
    expected, every = _run(graph, images), {node.name for node in graph.graph.node}

    def alone(name: str) -> float:
        found = _run(calibration.quantize(graph, table, "tensorrt", keep_float=every - {name}), images)
        return float(10 * np.log10(np.square(expected).sum() / np.square(found - expected).sum()))

    sqnr_db = {name: alone(name) for name in weighted_layers(graph)}
    first, second = sorted(sqnr_db, key=sqnr_db.__getitem__)[:2]
    reading = {node.name for node in graph.graph.node if "third.weight" in node.input}
    assert first in reading and sqnr_db[first] < sqnr_db[second]


def test_layers_are_kept_in_float_until_the_result_is_sufficient() -> None:
    measured: list[frozenset[str]] = []

    def measure(keep: frozenset[str]) -> int:
        measured.append(keep)
        return 10 * len(keep)

    def missing(result: int) -> float:
        return 20 - result

    plan = choose_float_layers(["a", "b", "c"], measure, lambda result: result >= 20, missing)
    assert plan.sufficient and plan.keep_float == {"a", "b"} and plan.result == 20
    assert plan.start == 0 and [step.result for step in plan.steps] == [10, 20]
    assert measured == [frozenset(), frozenset("a"), frozenset("ab")]
    assert not choose_float_layers(["a"], measure, lambda result: result >= 20, missing).sufficient

    def together(keep: frozenset[str]) -> float:
        """Each of two neighbors makes it worse alone."""
        return 10.0 - len(keep & {"b", "c"}) + 15.0 * ({"b", "c"} <= keep)

    pairs = [("a", "b"), ("b", "c"), ("c", "d")]
    plan = choose_float_layers(["b", "c"], together, lambda result: result >= 20, missing, pairs)
    assert plan.sufficient and [step.layer for step in plan.steps] == ["b", "c"] and plan.result == 23
    assert not choose_float_layers(["b", "c"], together, lambda result: result >= 20, missing).sufficient
    assert choose_float_layers(["a"], measure, lambda result: True, missing).steps == ()


def test_a_layer_that_makes_things_worse_in_float_is_quantized_again() -> None:
    gains = {"a": -7, "b": 12, "c": -1, "d": 9}

    def measure(keep: frozenset[str]) -> int:
        return sum(gains[name] for name in keep)

    plan = choose_float_layers([*gains], measure, lambda result: result >= 20, lambda result: 20 - result)
    assert plan.sufficient and plan.keep_float == {"b", "d"} and plan.result == 21


def test_a_table_can_be_saved_and_names_what_changed(table: CalibrationTable, tmp_path: Path) -> None:
    again = CalibrationTable.from_json(table.to_json(), tmp_path)
    assert again == CalibrationTable.from_json(again.to_json(), tmp_path)
    assert again.tensors == table.tensors and again.shared == table.shared
    assert again.changed({"graph": "x"}) == [] and again.changed({"graph": "y", "method": "mse"}) == ["graph", "method"]
    text = table.to_json()
    first = next(iter(table.tensors.values())).asymmetric[1]
    broken = ["", "[]", "{}", '{"schema": 9}', text.replace('"schema": 2', '"schema": 9'), "{" * 9999]
    broken += [text.replace('"low"', '"lo"'), text.replace(str(first), "NaN"), text.replace(str(first), "-1e9")]
    for text in broken:
        with pytest.raises(ArtifactError, match=tmp_path.name):
            CalibrationTable.from_json(text, tmp_path)


def test_unknown_names_are_refused_with_suggestions(
    graph: onnx.ModelProto, table: CalibrationTable, images: np.ndarray
) -> None:
    with pytest.raises(UnknownNameError, match="tensort") as refused:
        calibration.quantize(graph, table, "tensort")
    assert "tensorrt" in refused.value.suggestions
    with pytest.raises(UnknownNameError, match="entropie") as refused:
        CalibrationTable.of(calibration.collect(graph, [{"input": images}]), "entropie", {})
    assert "entropy" in refused.value.suggestions


def test_a_sum_of_different_shapes_stays_in_float_for_openvino(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        onnx.helper.make_node("Add", ["c", "p"], ["s"], "stretched"),
        onnx.helper.make_node("Conv", ["s", "v"], ["t"], "last"),
        onnx.helper.make_node("Add", ["t", "s"], ["y"], "equal"),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)), "v": rng.normal(size=(8, 8, 1, 1))}
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    prepared = calibration.prepare(path)
    feeds = [{"x": rng.normal(size=(4, 3, 8, 8)).astype(np.float32)}]
    table = CalibrationTable.of(calibration.collect(prepared, feeds), "minmax", {})
    made = calibration.quantize(prepared, table, "openvino")
    computed = {name: node for node in made.graph.node for name in node.output}
    inputs = {
        node.name: {computed[name].op_type for name in node.input} for node in made.graph.node if node.op_type == "Add"
    }
    assert inputs["equal"] == {"DequantizeLinear"} and "GlobalAveragePool" in inputs["stretched"]
