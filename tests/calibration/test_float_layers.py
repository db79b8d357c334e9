"""A layer that stays in float computes with float weights in the runtime's own, optimized graph."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibration
from calibration import CalibrationTable
from calibration.graph import WEIGHTED

Weights = dict[str, np.ndarray]


def build(tmp_path: Path, nodes: Sequence[onnx.NodeProto], weights: Weights, shape: Sequence[object]) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Weights of channels whose sizes differ a thousandfold, for which one scale is useless."""
    rng = np.random.default_rng(seed)
    sizes = np.logspace(-2, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (rng.normal(size=shape) * sizes / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def conv(name: str, source: str, result: str, weight: str, bias: str = "", **attributes: object) -> onnx.NodeProto:
    inputs = [source, weight, *([bias] if bias else [])]
    return helper.make_node("Conv", inputs, [result], name, **attributes)


def chain(middle: Sequence[onnx.NodeProto], weights: Weights, channels: int = 8, after: int = 8) -> tuple:
    """Layers between an integer convolution that writes ``a`` and one that reads ``b``."""
    nodes = [
        conv("first", "x", "a0", "w0", "b0"),
        helper.make_node("Relu", ["a0"], ["a"], "relu"),
        *middle,
        conv("last", "b", "y", "w9"),
    ]
    rng = np.random.default_rng(1)
    own = {
        "w0": rng.normal(size=(channels, 3, 1, 1)).astype(np.float32),
        "b0": rng.normal(size=channels).astype(np.float32),
        "w9": rng.normal(size=(4, after, 1, 1)).astype(np.float32),
    }
    return nodes, own | weights


def clip(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Clip", [source, "zero", "six"], [result], "clip")


SIX = {"zero": np.float32(0), "six": np.float32(6)}
BIAS = {"b1": np.linspace(-1, 1, 8, dtype=np.float32)}
CASES = {
    "depthwise and a clip": chain(
        [conv("middle", "a", "m", "w1", "b1", group=8, pads=[1, 1, 1, 1]), clip("m", "b")],
        {"w1": values(8, 1, 3, 3), **BIAS, **SIX},
    ),
    "no bias": chain(
        [conv("middle", "a", "m", "w1"), helper.make_node("Relu", ["m"], ["b"], "act")], {"w1": values(8, 8, 1, 1)}
    ),
    "no activation": chain([conv("middle", "a", "b", "w1", "b1")], {"w1": values(8, 8, 1, 1), **BIAS}),
    "one channel": chain(
        [conv("middle", "a", "m", "w1", "b1"), clip("m", "b")], {"w1": values(8, 1, 3, 3), **BIAS, **SIX}, channels=1
    ),
    "transposed": chain(
        [helper.make_node("ConvTranspose", ["a", "w1", "b1"], ["b"], "middle")], {"w1": values(8, 8, 2, 2), **BIAS}
    ),
    "moved before and after": chain(
        [
            helper.make_node("Transpose", ["a"], ["t"], "turn", perm=[0, 1, 3, 2]),
            conv("middle", "t", "m", "w1", "b1"),
            helper.make_node("Transpose", ["m"], ["b"], "back", perm=[0, 1, 3, 2]),
        ],
        {"w1": values(8, 8, 1, 1), **BIAS},
    ),
    "the weights of another layer": chain(
        [
            conv("other", "a", "o", "w1", "b1"),
            conv("middle", "o", "m", "w1", "b1"),
            helper.make_node("Relu", ["m"], ["b"], "act"),
        ],
        {"w1": values(8, 8, 1, 1), **BIAS},
    ),
}


def made(path: Path, images: np.ndarray, keep_float: Sequence[str]) -> onnx.ModelProto:
    graph = calibration.prepare(path)
    table = CalibrationTable.of(calibration.collect(graph, [{"x": images}]), "minmax", {})
    return calibration.quantize(graph, table, "onnxruntime", keep_float=keep_float)


def optimized(model: onnx.ModelProto, tmp_path: Path) -> onnx.ModelProto:
    """Return the graph that ONNX Runtime runs, without layouts that only this machine has."""
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "optimized.onnx")


def runs_in_float(model: onnx.ModelProto, weight: np.ndarray) -> bool:
    """Return whether a layer of a graph reads these weights unrounded."""
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in (*WEIGHTED, "FusedConv")]
    return any(np.array_equal(stored.get(node.input[1]), weight) for node in layers)


@pytest.mark.parametrize("name", CASES)
def test_float_layers_are_float_in_the_optimized_graph(name: str, tmp_path: Path) -> None:
    nodes, weights = CASES[name]
    path = build(tmp_path, nodes, weights, [3, 12, 12])
    images = np.random.default_rng(2).normal(size=(16, 3, 12, 12)).astype(np.float32)
    model = made(path, images, ["middle"])
    found = optimized(model, tmp_path)
    assert runs_in_float(found, weights["w1"])
    assert "QLinearConv" in {node.op_type for node in found.graph.node}, "the others stay in INT8"


@pytest.mark.parametrize("flattened", [True, False])
def test_a_float_linear_layer(flattened: bool, tmp_path: Path) -> None:
    weights = {"w0": values(8, 3, 1, 1), "w1": values(16, 8), "b1": np.ones(16, np.float32), "w2": values(4, 16)}
    nodes = [
        conv("first", "x", "a", "w0"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["m"], "middle", transB=1),
        helper.make_node("Relu", ["m"], ["b"], "act"),
        helper.make_node("Gemm", ["b", "w2"], ["y"], "last", transB=1),
    ]
    images = np.random.default_rng(2).normal(size=(16, 3, 6, 6)).astype(np.float32)
    model = made(build(tmp_path, nodes, weights, [3, 6, 6]), images, ["middle", *([] if flattened else ["flat"])])
    assert runs_in_float(optimized(model, tmp_path), weights["w1"])
