"""Profiles of one call: real profilers of real backends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bench.profile import Profile, profile_model
from deploy.core.errors import BackendError, UsageError
from deploy.quantization.quantize import quantize
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]


def test_a_float_file_on_every_runtime(artifacts: Path) -> None:
    found = {item.plan.cell.backend: item for item in profile_model("lenet5", threads=1, artifacts=artifacts)}
    assert set(found) == {"onnxruntime", "openvino"}
    kinds = {name: set(item.profile.by_operator()) for name, item in found.items()}
    assert "Conv" in kinds["onnxruntime"] and "Convolution" in kinds["openvino"]
    for item in found.values():
        assert item.profile.wall_ns > 0 and not item.in_float and item.before is None
        modules = {layer.module for layer in item.profile.layers if layer.operator not in ("Reorder", "ReorderOutput")}
        assert modules - {"flatten"} == {"conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3"}, (
            "of convolutions, too"
        )


@pytest.mark.slow
def test_pytorch_itself(artifacts: Path) -> None:
    (torch,) = profile_model("lenet5", backends=("torch",), threads=1, artifacts=artifacts)
    assert {"conv1", "conv2", "fc3"} <= {item.layer for item in torch.profile.layers}


@pytest.mark.slow
def test_eight_bits_beside_float(artifacts: Path) -> None:
    for target in ("onnxruntime", "openvino"):
        quantize("lenet5", calib="digits", target=target, samples=8, artifacts=artifacts)
    found = profile_model("lenet5", precision="int8", threads=1, artifacts=artifacts)
    for item in found:
        assert item.before is not None
        assert any(layer.arithmetic == "int8" for layer in item.profile.layers), item.plan.cell.backend
        in_int8 = {layer.module for layer in item.profile.layers if layer.arithmetic == "int8"}
        assert {"conv1", "conv2", "fc1"} <= in_int8, item.plan.cell.backend
        assert any("Quantize" in layer.layer for layer in item.unfused), (
            "the input is rounded by an operator of its own"
        )
        assert json.dumps(item.to_dict())


def test_cells_that_cannot_be_profiled(artifacts: Path) -> None:
    with pytest.raises(BackendError, match="no INT8 file"):
        profile_model("lenet5", precision="int8", threads=1, artifacts=artifacts)
    with pytest.raises(UsageError, match="no profiler"):
        profile_model("lenet5", backends=("torch-compile",), threads=1, artifacts=artifacts)


def test_the_command_and_its_hidden_alias(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ["lenet5", "--backends", "onnxruntime", "--threads", "1", "--json"]
    for command in (["profile"], ["bench", "--explain"]):
        (cell,) = run("-q", *command, *words).json["cells"]
        assert cell["backend"] == "onnxruntime" and "Conv" in cell["by_operator_ns"]
    shown = run("-q", "profile", *words[:-1])
    assert shown.code == 0 and "Conv" in shown.out and "conv1 (" in shown.out
    assert run("bench", "--explain").code == 2 and run("profile").code == 2


@pytest.mark.slow
def test_bfloat16_is_profiled(artifacts: Path, run: Callable[..., Ran]) -> None:
    (cell,) = run("profile", "lenet5", "--backends", "torch", "--precision", "bf16", "--json").json["cells"]
    assert cell["precision"] == "bf16" and "Conv2d" in cell["by_operator_ns"]


@pytest.mark.slow
def test_an_int8_file_is_profiled_as_what_it_is(artifacts: Path) -> None:
    quantize("lenet5", calib="digits", target="openvino", samples=8, artifacts=artifacts)
    path = str(artifacts / "lenet5" / "lenet5.int8-openvino.onnx")
    (found,) = profile_model(path, threads=1, artifacts=artifacts)
    assert (found.plan.cell.backend, found.plan.cell.precision) == ("openvino", "int8")
    with pytest.raises(UsageError, match="--precision fp32"):
        profile_model(path, precision="fp32", threads=1, artifacts=artifacts)
    with pytest.raises(UsageError, match="--calib"):
        profile_model("lenet5", calib="digits", threads=1, artifacts=artifacts)


def _item(layer: str, operator: str, ns: float, arithmetic: str = "float") -> dict[str, object]:
    return {"layer": layer, "operator": operator, "ns": ns, "arithmetic": arithmetic}


def test_a_profile_adds_up() -> None:
    nodes = [_item("a", "Conv", 60), _item("q", "QuantizeLinear", 30), _item("r", "Reorder", 6), _item("a", "Conv", 4)]
    profile = Profile.of(nodes, wall_ns=120)
    assert [item.layer for item in profile.layers] == ["a", "q", "r"]
    assert profile.by_operator() == {"Conv": 64, "QuantizeLinear": 30, "Reorder": 6}
    assert (profile.share("qdq"), profile.share("reformat")) == (0.3, 0.06)
    assert profile.to_dict()["outside_layers_ns"] == 20


def test_layers_that_became_slower_are_named_the_worst_first() -> None:
    before = Profile.of([_item("one_nchwc", "Conv", 50), _item("two", "Conv", 50), _item("three", "Gemm", 50)], 150)
    after = Profile.of(
        [_item("one_quant", "QLinearConv", 20, "int8"), _item("two", "Conv", 70), _item("three_quant", "QGemm", 90)],
        180,
    )
    assert [(item.layer, was) for item, was in after.slower_than(before)] == [("three_quant", 50), ("two", 50)]
