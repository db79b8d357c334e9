"""Evaluation: every artifact of a model on held-out images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deploy.core.artifact import Artifact, Payload, manifest_path
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, DataError, DigestError, UsageError
from deploy.core.model import Preprocessing
from deploy.core.store import Store
from deploy.data.collection import open_dataset
from deploy.data.preprocess import batches
from deploy.evaluation.accuracy import NO_DIFFERENCE
from deploy.evaluation.evaluate import evaluate_models
from deploy.evaluation.rows import EvaluationReport
from deploy.exporting.export import export_model
from deploy.training.train import train_model
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]


def evaluate(artifacts: Path, *models: str, **changes: Any) -> EvaluationReport:
    return evaluate_models(models, **{"data": "digits", "artifacts": artifacts, **changes})


def alter(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change an artifact and its digest, so that the file matches its manifest but not its model."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    manifest = Artifact.open(path).manifest
    beside = manifest_path(path)
    old, new = manifest.files[0], Payload.of(path)
    text = beside.read_text().replace(old.sha256, new.sha256).replace(f'"bytes": {old.bytes}', f'"bytes": {new.bytes}')
    beside.write_text(dump_checked(json.loads(text)))


def scale_last_weight(factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        last = next(item for item in model.graph.initializer if item.name.endswith("fc3.weight"))
        values = numpy_helper.to_array(last) * factor
        last.CopyFrom(numpy_helper.from_array(values.astype(np.float32), last.name))

    return change


def test_all_artifacts_are_compared_with_pytorch(trained: Path) -> None:
    report = evaluate(trained, "lenet5")
    assert report.verdict == "pass" and report.data["images"] == 359 and report.data["split"] == "test"
    torch, fp32, fp16 = report.rows
    assert [row.runtime for row in report.rows] == ["torch", "onnxruntime", "onnxruntime"]
    assert (torch.verdict, fp32.precision, fp16.precision) == ("reference", "fp32", "fp16")
    for row in (fp32, fp16):
        assert row.comparison is not None and row.comparison.verdict == NO_DIFFERENCE
        assert row.comparison.agreement >= 0.99 and abs(row.comparison.confidence_shift) < 0.01
    low, high = torch.accuracy.top1_interval
    assert low < torch.accuracy.top1 < high
    assert torch.accuracy.top5 is not None and torch.accuracy.top5 >= torch.accuracy.top1


def test_the_accuracy_equals_that_of_training(trained: Path) -> None:
    checkpoint = Artifact.open(trained / "lenet5" / "lenet5.fp32.safetensors")
    assert checkpoint.manifest.accuracy is not None and checkpoint.manifest.accuracy["top1"] > 0.9
    assert evaluate(trained, str(checkpoint.path)).rows[0].accuracy.top1 == checkpoint.manifest.accuracy["top1"]


def test_the_default_model_is_that_of_the_newest_export(trained: Path) -> None:
    listener = Listener()
    report = evaluate(trained, progress=listener)
    assert {row.model for row in report.rows} == {"zoo/lenet5"} and "lenet5.fp16.onnx" in listener.notes[0]


def test_the_batch_size_does_not_change_the_accuracy(trained: Path) -> None:
    file = trained / "lenet5" / "lenet5.fp32.onnx"
    report = evaluate(trained, str(file), batch_size=100)
    assert [row.runtime for row in report.rows] == ["torch", "onnxruntime"]
    assert report.rows[1].accuracy.top1 == evaluate(trained, str(file), batch_size=7).rows[1].accuracy.top1


def test_a_fixed_batch(artifacts: Path) -> None:
    export_model("lenet5", artifacts=artifacts, dynamic=[], strategy="trace")
    report = evaluate(artifacts, str(artifacts / "lenet5" / "lenet5.fp32.onnx"))
    assert report.rows[1].comparison is not None and report.rows[1].comparison.agreement == 1.0


def test_a_changed_file_is_not_run(artifacts: Path) -> None:
    path = artifacts / "lenet5" / "lenet5.fp16.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DigestError, match=r"lenet5\.fp16\.onnx") as caught:
        evaluate(artifacts, "lenet5")
    assert caught.value.exit_code == 3


def test_a_worse_artifact_fails(artifacts: Path) -> None:
    export = artifacts / "lenet5" / "lenet5.fp32.onnx"
    alter(export, scale_last_weight(-1))
    report = evaluate(artifacts, str(export))
    row = report.rows[1]
    assert report.verdict == row.verdict == "fail" and row.note
    assert row.comparison is not None and row.comparison.worse and row.comparison.p_value < 1e-10
    assert row.comparison.difference < -0.5
    assert evaluate(artifacts, str(export), max_drop=100).verdict == "pass"


def test_values_that_are_not_finite_fail(artifacts: Path) -> None:
    export = artifacts / "lenet5" / "lenet5.fp32.onnx"
    alter(export, scale_last_weight(float("nan")))
    row = evaluate(artifacts, str(export), max_drop=100).rows[1]
    assert (row.verdict, row.accuracy.not_finite, row.accuracy.top1) == ("fail", 359, 0.0)
    assert "359" in row.note


def test_an_export_of_other_weights_is_not_compared(artifacts: Path) -> None:
    train_model("lenet5", data="digits", artifacts=artifacts, epochs=1)
    report = evaluate(artifacts, "lenet5")
    assert report.verdict == report.rows[1].verdict == "inconclusive" and report.rows[1].note
    assert report.rows[1].comparison is None and report.rows[1].accuracy.top1 > 0.9


def test_an_export_whose_weights_have_moved_or_are_gone(artifacts: Path, trained: Path) -> None:
    export = artifacts / "lenet5" / "lenet5.fp32.onnx"
    beside = manifest_path(export)
    text = beside.read_text().replace(str(trained), str(artifacts / "nowhere"))
    beside.write_text(dump_checked(json.loads(text)))
    assert evaluate(artifacts, str(export)).verdict == "pass", "the checkpoint is found in the same folder"
    for path in (artifacts / "lenet5").glob("*.safetensors*"):
        path.unlink()
    listener = Listener()
    report = evaluate(artifacts, str(export), progress=listener)
    assert report.verdict == "inconclusive" and report.rows[0].accuracy.top1 > 0.9
    assert "lenet5.fp32.onnx" in listener.warnings[0] and "PyTorch" in listener.warnings[0]


def folder_of_digits(root: Path, count: int = 120) -> Path:
    dataset = open_dataset("digits", split="train")
    for index, label in enumerate(dataset.labeled()[:count]):
        path = root / f"digit-{label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.images[index][:, :, 0]).save(path)
    return root


def test_only_held_out_images_are_used(tmp_path: Path, store: Path) -> None:
    whole = folder_of_digits(tmp_path / "mine")
    report = train_model("lenet5", data=whole, artifacts=store, epochs=2, batch_size=16)
    listener = Listener()
    judged = evaluate(store, "lenet5", data=whole, progress=listener)
    assert judged.data["images"] == report.data["held_out"]["images"] < 30
    assert judged.rows[0].accuracy.top1 == report.accuracy["top1"]
    assert any(f"{judged.data['images']} held-out images" in note for note in listener.notes)


def test_images_used_in_training_give_a_warning(tmp_path: Path, store: Path) -> None:
    folder_of_digits(tmp_path / "mine" / "train")
    folder_of_digits(tmp_path / "mine" / "val")
    train_model("lenet5", data=tmp_path / "mine", artifacts=store, epochs=1, batch_size=16)
    listener = Listener()
    evaluate(store, "lenet5", data=tmp_path / "mine" / "train", progress=listener)
    assert len(listener.warnings) == 1 and "trained" in listener.warnings[0]


def test_classes_are_matched_by_name(tmp_path: Path, artifacts: Path) -> None:
    held_out = open_dataset("digits")
    for index, label in enumerate(held_out.labeled()):
        if label in (3, 8):
            path = tmp_path / "two" / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(held_out.images[index][:, :, 0]).save(path)
    report = evaluate(artifacts, str(artifacts / "lenet5" / "lenet5.fp32.safetensors"), data=tmp_path / "two")
    assert report.data["classes"] == 2 and report.rows[0].accuracy.top1 > 0.7


@pytest.mark.parametrize(
    ("labels", "datum"),
    [(None, "labels"), (np.arange(6) + 5, "10 outputs")],
)
def test_data_that_does_not_fit(trained: Path, tmp_path: Path, labels: np.ndarray | None, datum: str) -> None:
    members = {"images": np.zeros((6, 8, 8), np.uint8)} | ({} if labels is None else {"labels": labels})
    np.savez(tmp_path / "a.npz", **members)
    with pytest.raises(DataError, match=datum):
        evaluate(trained, "lenet5", data=tmp_path / "a.npz")


def test_another_number_of_classes(trained: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "three" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "three" / name / "1.png")
    with pytest.raises(DataError, match=r"3 classes.*zoo/lenet5.* 10 ") as caught:
        evaluate(trained, "lenet5", data=tmp_path / "three")
    assert "deploy train" in (caught.value.hint or "")


def test_mistakes(trained: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=store.name):
        evaluate(store)
    bare = tmp_path / "bare.engine"
    bare.touch()
    with pytest.raises(ArtifactError, match=r"bare\.engine"):
        evaluate(trained, str(bare))
    with pytest.raises(UsageError):
        evaluate(trained, "lenet5", batch_size=0)


def test_training_and_evaluation_prepare_images_alike(trained: Path) -> None:
    recipe = Store(trained).artifacts("lenet5")[0].manifest.preprocessing
    assert recipe == Preprocessing(crop=(32, 32), mean=(0.5,), std=(0.5,), gray=True)
    images, labels = next(batches(open_dataset("digits"), recipe, 5))
    assert images.shape == (5, 1, 32, 32) and labels is not None and images.min() >= -1 and images.max() <= 1


def test_the_command(run: Callable[..., Any], artifacts: Path) -> None:
    done = run("evaluate", "lenet5", "--data", "digits", "--json")
    assert done.code == 0 and done.json["verdict"] == "pass" and len(done.json["rows"]) == 3
    shown = run("evaluate", "--data", "digits")
    assert shown.code == 0 and NO_DIFFERENCE in shown.out and "lenet5.fp16.onnx" in shown.out
    alter(artifacts / "lenet5" / "lenet5.fp32.onnx", scale_last_weight(-1))
    assert run("evaluate", "lenet5", "--data", "digits").code == 3
    assert run("evaluate", "lenet5", "--data", "digits", "--max-drop", "x").code == 2
