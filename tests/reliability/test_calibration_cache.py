"""A calibration table is reused only if nothing that it depends on has changed; changes are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploy.core.artifact import Artifact, Payload, manifest_path
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.quantization.quantize import QuantizeReport, quantize
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

Change = Callable[[Path], dict[str, Any]]
"""Changes an artifacts directory and returns the changed arguments of `quantize`."""
TABLE, GRAPH = "lenet5/lenet5.calibration.json", "lenet5/lenet5.fp32.onnx"


def samples(root: Path) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 32, 32, 1), np.uint8)


def saved(root: Path, values: np.ndarray) -> dict[str, Any]:
    path = root / "data.npy"
    np.save(path, values)
    return {"calib": path}


def calibrate(root: Path, **changes: Any) -> tuple[QuantizeReport, list[str]]:
    listener = Listener()
    options = {"calib": root / "data.npy", "samples": 32, "preprocess": ["mean=0.5"], **changes}
    return quantize("lenet5", artifacts=root, progress=listener, **options), listener.notes


def vouch(path: Path) -> None:
    """A manifest that a changed file fits."""
    manifest = replace(Artifact.open(path).manifest, files=(Payload.of(path),))
    manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")


def other_weights(root: Path) -> dict[str, Any]:
    export_model(ModelRequest(name="zoo/lenet5", weights="none", seed=1), artifacts=root)
    return {}


def other_graph(root: Path) -> dict[str, Any]:
    model = onnx.load(root / GRAPH)
    model.graph.node[0].name += "_renamed"
    onnx.save(model, root / GRAPH)
    vouch(root / GRAPH)
    return {}


def other_opset(root: Path) -> dict[str, Any]:
    export_model(ModelRequest(name="zoo/lenet5", weights="none"), artifacts=root, opset=18)
    return {}


def other_version(root: Path, package: str) -> dict[str, Any]:
    """As if it had been made with an older one."""
    table = json.loads((root / TABLE).read_text())
    versions = table["key"]["versions"]
    versions[next(name for name in versions if name.startswith(package))] = "1.0"
    (root / TABLE).write_text(json.dumps(table, indent=1) + "\n")
    vouch(root / TABLE)
    return {}


CHANGES: dict[str, tuple[Change, list[str]]] = {
    "weights": (other_weights, ["graph", "weights"]),
    "graph": (other_graph, ["graph"]),
    "opset": (other_opset, ["graph", "opset"]),
    "preprocessing": (lambda root: {"preprocess": ["mean=0.4"]}, ["preprocessing"]),
    "data": (lambda root: saved(root, samples(root) // 2), ["data"]),
    "order": (lambda root: saved(root, samples(root)[::-1].copy()), ["data"]),
    "count": (lambda root: {"samples": 16}, ["samples"]),
    "method": (lambda root: {"method": "entropy"}, ["method"]),
    "runtime": (lambda root: other_version(root, "onnxruntime"), ["versions"]),
    "pillow": (lambda root: other_version(root, "pillow"), ["versions"]),
}


@pytest.fixture(scope="module")
def calibrated(lenet5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("calibrated") / "artifacts"
    shutil.copytree(lenet5, root)
    saved(root, samples(root))
    assert not calibrate(root)[0].reused
    return root


def test_nothing_changed(calibrated: Path) -> None:
    report, notes = calibrate(calibrated)
    assert report.reused and any(TABLE in note for note in notes)


@pytest.mark.parametrize("name", by_day(CHANGES, "weights", "preprocessing", "data", "method", "runtime"))
def test_one_thing_changed(calibrated: Path, store: Path, name: str) -> None:
    shutil.copytree(calibrated, store)
    change, fields = CHANGES[name]
    words = {"calib": store / "data.npy", **change(store)}
    report, notes = calibrate(store, **words)
    assert not report.reused
    (said,) = (note for note in notes if "calibrating again" in note)
    assert said.partition(": ")[2].partition(" changed since")[0].split(", ") == fields
    assert calibrate(store, **words)[0].reused


def test_weights_beside_a_file_that_somebody_else_made(lenet5: Path, store: Path) -> None:
    """The graph's file is the same to the byte; the numbers beside it are others."""
    store.mkdir()
    path, data = store / "theirs.onnx", store / "theirs.data"
    model = onnx.load(lenet5 / GRAPH)
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    saved(store, np.random.default_rng(1).random((40, 1, 32, 32), np.float32))
    options: dict[str, Any] = {"calib": store / "data.npy", "samples": 32, "artifacts": store / "artifacts"}
    assert not quantize(str(path), **options).reused
    assert quantize(str(path), **options).reused
    before, graph = np.fromfile(data, np.float32), path.read_bytes()
    (before * 0.5).tofile(data)
    assert path.read_bytes() == graph
    assert not quantize(str(path), **options).reused
