"""Branches of an If read tensors of the graph around them by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import calibration
from calibration import CalibrationTable

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(8, 3, 3, 3)).astype(np.float32),
    "w2": RNG.normal(size=(4, 8, 1, 1)).astype(np.float32),
    "zero": np.float32(0),
}


def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **attributes)


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    result = helper.make_value_info(nodes[-1].output[0], helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    return helper.make_graph(nodes, "branch", [], [result])


BRANCHES = {
    "a clipped activation and a weight": [node("Conv", ["t", "w2"], "o")],
    "what is clipped": [node("Conv", ["c", "w2"], "o")],
    "the result of a layer": [node("Identity", ["z"], "o")],
}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("name", BRANCHES)
def test_branches_read_what_they_read_in_the_float_graph(name: str, target: str, tmp_path: Path) -> None:
    other = branch(node("Neg", ["z"], "p"))
    nodes = [
        *(node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "t"), node("Conv", ["t", "w2"], "z")),
        *(node("ReduceMean", ["x"], "mean", keepdims=0), node("Greater", ["mean", "zero"], "positive")),
        node("If", ["positive"], "i", then_branch=branch(*BRANCHES[name]), else_branch=other),
        node("Add", ["i", "z"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in WEIGHTS.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    batches = [{"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(12)]
    prepared = calibration.prepare(path)
    table = CalibrationTable.of(calibration.collect(prepared, batches), "minmax", {})
    model = calibration.quantize(prepared, table, target)
    whole = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    made = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, found = (np.stack([item.run(None, feed)[0] for feed in batches]) for item in (whole, made))
    assert 10 * np.log10(np.square(expected).sum() / np.square(expected - found).sum()) > 25
