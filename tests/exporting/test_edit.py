"""``deploy edit``: each edit on small graphs, a failure that is kept, and bad input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import deploy
from deploy import EditReport
from deploy.core.errors import ArtifactError, ExportError, ModelError, UsageError
from tests.conftest import Ran

Run = Callable[..., Ran]

Array = np.ndarray[Any, Any]
Edit = Callable[..., EditReport]
RNG = np.random.default_rng(0)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any] | None],
    weights: Mapping[str, Array],
    **options: Any,
) -> Path:
    """Write a graph of float32 tensors."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path), **options)
    return path


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A convolution whose batch is fixed to 1, also in the shape of a Reshape; two outputs; a constant to fold."""
    make = helper.make_node
    nodes = [
        make("Add", ["half", "half"], ["bias"], name="twice"),
        make("Conv", ["x", "kernel", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], name="relu"),
        make("Reshape", ["r", "shape"], ["flat"], name="flatten"),
        make("Gemm", ["flat", "weight"], ["y"], name="fc"),
        make("Sigmoid", ["flat"], ["z"], name="gate"),
    ]
    weights = {"half": floats(4), "kernel": floats(4, 3, 3, 3), "shape": np.array([1, -1]), "weight": floats(100, 5)}
    return save(tmp_path / "net.onnx", nodes, {"x": [1, 3, 5, 5]}, {"y": [1, 5], "z": [1, 100]}, weights)


@pytest.fixture
def edit(store: Path) -> Edit:
    def run(file: Path, **options: Any) -> EditReport:
        return deploy.edit(file, artifacts=store, probes="quick", **options)

    return run


def outputs(path: Path, **feeds: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True))


def details(report: EditReport) -> dict[str, str]:
    return {change.edit: change.detail for change in report.changes}


def test_a_fixed_batch_becomes_dynamic_and_the_check_can_be_repeated(
    network: Path, edit: Edit, run: Callable[..., Any]
) -> None:
    report = edit(network, batch="dynamic", fold=True, fp16_io=True, rename={"x": "image", "y": "logits"})
    assert report.verdict == "pass"
    assert set(report.parity.dynamic["batch"]) >= {1, 2, 3, 5}
    assert "flatten" in details(report)["batch"]
    fold = next(change for change in report.changes if change.edit == "fold")
    assert fold.nodes_after == fold.nodes_before - 1
    manifest = report.artifact.manifest
    assert [spec.shape for spec in manifest.outputs] == [("batch", 5), ("batch", 100)]
    assert [(spec.name, spec.dtype) for spec in manifest.inputs] == [("image", "float16")]
    assert [spec.name for spec in manifest.outputs] == ["logits", "z"]

    image = floats(4, 3, 5, 5).astype(np.float16)
    result = outputs(report.artifact.path, image=image)
    for row in range(4):
        expected = outputs(network, x=image[row : row + 1].astype(np.float32))
        np.testing.assert_allclose(result["logits"][row], expected["y"][0], rtol=2e-3, atol=2e-3)

    checked = run("check", report.artifact.path, "--probes", "quick")
    assert checked.code == 0, checked.err


def test_float16_outputs_of_a_graph_that_decides_by_its_inputs(tmp_path: Path, edit: Edit) -> None:
    """Its own run in float32 is observed in a mode, and must round its outputs there, too."""
    make = helper.make_node
    nodes = [
        make("Clip", ["x", "low", "high"], ["clipped"]),
        make("Cast", ["clipped"], ["token"], to=TensorProto.INT64),
        make("Gather", ["table", "token"], ["embedded"]),
        make("ReduceMean", ["embedded"], ["mean"], axes=[1], keepdims=0),
        make("MatMul", ["mean", "weight"], ["scores"]),
        make("Softmax", ["scores"], ["y"]),
    ]
    weights = {"table": floats(8, 16), "weight": floats(16, 10), "low": np.float32(0), "high": np.float32(7)}
    file = save(tmp_path / "net.onnx", nodes, {"x": ["batch", 6]}, {"y": ["batch", 10]}, weights)
    assert edit(file, fp16_io=True).verdict == "pass"


def test_what_looks_at_other_samples_is_rejected_with_the_node(tmp_path: Path, edit: Edit) -> None:
    make = helper.make_node
    nodes = [
        make("Tanh", ["x"], ["t"], name="tanh"),
        make("ReduceMean", ["t"], ["m"], name="mean", axes=[0], keepdims=1),
        make("Sub", ["t", "m"], ["d"], name="minus"),
        make("Gemm", ["d", "weight"], ["y"], name="fc"),
    ]
    path = save(tmp_path / "mean.onnx", nodes, {"x": [2, 8]}, {"y": [2, 5]}, {"weight": floats(8, 5)})
    report = edit(path, batch="dynamic")
    assert report.verdict == "fail"
    assert report.artifact.path.parent.name == "rejected"
    assert report.location is not None and report.location.node == "mean"
    assert report.artifact.manifest.options["location"]["node"] == "mean"
    assert not (report.artifact.path.parent.parent / report.artifact.path.name).exists()


def test_a_constant_of_every_sample_is_rejected_with_the_node(
    tmp_path: Path, store: Path, run: Callable[..., Any]
) -> None:
    nodes = [helper.make_node("Add", ["x", "rows"], ["y"], name="add")]
    path = save(tmp_path / "rows.onnx", nodes, {"x": [2, 4]}, {"y": [2, 4]}, {"rows": floats(2, 4)})
    done = run("edit", path, "--batch", "dynamic", "--probes", "quick")
    assert done.code == 3
    assert "add (Add)" in done.out
    assert (store / "rows.edited" / "rejected" / "rows.edited.fp32.onnx").is_file()


class Attention(torch.nn.Module):
    """Joins the samples with the heads, with the positions, and a token of its own with each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 16))
        self.attention = torch.nn.MultiheadAttention(16, 4)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).transpose(0, 1)
        return self.head(self.attention(y, y, y, need_weights=False)[0]).transpose(0, 1)


class Recurrent(torch.nn.Module):
    """States of zeros, of the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 7, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "shape"), [(Attention, (1, 5, 16)), (Attention, (2, 5, 16)), (Recurrent, (3, 5, 6))]
)
def test_samples_are_followed_through_axes_that_are_joined(
    module: Callable[[], torch.nn.Module], shape: tuple[int, ...], tmp_path: Path, edit: Edit
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "torch.onnx"
    torch.onnx.export(module().eval(), (torch.randn(shape),), str(path), dynamo=False, opset_version=17)
    report = edit(path, batch="dynamic")
    assert report.verdict == "pass"
    assert report.parity.dynamic["batch"] == (1, 2, 3, 5)


def test_a_graph_is_cut_at_inner_tensors(network: Path, edit: Edit) -> None:
    report = edit(network, cut_inputs=["r"], cut_outputs=["y"], batch=3)
    assert report.verdict == "pass"
    (given,), (result,) = report.artifact.manifest.inputs, report.artifact.manifest.outputs
    assert (given.name, given.shape, result.name, result.shape) == ("r", (3, 4, 5, 5), "y", (3, 5))
    assert report.parity.outputs and {item.output for item in report.parity.outputs} == {"y"}
    assert len(onnx.load(report.artifact.path).graph.node) == 2


def test_outputs_change_places_and_names_are_stripped(network: Path, edit: Edit) -> None:
    report = edit(network, rename={"y": "z", "z": "y"}, strip_names=True, opset=20)
    assert report.verdict == "pass"
    assert (report.opset_before, report.opset_after) == (17, 20)
    image = floats(1, 3, 5, 5)
    before, after = outputs(network, x=image), outputs(report.artifact.path, x=image)
    np.testing.assert_allclose(after["z"], before["y"], rtol=1e-5)
    data = report.artifact.path.read_bytes()
    assert not any(name in data for name in (b"flatten", b"kernel", b"relu"))


def test_external_data_stays_external_and_the_manifest_stays(network: Path, edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(network), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    report = edit(path, batch=1, fold=True)
    assert report.verdict == "pass", report.parity.reasons
    assert details(report)["batch"] == "nothing to change"
    names = [payload.file for payload in report.artifact.manifest.files]
    assert names == ["external.edited.fp32.onnx", "external.edited.fp32.onnx.data"]
    assert edit(report.artifact.path, opset=18).artifact.path.name == "external.edited.edited.fp32.onnx"


def test_outputs_with_numbers_for_names_are_found(tmp_path: Path, edit: Edit) -> None:
    nodes = [helper.make_node("Tanh", ["0"], ["33"]), helper.make_node("Neg", ["33"], ["4.x"])]
    path = save(tmp_path / "numbers.onnx", nodes, {"0": ["n", 4]}, {"33": ["n", 4], "4.x": ["n", 4]}, {})
    report = edit(path, batch=2)
    assert report.verdict == "pass"
    assert [spec.shape for spec in report.artifact.manifest.outputs] == [(2, 4), (2, 4)]


def test_onnxslim_simplifies(network: Path, edit: Edit) -> None:
    pytest.importorskip("onnxslim")
    report = edit(network, simplify=True)
    assert report.verdict == "pass"
    (change,) = report.changes
    assert change.nodes_after < change.nodes_before


def test_labels_and_preprocessing_of_an_export_are_kept(store: Path, edit: Edit) -> None:
    exported = deploy.export_model("zoo/lenet5", artifacts=store, strategy="trace", probes="quick").artifact
    manifest = edit(exported.path, batch=2).artifact.manifest
    before = exported.manifest
    assert (manifest.labels, manifest.preprocessing) == (before.labels, before.preprocessing)
    assert (manifest.weights, manifest.parent) == (before.weights, before.digest)
    assert [spec.shape[0] for spec in (*manifest.inputs, *manifest.outputs)] == [2, 2]


BAD: list[tuple[type[Exception], dict[str, Any]]] = [
    (UsageError, {}),
    (UsageError, {"batch": 0}),
    (UsageError, {"rename": {"nothing": "y"}}),
    (UsageError, {"rename": {"y": "flat"}}),
    (UsageError, {"rename": {"y": "x1", "z": "x1"}}),
    (UsageError, {"cut_inputs": ["r"], "cut_outputs": ["r"]}),
    (ModelError, {"cut_outputs": ["nothing"]}),
    (ModelError, {"cut_inputs": ["flat"], "cut_outputs": ["r"]}),
    (ExportError, {"opset": 7}),
]


@pytest.mark.parametrize(("error", "options"), BAD)
def test_bad_edits_are_refused(
    error: type[Exception], options: dict[str, Any], network: Path, edit: Edit, store: Path
) -> None:
    with pytest.raises(error):
        edit(network, **options)
    assert not list(store.rglob("*.onnx"))


def test_files_that_cannot_be_edited_are_refused(tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(ArtifactError):
        edit(tmp_path / "nothing.onnx", fold=True)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x00\x01\x02")
    with pytest.raises(ArtifactError):
        edit(damaged, fold=True)
    add = [helper.make_node("Add", ["x", "s"], ["y"])]
    mixed = save(tmp_path / "mixed.onnx", add, {"x": [1, 4], "s": [4]}, {"y": [1, 4]}, {})
    with pytest.raises(UsageError):
        edit(mixed, batch="dynamic")
    total = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    scalar = save(tmp_path / "scalar.onnx", total, {"x": [1, 4]}, {"y": []}, {})
    with pytest.raises(ExportError):
        edit(scalar, batch="dynamic")


def test_a_folder_holds_one_file(network: Path, edit: Edit, tmp_path: Path) -> None:
    other = tmp_path / "other" / network.name
    other.parent.mkdir()
    other.write_bytes(network.read_bytes())
    assert edit(network, strip_names=True).artifact.path.parent.name == f"{network.stem}.edited"
    with pytest.raises(UsageError, match="not made from") as refused:
        edit(other, strip_names=True)
    assert "--name" in str(refused.value.hint)
    assert edit(other, strip_names=True, name="second").artifact.path.parent.name == "second"
    assert edit(network, strip_names=True).verdict == "pass"


def test_what_cannot_be_judged_is_not_published(network: Path, edit: Edit) -> None:
    report = edit(network, strip_names=True, min_coverage=100.5)
    assert report.verdict == "inconclusive" and report.artifact.path.parent.name == "rejected"


def test_its_model_is_not_timed_as_pytorch(network: Path, edit: Edit, run: Run) -> None:
    edit(network, strip_names=True)
    done = run("bench", "net.edited", "--repetitions", "1", "--min-time", "0.01", "--json").json
    assert {row["backend"] for row in done["rows"]} == {"onnxruntime", "openvino"}
    (skipped,) = (item for item in done["skipped"] if item["backend"] == "torch")
    assert "net.onnx" in skipped["reason"]


def test_sizes_that_cannot_be_found_are_given(tmp_path: Path, edit: Edit, run: Run) -> None:
    weights = {"w": RNG.standard_normal((37, 5)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    path = save(tmp_path / "wide.onnx", nodes, {"x": ["n", "width"]}, {"y": ["n", 5]}, weights)
    refused = run("edit", str(path), "--rename", "x=image")
    assert refused.code == 2 and "--input x:n=2,width=SIZE" in refused.err
    done = run("edit", str(path), "--rename", "x=image", "--fp16-io", "--input", "x:n=2,width=37", "--json").json
    assert done["parity"]["verdict"] == "pass"
    assert done["inputs"][0]["name"] == "image" and done["inputs"][0]["dtype"] == "float16"
    assert run("check", done["file"], "--json").json["parity"]["verdict"] == "pass"  # the manifest records the sizes
    with pytest.raises(UsageError, match="--cut-inputs"):
        edit(path, cut_inputs=["m"], inputs=["x:n=2,width=37"])


def test_dimensions_without_a_name_need_not_be_equal(tmp_path: Path, edit: Edit, run: Run) -> None:
    """PaddlePaddle writes -1 for the batch and calls every open size ``?``."""
    weights = {"w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    path = save(tmp_path / "paddle.onnx", nodes, {"x": [-1, 3, "?", "?"]}, {"y": [-1, 4, 1, 1]}, weights)
    assert {"x_dim2", "x_dim3"} <= run("check", path, "--against", path, "--json").json["parity"]["dynamic"].keys()
    fixed = edit(path, batch=4)
    assert fixed.verdict == "pass"
    assert fixed.artifact.manifest.inputs[0].shape == (4, 3, "x_dim2", "x_dim3")
    opened = edit(path, batch="dynamic", name="open")
    assert opened.verdict == "pass" and opened.changes[0].detail == "nothing to change"
