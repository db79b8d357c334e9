"""Weights and biases in the shapes and under the names that exporters write."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibration
from calibration import CalibrationTable

TARGETS = ["onnxruntime", "openvino", "tensorrt"]
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], output, **attributes)


NETS = {
    "a bias [1, N]": ([node("MatMul", ["x", "w"], "m"), node("Add", ["m", "b"], "y")], {"b": normal(1, 8)}),
    "a bias [1]": ([node("Gemm", ["x", "w", "b"], "y")], {"b": normal(1)}),
    "a scalar bias": ([node("Gemm", ["x", "w", "b"], "y")], {"b": np.float32(0.5)}),
    "a bias of each row": ([node("Gemm", ["x", "w", "b"], "y")], {"b": normal(4, 8)}),
    "alpha and beta": ([node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=-3.0)], {"b": normal(8)}),
    "beta of a computed bias": (
        [node("Gemm", ["x", "w"], "c"), node("Gemm", ["x", "v", "c"], "y", beta=2.0)],
        {"v": normal(16, 8)},
    ),
    "one bias for two, whose copy's name is taken": (
        [node("Gemm", ["x", "w", "c"], "c0"), node("Gemm", ["x", "v", "c"], "c1"), node("Sub", ["c0", "c1"], "y")],
        {"c": normal(8), "v": normal(16, 8)},
    ),
    "one weight along two axes": (
        [node("Gemm", ["x", "q", "b"], "m"), node("Gemm", ["m", "q", "b"], "y", transB=1)],
        {"q": normal(16, 16) * np.logspace(-2, 0, 16, dtype=np.float32), "b": normal(16)},
    ),
    "names that the quantizer gives": (
        [
            node("Gemm", ["x", "w", "w_scale"], "m"),
            node("Gemm", ["m", "m_scale"], "m_DequantizeLinear_Output"),
            node("Relu", ["m_DequantizeLinear_Output"], "y"),
        ],
        {"w_scale": normal(8), "m_scale": normal(8, 8)},
    ),
    "a grouped transposed convolution": (
        [
            node("Unsqueeze", ["x", "axes"], "u"),
            node("ConvTranspose", ["u", "g", "b"], "t", group=2),
            node("Conv", ["t", "k"], "y"),
        ],
        {"axes": np.asarray([2, 3]), "g": normal(16, 2, 2, 2), "b": normal(4), "k": normal(3, 4, 1, 1)},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_the_quantized_graph_computes_the_same(name: str, target: str, tmp_path: Path) -> None:
    nodes, weights = NETS[name]
    stored = {"w": normal(16, 8), **weights}
    used = {item for item in stored if any(item in step.input for step in nodes)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(stored[item]), item) for item in sorted(used)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    batches = [{"x": np.random.default_rng(seed).normal(size=(4, 16)).astype(np.float32)} for seed in range(16)]
    prepared = calibration.prepare(path)
    table = CalibrationTable.of(calibration.collect(prepared, batches), "minmax", {})
    model = calibration.quantize(prepared, table, target)
    onnx.checker.check_model(model, full_check=True)
    settings = ort.SessionOptions()
    if target == "tensorrt":  # its eight bits on both sides saturate in the integer kernels of CPUs without VNNI
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected, found = (np.stack([item.run(None, feed)[0] for feed in batches]) for item in (whole, session))
    signal = np.square(expected - expected.mean(axis=0)).sum()
    assert 10 * np.log10(signal / np.square(expected - found).sum()) > 25
    assert any(step.op_type == "DequantizeLinear" for step in model.graph.node)
