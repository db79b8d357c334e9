"""The examples of docs/extending do what their pages say, installed as a third party would install them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
GROUPS = {
    "onnx_reference": "deploy.backends",
    "onnx_to_ort": "exporters",
    "tiny": "deploy.models.zoo",
    "three_sigma": "calibration.statistics",
}
"""Where each example is registered: the entry point's group is the package that its file could also lie in."""

Deploy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the modules, and the metadata that names their entry points."""
    folder = tmp_path_factory.mktemp("site")
    points = []
    for name, group in GROUPS.items():
        if (EXAMPLES / name).is_dir():
            shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(EXAMPLES / f"{name}.py", folder)
        points.append(f"[{group}]\n{name} = {name}\n")
    metadata = folder / "deploy_examples-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: deploy-examples\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(points))
    return folder


@pytest.fixture(scope="module")
def deploy(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """The command line in a process of its own that sees the examples; all calls share an artifacts directory."""
    here = tmp_path_factory.mktemp("work")

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments],
            cwd=here,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))},
            capture_output=True,
            text=True,
        )

    return call


@pytest.fixture(scope="module")
def exported(deploy: Deploy) -> Any:
    """The architecture of the example, exported by name."""
    done = deploy("export", "tiny", "--format", "ort", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if not path.name.startswith("_")} == set(GROUPS)


def test_the_architecture_is_listed_built_and_proven(deploy: Deploy, exported: Any) -> None:
    assert exported["model"] == "zoo/tiny" and exported["parity"]["verdict"] == "pass"
    listed = json.loads(deploy("models", "zoo/tiny", "--json").stdout)
    assert any(item["name"] == "zoo/tiny" for item in listed["models"])
    refused = deploy("export", "zoo/tiny", "-o", "depth=8")
    assert refused.returncode == 2 and "zoo/tiny has no option 'depth'; it has: width" in refused.stderr


def test_the_options_of_the_architecture_are_used(deploy: Deploy) -> None:
    def parameters(*options: str) -> int:
        done = deploy("models", "zoo/tiny", "--layers", *options, "--json")
        assert done.returncode == 0, done.stderr
        return sum(layer["parameters"] for layer in json.loads(done.stdout)["layers"])

    assert parameters() == 5_178
    assert parameters("-o", "width=8", "-o", "num_classes=3") == 9 * 8 + 2 * 8 + 9 * 8 * 16 + 2 * 16 + 17 * 3


def test_the_edge_writes_its_format_and_proves_it(deploy: Deploy, exported: Any) -> None:
    (made,) = exported["converted"]
    assert made["edge"] == "onnx_to_ort" and made["backend"] == "onnxruntime" and made["verdict"] == "pass"
    assert made["file"].endswith("tiny.fp32.ort")
    checked = deploy("verify", "artifacts/tiny")
    assert checked.returncode == 0, checked.stdout
    shown = deploy("export", "zoo/tiny", "-o", "width=8", "--format", "ort", "--precision", "fp16")
    assert shown.returncode == 0, shown.stderr
    assert "tiny.fp16.ort" in shown.stdout and "run here: pass, by onnxruntime" in shown.stdout


def test_the_backend_checks_a_file(deploy: Deploy, exported: Any) -> None:
    done = deploy("check", "zoo/lenet5", "--onnx", "nowhere.onnx", "--backend", "onnx-referenc")
    assert done.returncode == 2 and "onnx-reference" in done.stderr
    file = ("--onnx", exported["file"])
    done = deploy("check", "tiny", *file, "--backend", "onnx-reference", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["backend"] == "onnx-reference" and report["parity"]["verdict"] == "pass"
    shown = deploy("check", "tiny", *file, "--backend", "onnx-reference")
    assert "ONNX reference" in shown.stdout and "ONNX Runtime" not in shown.stdout


TIMING = ("--backends", "onnx-reference,torch", "--precision", "fp32", "--threads", "1", "--repetitions", "1")


def test_the_backend_is_timed_and_reported(deploy: Deploy, exported: Any) -> None:
    done = deploy("bench", "tiny", *TIMING, "--min-time", "0.02", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["backend"]: row for row in document["rows"]}
    assert set(rows) == {"torch", "onnx-reference"}, document["skipped"]
    row = rows["onnx-reference"]
    assert row["status"] == "timed" and row["evidence"]["verdict"] == "pass" and "onnx" in row["versions"]
    reported = deploy("report", "--json")
    assert reported.returncode == 0, reported.stderr
    assert {item["backend"] for item in json.loads(reported.stdout)["rows"]} >= {"torch", "onnx-reference"}


def test_the_backend_is_swept(deploy: Deploy, exported: Any) -> None:
    done = deploy("sweep", "tiny", *TIMING, "--min-time", "0.02", "--no-report", "--json")
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert {(cell["backend"], cell["state"]) for cell in cells} == {("torch", "timed"), ("onnx-reference", "timed")}


def test_the_statistic_calibrates(deploy: Deploy, exported: Any) -> None:
    done = deploy("quantize", "tiny", "--calib", "digits", "--method", "three_sigma", "--samples", "64", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["options"]["method"] == "three_sigma"
    refused = deploy("quantize", "tiny", "--calib", "digits", "--method", "two_sigma")
    assert refused.returncode == 2 and "three_sigma" in refused.stderr
