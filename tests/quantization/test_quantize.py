"""`deploy quantize`, end to end, on a trained LeNet-5 and real digits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, DataError, DigestError, UnknownNameError, UsageError
from deploy.data.collection import open_dataset
from deploy.data.dataset import evenly
from deploy.evaluation.evaluate import evaluate_models
from deploy.exporting.check import check
from deploy.exporting.export import export_model
from deploy.quantization.quantize import QuantizeReport, quantize
from deploy.tools.verify import verify
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


def make(artifacts: Path, model: str | None = None, **changes: Any) -> QuantizeReport:
    return quantize(model, **{"calib": "digits", "artifacts": artifacts, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as class folders of PNG files."""
    root = tmp_path_factory.mktemp("images")
    digits = open_dataset("digits", split="train")
    for index in range(60):
        label = int(digits.labeled()[index])
        (root / str(label)).mkdir(exist_ok=True)
        picture = np.asarray(digits.images[index])[:, :, 0]
        scaled = picture if picture.dtype == np.uint8 else (picture * 255).astype(np.uint8)
        Image.fromarray(scaled).resize((32, 32)).save(root / str(label) / f"{index}.png")
    return root


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_a_file_for_each_target_with_its_evidence(artifacts: Path, target: str) -> None:
    report = make(artifacts, target=target)
    manifest = report.artifact.manifest
    assert report.artifact.path.name == f"lenet5.int8-{target}.onnx"
    assert report.verdict == "measured" and manifest.precision == "int8" and manifest.target == target
    parent = Artifact.open(artifacts / "lenet5" / "lenet5.fp32.onnx").manifest
    assert manifest.parent == parent.files[0].sha256 and manifest.preprocessing == parent.preprocessing
    assert manifest.files[0].bytes < parent.files[0].bytes / 3
    (output,) = report.evidence.outputs
    assert output.sqnr_db is not None and output.sqnr_db > 25 and output.agreement is not None
    assert report.evidence.drop is not None and report.evidence.drop <= 0.6
    assert report.data.apart and report.data.evidence.count == 359 and report.table.samples == 128
    assert manifest.parity is not None and manifest.parity["outputs"][0]["samples"] == 359
    assert len(report.worst) == 5 and report.worst[0].sqnr_db <= report.worst[-1].sqnr_db
    assert "simulated" in report.evidence.runtime or target != "tensorrt"
    assert not verify(artifacts).problems
    json.dumps(report.to_dict())


def test_what_was_tried_depends_on_the_effort_and_only_what_helps_is_kept(artifacts: Path) -> None:
    reports = {effort: make(artifacts, effort=effort) for effort in ("low", "medium", "high")}
    assert [len(report.tried) for report in reports.values()] == [0, 1, 2]
    assert not reports["low"].scaled
    for effort, report in reports.items():
        options = report.artifact.manifest.options
        assert options["effort"] == effort and len(options["tried"]) == len(report.tried)
        assert ("--effort" in options["rebuild"]) == (effort != "medium")
        assert sum(item.kept for item in report.tried) <= 1
        for item in report.tried:
            assert item.before_db is not None and item.after_db is not None and item.layers
            assert item.after_db > item.before_db or not item.kept
    with pytest.raises(UnknownNameError, match="hihg") as refused:
        make(artifacts, effort="hihg")
    assert "high" in refused.value.suggestions


def test_one_calibration_serves_all_targets(artifacts: Path) -> None:
    first = make(artifacts)
    listener = Listener()
    second = make(artifacts, target="tensorrt", progress=listener)
    assert not first.reused and second.reused and second.table == first.table


def test_a_damaged_table_is_computed_again(artifacts: Path) -> None:
    table = make(artifacts).table
    path = artifacts / "lenet5" / "lenet5.calibration.json"
    text = path.read_text()
    path.write_text(text.replace('"samples": 128', '"samples": 127'))
    again = make(artifacts)
    assert not again.reused and again.table == table and path.read_text() == text


def test_the_same_twice_gives_the_same_bytes(artifacts: Path) -> None:
    path = make(artifacts).artifact.path
    first = path.read_bytes()
    (artifacts / "lenet5" / "lenet5.calibration.json").unlink()
    assert make(artifacts).artifact.path.read_bytes() == first


def test_int8_with_fp16_for_tensorrt(artifacts: Path) -> None:
    with pytest.raises(UsageError, match="--fp16"):
        make(artifacts, fp16=True)
    with pytest.raises(UsageError, match=r"lenet5\.fp32\.onnx.*--fp16.*19") as refused:
        make(artifacts, target="tensorrt", fp16=True)
    assert refused.value.hint == "deploy export zoo/lenet5 --opset 20"
    export_model("lenet5", artifacts=artifacts, opset=20, strategy="export")
    report = make(artifacts, target="tensorrt", fp16=True)
    assert report.artifact.path.name == "lenet5.int8-fp16-tensorrt.onnx"
    graph = onnx.load(str(report.artifact.path)).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.INT8 in kinds
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert report.evidence.sqnr_db is not None and report.evidence.sqnr_db > 25


def test_layers_are_kept_in_float_until_a_bound_is_met(artifacts: Path) -> None:
    free = make(artifacts)
    reached = free.evidence.sqnr_db
    assert reached is not None
    report = make(artifacts, min_sqnr=reached + 1.5)
    assert report.verdict == "pass" and report.plan is not None and report.plan.steps
    assert report.evidence.sqnr_db is not None and report.evidence.sqnr_db >= reached + 1.5
    options = report.artifact.manifest.options
    assert options["keep_float"] == [step.layer for step in report.plan.steps]
    kept = {node.name: node for node in onnx.load(str(report.artifact.path)).graph.node}
    assert set(options["keep_float"]) <= set(kept)
    assert make(artifacts, max_drop=5.0).verdict == "pass"


def test_a_bound_that_cannot_be_met_says_what_was_reached(artifacts: Path) -> None:
    report = make(artifacts, min_sqnr=300.0)
    assert report.verdict == "fail" and report.artifact.path.parent.name == "rejected"
    (reason,) = report.reasons
    assert f"{report.evidence.sqnr_db:.1f} dB" in reason and "300 dB" in reason
    assert report.plan is not None and len(report.plan.steps) == 4, "one layer stays INT8"


def test_a_bound_on_a_graph_with_a_large_fixed_batch(artifacts: Path, tmp_path: Path) -> None:
    fixed_batch(artifacts, tmp_path / "large.onnx", 20)
    np.save(tmp_path / "ready.npy", np.random.default_rng(0).uniform(-1, 1, (60, 1, 32, 32)).astype(np.float32))
    report = make(artifacts, str(tmp_path / "large.onnx"), calib=tmp_path / "ready.npy", samples=20, min_sqnr=300.0)
    assert report.verdict == "fail" and report.plan is not None and len(report.plan.steps) == 4


def test_images_in_folders_are_prepared_for_the_model(artifacts: Path, folder: Path) -> None:
    listener = Listener()
    report = make(artifacts, calib=folder, samples=40, progress=listener)
    assert report.table.samples == 40 and report.data.evidence.count == 20 and report.data.apart
    assert report.evidence.accuracy is not None, "class folders named as the model's classes are labels"
    few = make(artifacts, calib=folder, samples=100, progress=listener)
    assert not few.data.apart and any("60" in warning and "100" in warning for warning in listener.warnings)


def test_arrays_are_fed_without_preprocessing(artifacts: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (40, 1, 32, 32)).astype(np.float32)
    np.save(tmp_path / "ready.npy", values)
    np.savez(tmp_path / "named.npz", input=values)
    one, other = (make(artifacts, calib=tmp_path / name, samples=30) for name in ("ready.npy", "named.npz"))
    assert one.table.tensors == other.table.tensors
    assert one.table.tensors["input"].low == pytest.approx(values[evenly(40, 30)].min())
    images = (np.random.default_rng(1).random((40, 8, 8, 1)) * 255).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    prepared = make(artifacts, calib=tmp_path / "images.npy", samples=30)
    assert prepared.table.tensors["input"].low >= -1 and prepared.data.calibration.summary["preprocessing"]


def fixed_batch(artifacts: Path, path: Path, size: int) -> None:
    """LeNet-5 with a fixed batch size."""
    model = onnx.load(str(artifacts / "lenet5" / "lenet5.fp32.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def test_a_fixed_batch(artifacts: Path, tmp_path: Path) -> None:
    export_model("lenet5", artifacts=artifacts, dynamic=[], strategy="trace")
    report = make(artifacts, target="tensorrt")
    assert report.data.evidence.count == 359 and report.evidence.outputs[0].samples == 359
    fixed_batch(artifacts, tmp_path / "sixteen.onnx", 16)
    values = np.random.default_rng(0).uniform(-1, 1, (40, 1, 32, 32)).astype(np.float32)
    np.save(tmp_path / "ready.npy", values)
    report = make(artifacts, str(tmp_path / "sixteen.onnx"), calib=tmp_path / "ready.npy", samples=20)
    assert report.table.samples == 16 and report.evidence.outputs[0].samples == 16, "an incomplete batch is dropped"


def test_a_file_without_a_manifest(artifacts: Path, tmp_path: Path, folder: Path) -> None:
    theirs = tmp_path / "theirs.onnx"
    shutil.copy(artifacts / "lenet5" / "lenet5.fp32.onnx", theirs)
    with pytest.raises(UsageError, match="theirs"):
        make(artifacts, str(theirs), calib=folder)
    changes = ["crop=32", "mean=0.5", "std=0.5"]
    listener = Listener()
    report = make(artifacts, str(theirs), calib=folder, samples=40, preprocess=changes, progress=listener)
    assert report.artifact.path == artifacts / "theirs" / "theirs.int8-onnxruntime.onnx"
    assert any("theirs.onnx" in note and "manifest" in note for note in listener.notes)
    session = ort.InferenceSession(str(report.artifact.path), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((3, 1, 32, 32), np.float32)})[0].shape == (3, 10)


def test_a_model_without_an_export_is_exported_first(store: Path) -> None:
    listener = Listener()
    report = make(store, "zoo/lenet", progress=listener)
    assert report.artifact.manifest.model == "zoo/lenet" and not report.artifact.manifest.weights.trained
    assert any("zoo/lenet" in note and "export" in note for note in listener.notes)
    assert Artifact.open(store / "lenet" / "lenet.fp32.onnx").manifest.parity is not None


def test_identical_and_few_samples_are_warned_of(artifacts: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "same.npy", np.ones((20, 1, 32, 32), np.float32))
    listener = Listener()
    make(artifacts, calib=tmp_path / "same.npy", samples=20, progress=listener)
    assert any("same.npy" in warning and "identical" in warning for warning in listener.warnings)
    assert any("20" in warning and "32" in warning for warning in listener.warnings)


def test_an_int8_file_is_evaluated_and_never_taken_for_an_export(artifacts: Path) -> None:
    for target in ("onnxruntime", "tensorrt"):
        make(artifacts, target=target)
    rows = evaluate_models(["lenet5"], data="digits", artifacts=artifacts).rows
    assert [row.runtime for row in rows] == ["torch", *["onnxruntime"] * 3, "simulated"]
    assert all(row.verdict in ("reference", "pass") for row in rows)
    assert check(artifacts=artifacts).parity.verdict == "pass", "the newest export is the float one"
    with pytest.raises(UsageError, match=r"int8-onnxruntime\.onnx"):
        check(onnx=artifacts / "lenet5" / "lenet5.int8-onnxruntime.onnx", artifacts=artifacts)
    with pytest.raises(ArtifactError, match=r"lenet5\.int8-onnxruntime\.onnx.*int8"):
        make(artifacts, str(artifacts / "lenet5" / "lenet5.int8-onnxruntime.onnx"))


GOOD = np.zeros((4, 1, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("values", "datum"),
    [
        (GOOD[:1], r"bad\.npy: 1 sample"),
        (GOOD[:0], "0 samples"),
        (GOOD[:, :, :9], r"\[4, 1, 9, 32\]"),
        (GOOD.astype("S1"), r"\|S1"),
        (np.where(np.arange(4)[:, None, None, None] == 2, np.nan, GOOD), r"bad\.npy: input 'input'"),
    ],
)
def test_arrays_that_cannot_be_used(artifacts: Path, tmp_path: Path, values: np.ndarray, datum: str) -> None:
    np.save(tmp_path / "bad.npy", values)
    with pytest.raises(DataError, match=datum):
        make(artifacts, calib=tmp_path / "bad.npy")
    assert not list(artifacts.rglob("*int8*")) and not list(artifacts.rglob("*calibration*"))


def test_bad_requests(artifacts: Path, tmp_path: Path, folder: Path) -> None:
    for changes, nearest in (({"target": "tensort"}, "tensorrt"), ({"method": "entropie"}, "entropy")):
        with pytest.raises(UnknownNameError) as unknown:
            make(artifacts, **changes)
        assert unknown.value.suggestions[0] == nearest
    with pytest.raises(UsageError, match="--samples 1"):
        make(artifacts, samples=1)
    with pytest.raises(UsageError, match=r"--preprocess means.*crop"):
        make(artifacts, preprocess=["means=1"])
    with pytest.raises(UsageError, match=r"--preprocess.*mean and std"):
        make(artifacts, preprocess=["mean=0.5,0.5,0.5"])
    (tmp_path / "unlabeled").mkdir()
    for index, path in enumerate(sorted(folder.rglob("*.png"))):
        shutil.copy(path, tmp_path / "unlabeled" / f"{index}.png")
    with pytest.raises(UsageError, match=r"--max-drop.*unlabeled"):
        make(artifacts, calib=tmp_path / "unlabeled", max_drop=1.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        make(artifacts, calib=tmp_path / "empty")
    (tmp_path / "unlabeled" / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"broken\.png"):
        make(artifacts, calib=tmp_path / "unlabeled")
    assert make(artifacts, calib=tmp_path / "unlabeled", skip_bad=True).verdict == "measured"


def test_a_float_export_that_was_changed_is_not_quantized(artifacts: Path) -> None:
    path = artifacts / "lenet5" / "lenet5.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DigestError):
        make(artifacts)


def test_the_command(run: Run, artifacts: Path) -> None:
    done = run("quantize", "--calib", "digits", "--report")
    assert done.code == 0, done.err
    for word in ("lenet5.int8-onnxruntime.onnx", "SQNR", "top-1", "measured", "conv2"):
        assert word in done.out
    failed = run("quantize", "lenet5", "--calib", "digits", "--min-sqnr", "300", "--json")
    assert failed.code == 3 and failed.json["verdict"] == "fail"
    assert run("quantize", "lenet5").code == 2
    unknown = run("quantize", "--calib", "digits", "--target", "trt", "--json")
    assert unknown.code == 2 and unknown.json["error"]["kind"] == "UnknownNameError"
