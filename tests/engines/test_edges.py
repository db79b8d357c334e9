"""`deploy export --format` with a third party's exporter."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest
import torch

import deploy
from deploy.core import registry
from deploy.core.artifact import Artifact
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
Add = Callable[..., None]


@pytest.fixture
def edge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Register ``onnx_to_toy`` as an entry point would."""

    def add(**attributes: object) -> None:
        module = ModuleType("onnx_to_toy")
        module.__dict__.update({"SUFFIX": ".toy.onnx", **attributes})
        point = {"onnx_to_toy": SimpleNamespace(load=lambda: module)}
        monkeypatch.setattr(registry, "_extras", lambda package: point if package == "exporters" else {})
        registry.names.cache_clear()

    yield add
    registry.names.cache_clear()


def copied(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes())
    path.with_name("labels.txt").write_text("none\n")


def damaged(source: Path, path: Path) -> None:
    model = onnx.load(str(source))
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.5, weight.name))
    onnx.save(model, str(path))


def export(run: Run, nets: Path, *more: str) -> Ran:
    return run("export", f"{nets}:small", "--input", "x:batch,3,8,8", "--strategy", "trace", "--format", "toy", *more)


def test_a_file_that_no_backend_runs(run: Run, nets: Path, edge: Add) -> None:
    edge(convert=copied)
    done = export(run, nets, "--json")
    assert done.code == 0, done.err
    (made,) = done.json["converted"]
    assert (made["state"], made["verdict"], made["format"]) == ("converted, not run here", None, "toy")
    artifact = Artifact.open(Path(made["file"]))
    artifact.verify()
    assert [item.file for item in artifact.manifest.files] == [artifact.path.name, "labels.txt"]
    assert artifact.manifest.parent == Artifact.open(Path(done.json["file"])).manifest.files[0].sha256
    shown = export(run, nets)
    assert "converted, not run here" in shown.out and "in 2 files" in shown.out


def test_a_file_that_fails_the_parity_check_is_rejected(run: Run, nets: Path, edge: Add) -> None:
    edge(convert=damaged, BACKEND="onnxruntime")
    done = export(run, nets, "--json")
    assert done.code == 3, done.err
    (made,) = done.json["converted"]
    assert made["verdict"] == "fail" and Path(made["file"]).parent.name == "rejected"
    assert done.json["parity"]["verdict"] == "pass", "the ONNX file is right"


def test_a_failing_exporter(run: Run, nets: Path, edge: Add) -> None:
    edge(convert=lambda source, path: 1 / 0)
    refused = export(run, nets)
    assert refused.code == 1 and "onnx_to_toy" in refused.err and "division by zero" in refused.err
    edge(convert=lambda source, path: None)
    refused = export(run, nets)
    assert refused.code == 1 and "onnx_to_toy" in refused.err and ".toy.onnx" in refused.err
    edge()
    refused = export(run, nets)
    assert refused.code == 1 and "onnx_to_toy" in refused.err and "no convert" in refused.err


def test_only_our_exporter_starts_from_a_model(run: Run, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_extras", lambda package: {"torch_to_toy": None} if package == "exporters" else {})
    registry.names.cache_clear()
    try:
        refused = export(run, nets)
    finally:
        registry.names.cache_clear()
    assert refused.code == 2 and "torch_to_toy" in refused.err


def test_another_backend_runs_the_file(run: Run, nets: Path) -> None:
    done = run("export", f"{nets}:small", "--input", "x:batch,3,8,8", "--strategy", "trace")
    assert done.code == 0, done.err
    refused = run("check", "--backend", "openvin")
    assert refused.code == 2 and "Did you mean openvino" in refused.err
    refused = run("check", "--backend", "openvino", "--locate")
    assert refused.code == 2 and "--locate" in refused.err and "openvino" in refused.err
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    checked = run("check", "--backend", "openvino")
    assert checked.code == 0, checked.err
    assert "OpenVINO" in checked.out and "ONNX Runtime" not in checked.out


@pytest.mark.parametrize(("convert", "verdict"), [(copied, "pass"), (damaged, "fail")])
def test_a_module_in_memory_is_the_reference_of_its_file(
    convert: Callable[[Path, Path], None], verdict: str, store: Path, edge: Add
) -> None:
    edge(convert=convert, BACKEND="onnxruntime")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    report = deploy.convert(module, "toy", inputs=torch.randn(2, 3, 8, 8), artifacts=store)
    assert report.export.verdict == "pass" and [item.verdict for item in report.converted] == [verdict]
