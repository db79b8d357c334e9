"""Scores too close to 0 or 1 to be compared are judged by what is in front of the final sigmoid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import deploy
from deploy.parity.verdict import ParityReport

SIGMOID_INPUT = "← Sigmoid input"


def scores(path: Path, *tail: onnx.NodeProto, low: float = -18.0) -> Path:
    """Write a network of two convolutions with values around ``low`` in ``z``, others in ``a``, and ``tail``."""
    rng = np.random.default_rng(3)
    weights = {
        "first": rng.standard_normal((6, 3, 3, 3)) * 0.3,
        "second": rng.standard_normal((4, 6, 3, 3)) * 0.05,
        "bias": np.full(4, low),
        "two": np.array(2.0),
        "zero": np.array(0.0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], "one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "second", "bias"], ["z"], "head", pads=[1, 1, 1, 1]),
        *tail,
    ]
    outputs = [name for name in ("y", "p") if any(name in node.output for node in tail)]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


def sigmoid(result: str = "y", of: str = "z") -> onnx.NodeProto:
    return helper.make_node("Sigmoid", [of], [result], f"sigmoid_{result}")


CONCAT = (sigmoid("s"), helper.make_node("Concat", ["a", "s"], ["y"], "concat", axis=1))
MOVED = (
    sigmoid("s"),
    helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 3, 1]),
    helper.make_node("Identity", ["t"], ["y"]),
)


def changed(path: Path, name: str, factor: float) -> Path:
    """Write a copy in which all values of a weight are multiplied by a factor."""
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        if item.name == name:
            values = numpy_helper.to_array(item)
            item.CopyFrom(numpy_helper.from_array(values * values.dtype.type(factor), name))
    target = path.with_name("changed.onnx")
    onnx.save(model, str(target))
    return target


def replaced(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Write a copy in which ``nodes`` are in the place of the sigmoid."""
    model = onnx.load(str(path))
    kept = [node for node in model.graph.node if node.op_type != "Sigmoid"]
    del model.graph.node[:]
    model.graph.node.extend([*kept[:3], *nodes, *kept[3:]])
    target = path.with_name("replaced.onnx")
    onnx.save(model, str(target))
    return target


def judged(new: Path, old: Path) -> ParityReport:
    return deploy.check(str(old), onnx=new, probes="quick").parity


@pytest.mark.parametrize(
    ("tail", "low"),
    [
        ((sigmoid(),), -18.0),  # below the rounding of a sum with 1
        pytest.param((sigmoid(),), 30.0, marks=pytest.mark.slow),  # 1 in float32
        ((sigmoid(),), -1000.0),  # 0 in float64, too
        pytest.param(MOVED, -18.0, marks=pytest.mark.slow),
        (CONCAT, -18.0),  # the channels were left out
        pytest.param((sigmoid(), sigmoid("p", "a")), -18.0, marks=pytest.mark.slow),
    ],
    ids=["low", "high", "underflow", "moved", "beside others", "two"],
)
def test_scores_without_digits_are_judged_by_what_is_before(
    tmp_path: Path, tail: tuple[onnx.NodeProto, ...], low: float
) -> None:
    old = scores(tmp_path / "old.onnx", *tail, low=low)
    parity = judged(old, old)
    assert (parity.verdict, parity.reasons) == ("pass", ())
    assert any(item.output == f"y {SIGMOID_INPUT}" for item in parity.outputs)
    assert any("before the final sigmoid" in note for note in parity.notes)
    assert not any("left out" in note for note in parity.notes)
    for name, factor in (("bias", 1.0001), ("second", 1.001)):
        parity = judged(changed(old, name, factor), old)
        assert parity.verdict == "fail", name
        assert any(f"y {SIGMOID_INPUT}" in reason for reason in parity.reasons), parity.reasons


def test_external_data_of_one_name(tmp_path: Path) -> None:
    """The weights of both files are beside them, in files of one name."""
    plain = scores(tmp_path / "plain.onnx", sigmoid())
    found = []
    for name, source in (("old", plain), ("new", changed(plain, "second", 1.001))):
        (tmp_path / name).mkdir()
        found.append(tmp_path / name / "model.onnx")
        model = onnx.load(str(source))
        onnx.save(model, str(found[-1]), save_as_external_data=True, location="weights.bin", size_threshold=0)
    old, new = found
    assert judged(old, old).verdict == "pass"
    assert judged(new, old).verdict == "fail"


def test_a_file_of_doubles(tmp_path: Path) -> None:
    old, weight = tmp_path / "old.onnx", np.random.default_rng(3).standard_normal((5, 4))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "second"], ["m"]),
            helper.make_node("Add", ["m", "bias"], ["z"]),
            sigmoid(),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["batch", 4])],
        [numpy_helper.from_array(weight, "second"), numpy_helper.from_array(np.full(4, -40.0), "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(old))
    parity = judged(old, old)
    assert parity.verdict == "pass" and any(SIGMOID_INPUT in item.output for item in parity.outputs)
    assert judged(changed(old, "second", 1 + 1e-9), old).verdict == "fail"


@pytest.mark.parametrize(
    "nodes",
    [
        (sigmoid("s"), helper.make_node("Mul", ["s", "zero"], ["y"])),
        (sigmoid("s"), helper.make_node("Mul", ["s", "two"], ["y"])),
        (helper.make_node("HardSigmoid", ["z"], ["y"]),),
        (helper.make_node("Exp", ["z"], ["y"]),),
        (helper.make_node("Identity", ["z"], ["y"]),),
        (helper.make_node("Neg", ["z"], ["n"]), sigmoid("y", "n")),
    ],
    ids=["times 0", "times 2", "hard", "exp", "none", "negated"],
)
def test_another_end_of_the_graph_never_passes(tmp_path: Path, nodes: tuple[onnx.NodeProto, ...]) -> None:
    old = scores(tmp_path / "old.onnx", sigmoid())
    assert judged(replaced(old, *nodes), old).verdict in ("fail", "inconclusive")
    new = scores(tmp_path / "new.onnx", *nodes)
    assert judged(old, new).verdict in ("fail", "inconclusive"), "the other way round"


def test_a_sigmoid_that_something_else_reads_is_not_final(tmp_path: Path) -> None:
    tail = (sigmoid("y"), helper.make_node("ReduceMean", ["y"], ["p"], keepdims=1))
    old = scores(tmp_path / "used.onnx", *tail)
    parity = judged(old, old)
    assert parity.verdict == "inconclusive" and not any(SIGMOID_INPUT in item.output for item in parity.outputs)


class Heads(nn.Module):
    """A detection head: boxes, and scores of an untrained network with a prior of 1e-8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)
        nn.init.constant_(self.scores.bias, -18.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = nn.functional.silu(self.body(x))
        rows = torch.cat([self.boxes(features) * 64, self.scores(features).sigmoid()], 1)
        return rows.flatten(2).transpose(1, 2)


class Strided(nn.Module):
    """Conditional DETR's boxes: the sigmoid is of values in another order in memory, whose loop rounds otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.Conv2d(3, 6, 1)
        nn.init.constant_(self.boxes.bias, -20.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        boxes: torch.Tensor = self.boxes(x).flatten(2).transpose(1, 2)[:, :, 1:5].sigmoid()
        return boxes


def test_a_sigmoid_of_strided_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = deploy.export(Strided().eval(), (torch.randn(1, 3, 9, 9),), artifacts=tmp_path, probes="quick")
    assert report.parity.verdict == "pass"
    assert any(item.output == f"output {SIGMOID_INPUT}" for item in report.parity.outputs)


def test_scores_of_a_module_beside_boxes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Heads().eval()
    image = torch.randn(1, 3, 16, 16)
    with pytest.warns(UserWarning, match="UNTRAINED"):
        report = deploy.export(model, (image,), name="heads", artifacts=tmp_path, probes="quick")
    assert report.parity.verdict == "pass"
    assert any(item.output == f"output {SIGMOID_INPUT}" for item in report.parity.outputs)
    with torch.no_grad():
        model.scores.weight.mul_(1.01)
    parity = deploy.check(model, inputs=(image,), onnx=report.artifact.path, probes="quick").parity
    assert parity.verdict == "fail" and SIGMOID_INPUT in " ".join(parity.reasons)
