"""``deploy check NEW.onnx --against OLD.onnx``: the reference is a file, evaluated in float64."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import deploy
from deploy.core.backend import RunSettings
from deploy.core.errors import ArtifactError, InputSpecError, ModelError
from deploy.exporting.original import OriginalFile, original_path
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
SEED = 7


def network(path: Path, *, batch: str | int = "batch", domain: str = "") -> Path:
    """Write a small network with a convolution, a normalization, a branch of the data and a choice."""
    rng = np.random.default_rng(SEED)
    weights = {
        "conv.weight": rng.standard_normal((6, 3, 3, 3)) * 0.3,
        "norm.scale": rng.uniform(0.5, 1.5, 6),
        "norm.bias": rng.standard_normal(6) * 0.1,
        "norm.mean": rng.standard_normal(6) * 0.1,
        "norm.var": rng.uniform(0.5, 1.5, 6),
        "head.weight": rng.standard_normal((6, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["a", "norm.scale", "norm.bias", "norm.mean", "norm.var"], ["b"], "norm"
        ),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten"),
        helper.make_node("MatMul", ["e", "head.weight"], ["scores"], "head"),
        helper.make_node("ArgMax", ["scores"], ["label"], "choice", axis=1, keepdims=0),
    ]
    if domain:
        nodes.insert(0, helper.make_node("Special", ["x"], ["y"], "special", domain=domain))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, "height", "width"])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [batch]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def changed(path: Path, name: str, factor: float) -> Path:
    """Write a copy with other values of one weight."""
    model = onnx.load(str(path))
    for item in model.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(factor), name))
    target = path.with_name("changed.onnx")
    onnx.save(model, str(target))
    return target


def folded(path: Path) -> Path:
    """Write a copy whose normalization is folded into the convolution."""
    model = onnx.load(str(path))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    gain = stored["norm.scale"] / np.sqrt(stored["norm.var"] + np.float32(1e-5))
    weight = stored["conv.weight"] * gain[:, None, None, None]
    bias = stored["norm.bias"] - stored["norm.mean"] * gain
    conv, _, *rest = model.graph.node
    conv.input[:] = ["x", "w", "bias"]
    conv.output[0] = "b"
    nodes = [conv, *rest]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    kept = {"w": weight, "bias": bias, "head.weight": stored["head.weight"]}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in kept.items())
    target = path.with_name("folded.onnx")
    onnx.save(model, str(target))
    return target


def test_an_equal_file_passes_at_all_sizes(run: Run, tmp_path: Path) -> None:
    old = network(tmp_path / "old.onnx")
    done = run("check", folded(old), "--against", old, "--json")
    parity = done.json["parity"]
    assert (done.code, parity["verdict"]) == (0, "pass"), parity["reasons"]
    assert {1, 2, 3, 5} <= set(parity["dynamic"]["batch"]) and len(parity["dynamic"]["height"]) > 2
    assert parity["weights"]["counts"]["folded"] == 5 and parity["weights"]["counts"]["listed"] == 0
    assert done.json["model"] == "old.onnx"


@pytest.mark.parametrize("name", ["conv.weight", "norm.var", "head.weight"])
def test_a_changed_weight_fails_and_is_located(run: Run, tmp_path: Path, name: str) -> None:
    old = network(tmp_path / "old.onnx")
    done = run("check", changed(old, name, 1.001), "--against", old, "--locate", "--json")
    assert (done.code, done.json["parity"]["verdict"]) == (3, "fail")
    assert done.json["location"]["node"] == name.partition(".")[0]


def test_a_file_in_memory_of_python(tmp_path: Path) -> None:
    old = network(tmp_path / "old.onnx")
    assert deploy.check(str(old), onnx=old).parity.verdict == "pass"
    assert deploy.check(str(old), onnx=changed(old, "head.weight", -1.0)).parity.verdict == "fail"


def test_constants_may_be_infinite(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Greater", ["x", "zero"], ["positive"], "greater"),
            helper.make_node("Where", ["positive", "x", "least"], ["masked"], "mask"),
            helper.make_node("Softmax", ["masked"], ["y"], "softmax", axis=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 24])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in (("zero", 0.0), ("least", -np.inf))],
    )
    path = tmp_path / "masked.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    assert deploy.check(str(path), onnx=path, accept_unreached=True).parity.verdict == "pass"


def test_sizes_can_be_given(run: Run, tmp_path: Path) -> None:
    old = network(tmp_path / "old.onnx", batch=1)
    done = run("check", old, "--against", old, "--input", "x:1,3,height=24,width=20", "--json")
    assert done.code == 0 and {20, 24} & set(done.json["parity"]["dynamic"]["height"])


def test_what_cannot_be_evaluated_is_named(tmp_path: Path) -> None:
    old = network(tmp_path / "old.onnx", domain="acme")
    with pytest.raises(ModelError, match=r"acme\.Special.*special"):
        deploy.check(str(old), onnx=old)


def test_sizes_that_do_not_run_are_asked_for(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7, 11])],
        [numpy_helper.from_array(np.array([-1, 7, 11]), "shape")],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    with pytest.raises(InputSpecError, match="length") as info:
        deploy.check(str(path), onnx=path)
    assert "--input" in str(info.value.hint)
    assert deploy.check(str(path), inputs="x:n=2,length=77", onnx=path).parity.verdict == "pass"


def test_huge_pictures_are_not_tried(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7, 11])],
        [numpy_helper.from_array(np.array([-1, 7, 11]), "shape")],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputSpecError, match="height, width"):
        deploy.check(str(path), onnx=path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "less than 1 GiB more"


def test_the_original_runs_by_the_names_of_the_model(tmp_path: Path) -> None:
    path = network(tmp_path / "old.onnx")
    model = resolve(ModelRequest(name=str(path), inputs=("image:batch,3,height=8,width=8",)))
    assert original_path(model) == path
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with contextlib.closing(OriginalFile(model, path, "onnxruntime", RunSettings())) as original:
        outputs = original.run({"image": image})
        assert outputs is not None and outputs["scores"].shape == (2, 4)
        assert original.run({"image": image[:, :2]}) is None, "three channels are needed"
        assert original.run({"image": image}) is not None
    path.write_bytes(b"damaged")
    with contextlib.closing(OriginalFile(model, path, "onnxruntime", RunSettings())) as original:
        assert original.run({"image": image}) is None and original.run({"image": image}) is None


def test_wrong_use(run: Run, tmp_path: Path) -> None:
    old = network(tmp_path / "old.onnx")
    assert run("check", "--against", old).code == 2
    assert run("check", "zoo/lenet5", "--onnx", old, "--against", old).code == 2
    with pytest.raises(ArtifactError):
        deploy.check(str(tmp_path / "missing.onnx"), onnx=old)
    assert run("check", old, "--against", tmp_path / "missing.onnx").code == 1
    assert run("export", old).code == 2
