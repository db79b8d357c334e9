"""A graph that is run holds its weights once, and is freed with its last reference, not when Python collects cycles."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy.onnx_graph.graph import OnnxModule
from deploy.onnx_graph.rounded import RoundedModule
from deploy.precision.channels import channels
from deploy.precision.ranges import ranges
from deploy.support import onnx_file
from exporters.half import to_half

FEEDS = {"x": np.ones((2, 8), np.float32)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A graph of two layers, a normalization and a branch, with external data."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (8, 512)), ("v", (512, 4)), ("scale", (512,)), ("c", (2, 4)))
    ]
    weights.append(numpy_helper.from_array(rng.random(512, np.float32), "var"))
    positive = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 4])
    then, other = (
        helper.make_graph([helper.make_node(operator, ["sum", "c"], ["y"])], operator, [], [positive])
        for operator in ("Add", "Sub")
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"]),
        helper.make_node("BatchNormalization", ["hidden", "scale", "scale", "scale", "var"], ["normal"]),
        helper.make_node("MatMul", ["normal", "v"], ["sum"]),
        helper.make_node("ReduceMax", ["sum"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["flag"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["flag"], ["result"], then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("result", onnx.TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[OnnxModule]]]:
    """References to every graph that is made; cycles are not collected meanwhile."""
    found: list[weakref.ref[OnnxModule]] = []
    start = OnnxModule.__init__

    def observed(self: OnnxModule, model: onnx.ModelProto, folder: Path) -> None:
        start(self, model, folder)
        found.append(weakref.ref(self))

    monkeypatch.setattr(OnnxModule, "__init__", observed)
    gc.disable()
    yield found
    gc.enable()


def half(path: Path) -> None:
    """Convert, and run."""
    to_half(path, path.with_name("half.onnx"))
    RoundedModule(onnx_file.load(path.with_name("half.onnx")), path.parent)


@pytest.mark.parametrize("use", [lambda path: ranges(path, [FEEDS]), lambda path: channels(path, [FEEDS]), half])
def test_it_is_freed(use: Callable[[Path], object], file: Path, made: list[weakref.ref[OnnxModule]]) -> None:
    kept = use(file)
    assert len(made) == 1 and made[0]() is None
    del kept


def test_external_data_stays_out_of_the_message(file: Path) -> None:
    model = onnx_file.load(file)
    module = OnnxModule(model, file.parent)
    assert set(module.stored()) == {"w", "v", "scale", "var", "c"}
    assert not any(item.raw_data for item in model.graph.initializer)
