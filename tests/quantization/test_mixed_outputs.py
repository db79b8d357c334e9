"""Outputs that mix kinds, such as boxes in pixels and scores up to one, keep what each of them says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.quantization.quantize import QuantizeReport, quantize
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]

RNG = np.random.default_rng(0)


def node(kind: str, inputs: Sequence[str], outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs.split(), f"{kind}_{outputs}", **attributes)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.normal(size=shape) * scale / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


TRUNK = [node("Conv", ["x", "w0"], "t0"), node("Relu", ["t0"], "t")]
HEAD = {
    "w0": normal(16, 8, 1, 1, scale=2),
    "wb": normal(4, 16, 1, 1, scale=2),
    "wc": normal(2, 16, 1, 1, scale=4),
    "stride": np.float32(150),
}
BOXES = [node("Conv", ["t", "wb"], "b0"), node("Relu", ["b0"], "b1"), node("Mul", ["b1", "stride"], "b")]
SCORES = [node("Conv", ["t", "wc"], "c0"), node("Sigmoid", ["c0"], "c")]
GRID = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(4, 1)

CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "a concatenation": ([*TRUNK, *BOXES, *SCORES, node("Concat", ["b", "c"], "y", axis=1)], HEAD),
    "scores first, moved": (
        [
            *(*TRUNK, *BOXES, *SCORES, node("Concat", ["c", "b"], "m", axis=1)),
            node("Reshape", ["m", "flat"], "r"),
            node("Transpose", ["r"], "y", perm=[0, 2, 1]),
        ],
        HEAD | {"flat": np.asarray([0, 6, 64])},
    ),
    "anchors": (
        [*TRUNK, *BOXES, *SCORES, node("Add", ["b", "grid"], "g"), node("Concat", ["g", "c"], "y", axis=1)],
        HEAD | {"grid": GRID},
    ),
    "factors of the channels": (
        [
            *(*TRUNK, node("Conv", ["t", "w6"], "m"), node("Sigmoid", ["m"], "s")),
            node("Mul", ["s", "factors"], "y"),
        ],
        HEAD
        | {
            "w6": normal(6, 16, 1, 1, scale=2),
            "factors": np.asarray([640, 640, 640, 640, 1, 1], np.float32).reshape(6, 1, 1),
        },
    ),
    "one head": (
        [
            *(*TRUNK, node("Conv", ["t", "w6"], "m"), node("Split", ["m", "sizes"], "b c0", axis=1)),
            *(node("Sigmoid", ["c0"], "c"), node("Concat", ["b", "c"], "y", axis=1)),
        ],
        HEAD
        | {
            "w6": normal(6, 16, 1, 1) * np.asarray([600, 600, 600, 600, 3, 3], np.float32).reshape(6, 1, 1, 1),
            "sizes": np.asarray([4, 2]),
        },
    ),
    "a row": (
        [
            *(*TRUNK, node("GlobalAveragePool", ["t"], "p"), node("Flatten", ["p"], "f")),
            node("Gemm", ["f", "w6"], "y"),
        ],
        HEAD | {"w6": normal(16, 6) * np.asarray([600, 600, 600, 600, 1, 1], np.float32)},
    ),
}


def save(folder: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray]) -> tuple[Path, Path]:
    """Write a model and its calibration data."""
    used = [name for name in weights if any(name in item.input for item in nodes)]
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(weights[name]), name) for name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / "net.onnx")
    np.save(folder / "data.npy", np.random.default_rng(3).normal(size=(64, 8, 8, 8)).astype(np.float32))
    return folder / "net.onnx", folder / "data.npy"


def make(folder: Path, model: Path, data: Path, **changes: Any) -> QuantizeReport:
    return quantize(str(model), calib=data, artifacts=folder / "artifacts", samples=32, **changes)


@pytest.mark.parametrize(
    ("name", "target"),
    pairs_by_day(
        CASES,
        ["onnxruntime", "openvino"],
        lambda name, target: target == "onnxruntime" or name in ("anchors", "scores first, moved"),
    ),
)
def test_every_channel_keeps_its_values(name: str, target: str, tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    report = make(tmp_path, *save(tmp_path, *CASES[name]), target=target)
    (output,) = report.evidence.outputs
    assert output.worst_part_db is not None and output.worst_part_db > 15 and not output.coarse
    made = onnx.load(report.artifact.path)
    assert any(item.op_type == "QuantizeLinear" for item in made.graph.node), "layers are still INT8"


def test_what_depends_on_no_input_is_not_rounded(tmp_path: Path) -> None:
    dynamic = [  # anchors that a runtime cannot fold, since they depend on the size of the input
        node("Shape", ["x"], "shape"),
        node("ConstantOfShape", ["shape"], "zeros", value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("Conv", ["zeros", "wg"], "z"),
        node("Mul", ["z", "stride"], "anchors"),
        *(*TRUNK, *BOXES, node("Add", ["b", "anchors"], "g"), node("Conv", ["g", "wl"], "y")),
    ]
    weights = HEAD | {"wg": normal(4, 8, 1, 1), "wl": normal(3, 4, 1, 1)}
    report = make(tmp_path, *save(tmp_path, dynamic, weights))
    made = onnx.load(report.artifact.path)
    rounded = {item.input[0] for item in made.graph.node if item.op_type == "QuantizeLinear"}
    assert not rounded & {"zeros", "z", "anchors"} and rounded & {"x", "t"}


def test_outputs_of_one_kind_are_still_rounded(tmp_path: Path) -> None:
    nodes = [
        *TRUNK,
        node("Conv", ["t", "wb"], "m"),
        node("Sigmoid", ["m"], "s"),
        node("Concat", ["s", "s"], "y", axis=1),
    ]
    report = make(tmp_path, *save(tmp_path, nodes, HEAD))
    made = ort.InferenceSession(report.artifact.path, providers=["CPUExecutionProvider"])
    found = made.run(None, {"x": np.load(tmp_path / "data.npy")})[0]
    assert len(np.unique(found)) <= 256


def test_the_command(tmp_path: Path, run: Callable[..., Ran]) -> None:
    model, data = save(tmp_path, *CASES["a concatenation"])
    done = run("quantize", str(model), "--calib", str(data), "--json")
    assert done.code == 0 and set(done.json["options"]["float_tail"]) >= {"Concat_y", "Sigmoid_c"}
