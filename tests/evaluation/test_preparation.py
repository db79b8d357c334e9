"""Preprocessing and class names: recorded in the manifest, the same for every row of a comparison."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.core.artifact import Artifact
from deploy.core.errors import UsageError
from deploy.evaluation.evaluate import evaluate_models
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
SOURCE = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(32, 4),
    )
"""
RECIPE = [
    "--preprocess",
    "crop=8,8",
    "--preprocess",
    "mean=0.2",
    "--preprocess",
    "std=0.3",
    "--preprocess",
    "gray=true",
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labeled images, beside the file of a factory without preprocessing and class names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(SOURCE, encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (60, 9, 9), np.uint8), labels=rng.integers(0, 4, 60))
    return tmp_path / "data.npz"


def export(run: Run, *options: str) -> Ran:
    done = run(
        "export", "nets.py:build", "--input", "image:batch,1,8,8", "--weights", "none", "--name", "net", *options
    )
    assert done.code == 0, done.err
    return done


def quantize(run: Run, data: Path, *options: str) -> Ran:
    return run("quantize", "net", "--calib", str(data), "--samples", "20", *options, "--json")


def rows(run: Run, data: Path, *options: str) -> dict[str, dict]:
    done = run("evaluate", "net", "--data", str(data), *options, "--json")
    assert done.code in (0, 3, 4), done.err
    return {f"{row['precision']} {row['runtime']}": row for row in done.json["rows"]}


def test_an_export_records_preprocessing_and_class_names(data: Path, run: Run) -> None:
    (data.parent / "names.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    export(run, *RECIPE, "--labels", "names.txt")
    manifest = Artifact.open(next(data.parent.rglob("net.fp32.onnx"))).manifest
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.preprocessing is not None and manifest.preprocessing.mean == (0.2,)
    made = quantize(run, data)
    assert made.code in (0, 4) and Artifact.open(Path(made.json["file"])).manifest.labels == manifest.labels
    found = rows(run, data)
    assert len({row["samples"] for row in found.values()}) == 1
    assert all(row["comparison"] for name, row in found.items() if "torch" not in name)


@pytest.mark.parametrize("option", [["--labels", "a,b"], ["--preprocess", "crop=9", *RECIPE[2:]]])
def test_what_does_not_fit_is_refused(option: list[str], data: Path, run: Run) -> None:
    done = run("export", "nets.py:build", "--input", "image:batch,1,8,8", "--weights", "none", *option)
    assert done.code == 2 and not [*data.parent.rglob("*.onnx")]


def test_every_row_gets_the_samples_that_a_manifest_records(data: Path, run: Run) -> None:
    export(run)
    quantize(run, data, *RECIPE)  # only this manifest has the preprocessing
    found = rows(run, data)
    assert len(found) == 3 and len({row["samples"] for row in found.values()}) == 1
    assert found["int8 onnxruntime"]["comparison"]["agreement"] > 0.8


def test_rows_on_other_samples_are_not_compared(data: Path, run: Run) -> None:
    export(run, *RECIPE)
    quantize(run, data, "--preprocess", "mean=0.9")
    found = rows(run, data)
    int8 = found["int8 onnxruntime"]
    assert int8["comparison"] is None and int8["verdict"] == "inconclusive"
    assert int8["samples"] != found["fp32 torch"]["samples"] == found["fp32 onnxruntime"]["samples"]
    alike = rows(run, data, "--preprocess", "mean=0.5")
    assert len({row["samples"] for row in alike.values()} | {int8["samples"]}) == 2
    assert alike["int8 onnxruntime"]["comparison"] is not None


def test_a_guess_is_said(data: Path, run: Run, store: Path) -> None:
    export(run)
    listener = Listener()
    evaluate_models(["net"], data=data, artifacts=store, progress=listener)
    assert any("--preprocess" in text for text in listener.warnings)
    listener = Listener()
    recipe = ["crop=8,8", "mean=0.5", "std=0.5", "gray=true"]
    evaluate_models(["net"], data=data, artifacts=store, preprocess=recipe, progress=listener)
    assert not listener.warnings


def folders(root: Path, names: dict[str, int]) -> Path:
    """Write images of one brightness for each class."""
    for name, level in names.items():
        (root / name).mkdir(parents=True)
        for index in range(6):
            Image.new("L", (8, 8), level + index).save(root / name / f"{index}.png")
    return root


@pytest.mark.parametrize("names", [("3", "1"), ("c", "a"), ("a", "b", "c", "d")])
def test_a_subset_of_the_classes(names: tuple[str, ...], data: Path, run: Run, store: Path) -> None:
    export(run, *RECIPE)
    images = folders(data.parent / "images", {name: 40 * index for index, name in enumerate(names)})
    labels = ("a", "b", "c", "d") if names[0] in "ac" else ()
    report = evaluate_models(["net"], data=images, artifacts=store, labels=labels)
    assert report.data["classes"] == len(names) and report.rows[1].comparison is not None
    made = run("quantize", "net", "--calib", str(images), "--samples", "4", "--max-drop", "100", "--json")
    assert made.code == (2 if names == ("c", "a") else 0), "the manifest has no names"
    with pytest.raises(UsageError, match="--labels"):
        evaluate_models(["net"], data=images, artifacts=store, labels=["a", "b"])
