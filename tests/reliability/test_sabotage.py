"""The parity check catches every faulty export and passes every correct one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy.exporting.check import check
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from exporters.half import to_half
from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]

NETS = Path(__file__).with_name("_nets.py")
CLEAN = (
    "residual", "dense", "branches", "separable", "squeeze", "shuffle", "upsampled", "attention", "chain", "gelu",
    "leaky", "group_norm", "dilated", "averaged",
)  # fmt: skip
BY_DAY = ("dense", "attention", "group_norm")
"""Networks whose half precision is judged by day; the others are judged at night."""
WAYS = {
    "export": {"strategy": "export"},
    "trace": {"strategy": "trace"},
    "half": {"strategy": "trace", "precision": "fp16"},
}
FAULTS = (
    "train mode", "channels", "normalization", "stale weights", "one stale weight", "shape of a bias", "no bias",
    "no activation", "no batch norm", "other pool", "corners", "transposed",
)  # fmt: skip


def request(name: str, **options: str) -> ModelRequest:
    return ModelRequest(name=f"{NETS}:{name}", inputs=("image:batch,3,16,16",), options=options)


def whole(folder: Path, fault: str = "") -> Path:
    """Return an export without its manifest."""
    options = {"fault": fault} if fault else {}
    made = export_model(request("whole", **options), artifacts=folder, strategy="trace")
    return Path(shutil.copyfile(made.artifact.path, folder / "theirs.onnx"))


@pytest.mark.parametrize(("name", "way"), pairs_by_day(CLEAN, WAYS, lambda name, way: way != "half" or name in BY_DAY))
def test_a_clean_export_passes(tmp_path: Path, name: str, way: str) -> None:
    report = export_model(request(name), artifacts=tmp_path, **WAYS[way])
    assert report.parity.verdict == "pass", report.parity.reasons


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(tmp_path: Path, fault: str) -> None:
    """The export of a faulty network is checked against the correct network."""
    report = check(request("whole"), onnx=whole(tmp_path, fault), artifacts=tmp_path)
    assert report.parity.verdict == "fail" and report.parity.reasons


def test_the_sound_one_is_not(tmp_path: Path) -> None:
    assert check(request("whole"), onnx=whole(tmp_path), artifacts=tmp_path).parity.verdict == "pass"


def test_half_precision_passed_off_as_single(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    to_half(whole(tmp_path), path)
    assert check(request("whole"), onnx=path, artifacts=tmp_path).parity.verdict == "fail"
    assert check(request("whole"), onnx=path, artifacts=tmp_path, precision="fp16").parity.verdict == "pass"


def test_a_batch_that_was_baked_in(tmp_path: Path) -> None:
    """The dimension has a name, but a reshape at the end contains the traced size."""
    made = export_model(request("attention"), artifacts=tmp_path, strategy="trace", dynamic=[])
    model = onnx.load(made.artifact.path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    name = model.graph.output[0].name
    next(node for node in model.graph.node if name in node.output).output[0] = "free"
    shape = np.array(made.artifact.manifest.outputs[0].shape, np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["free", "shape"], [name]))
    path = tmp_path / "theirs.onnx"
    onnx.save(model, path)
    report = check(request("attention"), onnx=path, artifacts=tmp_path)
    assert report.parity.verdict == "fail" and any("batch" in reason for reason in report.parity.reasons)
