"""Graphs whose weights are too large for one file: they are quantized and built from files with external data."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deploy.core.artifact import Artifact
from deploy.engines.build import build_engine
from deploy.engines.request import BuildRequest
from deploy.quantization.quantize import QuantizeReport, quantize
from deploy.support import onnx_file
from deploy.tools.verify import verify
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]


def run(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal([3, *value.shape[1:]]).astype(np.float32)
    result: np.ndarray = session.run(None, {value.name: x})[0]
    return result


def make(artifacts: Path, target: str) -> QuantizeReport:
    return quantize("lenet5", calib="digits", target=target, artifacts=artifacts, samples=32)


@pytest.mark.parametrize("target", by_day(("onnxruntime", "openvino", "tensorrt"), "onnxruntime"))
def test_weights_beyond_the_limit_of_one_file(artifacts: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    single = make(artifacts, target)
    expected, noise = run(single.artifact.path), single.worst
    with monkeypatch.context() as changed:
        changed.setattr(onnx_file, "SINGLE_FILE_LIMIT", 10_000)
        report = make(artifacts, target)
    path = report.artifact.path
    assert [item.file for item in report.artifact.manifest.files] == [path.name, f"{path.name}.data"]
    assert path.stat().st_size < 60_000 < path.with_name(f"{path.name}.data").stat().st_size
    assert not verify(artifacts).problems
    assert np.array_equal(run(path), expected) and report.worst == noise
    assert len(make(artifacts, target).artifact.manifest.files) == 1
    assert not path.with_name(f"{path.name}.data").exists(), "the weights of the file before"


@pytest.mark.parametrize("int8", [False, True])
def test_engines(artifacts: Path, int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    samples = artifacts.parent / "samples.npy"
    np.save(samples, np.random.default_rng(0).standard_normal((40, 1, 32, 32), dtype=np.float32))
    path = artifacts / "lenet5" / "lenet5.fp32.onnx"
    lone = artifacts.parent / "lone.onnx"
    onnx.save(onnx.load(str(path)), str(lone), save_as_external_data=True, location="weights.bin")
    monkeypatch.setattr(onnx_file, "SINGLE_FILE_LIMIT", 10_000)
    request = BuildRequest(
        model=str(lone), runtime="tensorrt-rtx", name="lone", int8=int8, calib=samples if int8 else None
    )
    built = build_engine(request, artifacts=artifacts).built
    assert sum(built.weighted.values()) == 5 and built.weight_bytes["int8" if int8 else "float"] > 60_000


def test_no_graph_is_left_behind(artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    make(artifacts, "onnxruntime")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_more_than_2_gb(tmp_path: Path) -> None:
    """Nine products whose weights, the same part of a file, take 256 MiB each in memory."""
    size, count = 8192, 9
    np.random.default_rng(0).standard_normal((size, size), dtype=np.float32).tofile(tmp_path / "weights.bin")
    stored = []
    for index in range(count):
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[size, size])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        tensor.external_data.add(key="length", value=str(4 * size * size))
        stored.append(tensor)
    stored.append(onnx.numpy_helper.from_array(np.array(size**-0.5, np.float32), "scale"))
    nodes = []
    for index in range(count):
        nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"p{index}"]))
        nodes.append(helper.make_node("Mul", [f"p{index}", "scale"], [f"x{index + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "products.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "samples.npy", np.random.default_rng(1).standard_normal((6, size), dtype=np.float32))
    report = quantize(
        tmp_path / "products.onnx", calib=tmp_path / "samples.npy", samples=4, artifacts=tmp_path / "artifacts"
    )
    assert report.evidence.sqnr_db is not None and report.evidence.sqnr_db > 20
    assert Artifact.open(report.artifact.path).manifest.files[0].bytes > count * size * size
