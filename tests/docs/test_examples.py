"""The examples of docs/extending do what their pages say, installed as a third party would install them."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import distribution

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
GROUPS = {
    "onnx_reference": "deploy.backends",
    "onnx_to_ort": "exporters",
    "shelf": "deploy.packaging.targets",
    "three_sigma": "calibration.statistics",
    "tiny": "deploy.models.zoo",
    "tiny_npu": "calibration.targets",
}
"""Group of the entry point of each example."""

Deploy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Deploy:
    """The command line in a process that sees the examples; all calls share an artifacts directory."""
    site = tmp_path_factory.mktemp("site")
    sources = {}
    for path in EXAMPLES.rglob("*.py"):
        inner = path.relative_to(EXAMPLES)
        (site / inner).parent.mkdir(exist_ok=True)
        sources[str(inner.with_suffix(""))] = path.read_text(encoding="utf-8")
    environment = distribution.install(site, sources, {group: {name: name} for name, group in GROUPS.items()})
    return partial(distribution.deploy, environment, artifacts)


def document_of(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(deploy: Deploy) -> Any:
    """The network of the example, exported by name."""
    return document_of(deploy("export", "tiny", "--format", "ort", "--json"))


def test_every_example_is_registered() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if not path.name.startswith("_")} == set(GROUPS)
    assert len(set(GROUPS.values())) == len(GROUPS)


def test_the_network_is_listed_exported_and_checked(deploy: Deploy, exported: Any) -> None:
    assert exported["model"] == "zoo/tiny" and exported["parity"]["verdict"] == "pass"
    listed = document_of(deploy("models", "zoo/tiny", "--json"))
    assert any(item["name"] == "zoo/tiny" for item in listed["models"])
    refused = deploy("export", "zoo/tiny", "-o", "depth=8")
    assert refused.returncode == 2 and "'depth'" in refused.stderr and "width" in refused.stderr


@pytest.mark.slow
def test_the_options_of_the_network_are_used(deploy: Deploy) -> None:
    def parameters(*options: str) -> int:
        document = document_of(deploy("models", "zoo/tiny", "--layers", *options, "--json"))
        return sum(layer["parameters"] for layer in document["layers"])

    assert parameters() == 5_178
    assert parameters("-o", "width=8", "-o", "num_classes=3") == 9 * 8 + 2 * 8 + 9 * 8 * 16 + 2 * 16 + 17 * 3


def test_the_edge_writes_its_format_and_the_file_is_checked(deploy: Deploy, exported: Any, artifacts: Path) -> None:
    (made,) = exported["converted"]
    assert made["edge"] == "onnx_to_ort" and made["backend"] == "onnxruntime" and made["verdict"] == "pass"
    assert made["file"].endswith("tiny.fp32.ort")
    checked = deploy("verify", artifacts / "tiny")
    assert checked.returncode == 0, checked.stdout
    (made,) = document_of(deploy("export", "tiny", "--format", "ort", "--precision", "fp16", "--json"))["converted"]
    assert made["file"].endswith("tiny.fp16.ort") and made["verdict"] == "pass"


def test_the_backend_checks_a_file(deploy: Deploy, exported: Any) -> None:
    unknown = deploy("check", "zoo/lenet5", "--onnx", exported["file"], "--backend", "onnx-referenc")
    assert unknown.returncode == 2 and "onnx-reference" in unknown.stderr
    file = ("--onnx", exported["file"])
    report = document_of(deploy("check", "tiny", *file, "--backend", "onnx-reference", "--json"))
    assert report["backend"] == "onnx-reference" and report["parity"]["verdict"] == "pass"
    shown = deploy("check", "tiny", *file, "--backend", "onnx-reference")
    assert "ONNX reference" in shown.stdout and "ONNX Runtime" not in shown.stdout


TIMING = ("--backends", "onnx-reference,torch", "--precision", "fp32", "--threads", "1", "--repetitions", "1")


@pytest.mark.slow
def test_the_backend_is_timed_and_reported(deploy: Deploy, exported: Any) -> None:
    document = document_of(deploy("bench", "tiny", *TIMING, "--min-time", "0.02", "--json"))
    rows = {row["backend"]: row for row in document["rows"]}
    assert set(rows) == {"torch", "onnx-reference"}, document
    row = rows["onnx-reference"]
    assert row["status"] == "timed" and row["evidence"]["verdict"] == "pass" and "onnx" in row["versions"]
    reported = document_of(deploy("report", "--json"))
    assert {item["backend"] for item in reported["rows"]} >= {"torch", "onnx-reference"}


@pytest.mark.slow
def test_the_backend_is_swept(deploy: Deploy, exported: Any) -> None:
    document = document_of(deploy("sweep", "tiny", *TIMING, "--min-time", "0.02", "--no-report", "--json"))
    cells = {(cell["backend"], cell["state"]) for cell in document["cells"]}
    assert cells == {("torch", "timed"), ("onnx-reference", "timed")}


def test_the_statistic_calibrates(deploy: Deploy, exported: Any) -> None:
    words = ("quantize", "tiny", "--calib", "digits", "--samples", "64")
    document = document_of(deploy(*words, "--method", "three_sigma", "--json"))
    assert document["options"]["method"] == "three_sigma"
    refused = deploy(*words, "--method", "two_sigma")
    assert refused.returncode == 2 and "three_sigma" in refused.stderr


def test_the_calibration_target_is_quantized_for(deploy: Deploy, exported: Any) -> None:
    words = ("quantize", "tiny", "--calib", "digits", "--samples", "64")
    document = document_of(deploy(*words, "--target", "tiny-npu", "--json"))
    assert document["target"] == "tiny-npu" and document["file"].endswith("tiny.int8-tiny-npu.onnx")
    graph = onnx.load(document["file"]).graph
    types = {item.name: item.data_type for item in graph.initializer}
    zero_points = {types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert zero_points == {onnx.TensorProto.INT8}
    refused = deploy(*words, "--target", "tiny-gpu")
    assert refused.returncode == 2 and "tiny-npu" in refused.stderr


def test_the_package_target_is_packaged_for(deploy: Deploy, exported: Any, artifacts: Path) -> None:
    words = ("package", exported["file"], "--for", "shelf", "--allow-untrained")
    report = document_of(deploy(*words, "--max-delay-ms", "2.5", "--json"))
    folder = artifacts / "packages" / "shelf"
    assert report["server"] == "shelf" and report["folder"] == str(folder)
    assert json.loads((folder / "tiny" / "settings.json").read_text())["max_delay_ms"] == 2.5
    assert (folder / "tiny" / "tiny.fp32.onnx").is_file() and deploy("verify", folder).returncode == 0
    refused = deploy(*words, "--instances", "2")
    assert refused.returncode == 2 and "--instances" in refused.stderr
