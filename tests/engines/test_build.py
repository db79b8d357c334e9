"""`deploy trt build` with the real builder of TensorRT for RTX, which needs no GPU."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from deploy.core.artifact import Artifact, manifest_path
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, BackendError, DigestError, ExportError, UsageError
from deploy.core.progress import SILENT, Progress
from deploy.engines.build import NOT_RUN, BuildReport, build_engine, check_precision
from deploy.engines.inspect import check_shares, inspect_engine
from deploy.engines.request import BuildRequest
from deploy.exporting.export import export_model
from deploy.support.cuda_driver import gpus
from deploy.support.engine_layers import Shares
from deploy.tools.verify import verify
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: it has wheels for Linux x86-64")

Run = Callable[..., Ran]


def build(artifacts: Path, model: str | None = None, *, progress: Progress = SILENT, **changes: Any) -> BuildReport:
    request = BuildRequest(model=model, runtime="tensorrt-rtx", **changes)
    return build_engine(request, artifacts=artifacts, progress=progress)


@pytest.mark.parametrize(
    ("options", "precision", "weighted", "width"),
    [
        ({}, "fp32", {"float": 5}, ("float", 4)),
        ({"fp16": True}, "fp16", {"half": 5}, ("half", 2)),
        ({"int8": True, "calib": "digits"}, "int8", {"int8": 5}, ("int8", 1)),
    ],
)
def test_engines_in_every_precision(
    artifacts: Path, options: dict[str, Any], precision: str, weighted: dict[str, int], width: tuple[str, int]
) -> None:
    report = build(artifacts, **options)
    manifest = report.artifact.manifest
    assert report.artifact.path.name == f"lenet5.{precision}-tensorrt-rtx.engine"
    assert manifest.format == "engine" and manifest.precision == precision and manifest.target == "tensorrt-rtx"
    assert dict(report.built.weighted) == weighted, "what the parsed network computes in"
    weights = 5 * 5 * 6 + 6 * 16 * 5 * 5 + 400 * 120 + 120 * 84 + 84 * 10
    kind, size = width
    assert weights * size <= report.built.weight_bytes[kind] <= weights * size + 4096, "and its weights, with biases"
    if not gpus():
        assert report.state == NOT_RUN and "pass" not in str(report.to_dict()["state"])
        assert manifest.parity is None, "nothing was proven of what did not run"
    parent = report.onnx.path if report.onnx else artifacts / "lenet5" / "lenet5.fp32.onnx"
    assert manifest.parent == Artifact.open(parent).manifest.digest
    assert report.profiles[0]["input"].max == (32, 1, 32, 32)
    assert not verify(artifacts).problems
    shown = inspect_engine(report.artifact.path)
    assert shown.parent_bytes and shown.to_dict()["weighted"] == weighted


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize(
    ("options", "verdict"), [({}, "pass"), ({"fp16": True}, "pass"), ({"int8": True, "calib": "digits"}, "measured")]
)
def test_engines_are_proven_on_a_gpu(artifacts: Path, runtime: str, options: dict[str, Any], verdict: str) -> None:
    pytest.importorskip(runtime.replace("-", "_"))
    report = build_engine(BuildRequest(runtime=runtime, **options), artifacts=artifacts)
    assert report.verdict == verdict and report.state == f"run here: {verdict}"
    assert report.artifact.manifest.parity and report.artifact.manifest.parity["verdict"] == verdict
    assert inspect_engine(report.artifact.path).closed is None


def test_int8_and_fp16_together(artifacts: Path) -> None:
    export_model("lenet5", artifacts=artifacts, opset=20, strategy="export")
    report = build(artifacts, int8=True, fp16=True, calib="digits")
    assert report.artifact.path.name == "lenet5.int8-fp16-tensorrt-rtx.engine"
    assert dict(report.built.weighted) == {"int8": 5}


def test_ranges_of_dimensions(artifacts: Path) -> None:
    report = build(artifacts, batch="2:4:16", shapes=("input:1x1x32x32:2x1x32x32:64x1x32x32",))
    assert report.profiles[0]["input"].max == (64, 1, 32, 32), "an input's own shapes come first"
    for changes, datum in (
        ({"batch": "8:4:16"}, "--batch 8:4:16"),
        ({"batch": "x"}, "--batch x"),
        ({"shapes": ("width:1:2:3",)}, "'width'.*batch, input"),
        ({"shapes": ("input:1x1x32x32:1x1x32:1x1x32x32",)}, "--shape input 1x1x32x32:1x1x32:1x1x32x32"),
        ({"shapes": ("input:1xx32",)}, "--shape input 1xx32"),
    ):
        with pytest.raises(UsageError, match=datum):
            build(artifacts, **changes)
    export_model("lenet5", artifacts=artifacts, dynamic=[], strategy="trace")
    assert build(artifacts).profiles == ()
    with pytest.raises(UsageError, match="--batch 1:2:3"):
        build(artifacts, batch="1:2:3")


def test_several_profiles(artifacts: Path) -> None:
    report = build(artifacts, batch="1:1:1,4:8:16")
    assert [profile["input"].opt[0] for profile in report.profiles] == [1, 8]
    recorded = report.artifact.manifest.options["profiles"]
    assert [profile["input"]["max"][0] for profile in recorded] == [1, 16]


def test_an_engine_in_another_precision_is_refused(artifacts: Path) -> None:
    built = build(artifacts).built
    graph = Path("m.onnx")
    check_precision(built, "fp32", graph)
    for precision, datum in (("fp16", r"m\.onnx.*fp16.*half: 5 in float"), ("int8", r"m\.onnx.*int8: 5 in float")):
        with pytest.raises(BackendError, match=datum):
            check_precision(built, precision, graph)
    large = dataclasses.replace(built, weighted={"half": 5}, weight_bytes={"half": 50 * 2**20}, bytes=60 * 2**20)
    check_precision(large, "fp16", graph)
    grown = dataclasses.replace(large, bytes=100 * 2**20)
    with pytest.raises(BackendError, match=rf"m\.onnx.*fp16.*{grown.bytes}.*{100 * 2**20} bytes"):
        check_precision(grown, "fp16", graph)
    check_precision(grown, "fp16", graph, copies=2)


def test_the_trtexec_command(run: Run, artifacts: Path) -> None:
    shown = run("trt", "build", "--fp16", "--batch", "1:2:4", "--runtime", "tensorrt-rtx", "--print-trtexec")
    assert shown.code == 0, shown.err
    line = shlex.split(shown.out)
    graph = artifacts / "lenet5" / "lenet5.fp16-tensorrt.onnx"
    assert line[:2] == ["tensorrt_rtx", f"--onnx={graph}"] and graph.is_file()
    assert "--optShapes=input:2x1x32x32" in line
    assert not list(artifacts.rglob("*.engine")), "nothing is built"
    assert not verify(artifacts).problems


def test_compute_capabilities(artifacts: Path, tmp_path: Path) -> None:
    report = build(artifacts, compute_capabilities=("8.6", "8.9"))
    assert report.artifact.manifest.options["compute_capabilities"] == ["8.6", "8.9"]
    with pytest.raises(UsageError, match=r"--compute-capability 3\.5.*8\.6"):
        build(artifacts, compute_capabilities=("3.5",))
    with pytest.raises(UsageError, match="--timing-cache"):
        build(artifacts, timing_cache=tmp_path / "timing.cache")


def test_the_library_reports_its_progress(artifacts: Path) -> None:
    class Watching(Listener):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[tuple[int, int]] = []

        def advance(self, done: int, total: int, text: str = "") -> None:
            if text.startswith("building:"):
                self.steps.append((done, total))

    listener = Watching()
    build(artifacts, progress=listener)
    assert listener.steps and all(0 <= done <= total for done, total in listener.steps)
    assert any("tensorrt-rtx" in note for note in listener.notes), "the library is named"


def test_an_operator_that_is_not_supported_is_named(artifacts: Path, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], name="which")
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(ExportError, match=r"n\.onnx.*NonZero \(which\)"):
        build(artifacts, str(tmp_path / "n.onnx"))
    assert not (artifacts / "n").exists()


def test_a_signal_cancels_the_build(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.core import interrupt

    class Interrupting(Listener):  # type: ignore[misc]
        def advance(self, done: int, total: int, text: str = "") -> None:
            if text.startswith("building:"):
                monkeypatch.setattr(interrupt, "_received", [2])

    with pytest.raises(interrupt.Stopped):
        build(artifacts, progress=Interrupting())
    assert not list(artifacts.rglob("*.engine"))


def test_an_engine_is_verified_against_its_manifest_first(artifacts: Path, tmp_path: Path) -> None:
    path = build(artifacts).artifact.path
    data = path.read_bytes()
    for damaged in (data[:-9], data[:100] + bytes([data[100] ^ 1]) + data[101:]):
        path.write_bytes(damaged)
        with pytest.raises(DigestError):
            inspect_engine(path)
    shutil.copy(path, tmp_path / "stray.engine")
    with pytest.raises(ArtifactError, match=r"stray\.engine"):
        inspect_engine(tmp_path / "stray.engine")
    with pytest.raises(ArtifactError, match=r"lenet5\.fp32\.onnx.*onnx"):
        inspect_engine(artifacts / "lenet5" / "lenet5.fp32.onnx")


def test_an_engine_of_another_version_is_not_opened(run: Run, artifacts: Path) -> None:
    path = build(artifacts, batch="1:2:4").artifact.path
    beside = manifest_path(path)
    version = Artifact.open(path).manifest.options["version"]
    text = beside.read_text(encoding="utf-8").replace(f'"version": "{version}"', '"version": "1.0.0"')
    beside.write_text(dump_checked(json.loads(text)))
    shown = run("trt", "inspect", path, "--json")
    assert shown.code == 0, "the manifest is shown"
    rebuild = "deploy trt build zoo/lenet5 --batch 1:2:4 --runtime tensorrt-rtx"
    assert all(datum in shown.json["closed"] for datum in (str(path), "tensorrt-rtx 1.0.0", version, rebuild))
    assert shown.json["shares"] is None


def test_an_engine_whose_weights_are_in_another_type(artifacts: Path) -> None:
    artifact = build(artifacts, fp16=True).artifact
    check_shares(artifact, Shares(layers={}, weights={"fp16": 9, "fp32": 1}, unknown=0))
    check_shares(artifact, Shares(layers={}, weights={}, unknown=4))
    with pytest.raises(BackendError, match=r"\.engine.*fp16: 10 in fp32"):
        check_shares(artifact, Shares(layers={}, weights={"fp32": 10}, unknown=0))


def test_the_command(run: Run, artifacts: Path) -> None:
    refused = run("trt", "build", "--int8")
    assert refused.code == 2 and "--int8" in refused.err and "--calib" in refused.err
    assert run("trt", "build", "--calib", "digits").code == 2
    done = run("trt", "build", "--int8", "--calib", "digits", "--runtime", "tensorrt-rtx", "--workspace", "64MiB")
    assert done.code == 0, done.err
    assert "5 of 5 in int8" in done.out and (gpus() or "built, not run here" in done.out)
    shown = run("trt", "inspect", artifacts / "lenet5" / "lenet5.int8-tensorrt-rtx.engine", "--json")
    assert shown.code == 0 and shown.json["weighted"] == {"int8": 5} and shown.json["version"]
    assert "not observed" in shown.json["arithmetic"] and "arithmetic" in done.out
    assert run("trt", "build", "--workspace", "lots").code == 2
    unknown = run("trt", "build", "--runtime", "tensort", "--json")
    assert unknown.code == 2 and "tensort" in unknown.json["error"]["message"]


def test_without_either_library_the_pip_command_is_given(
    run: Run, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    refused = run("trt", "build")
    assert refused.code == 1 and "pip install 'deploy-toolkit[rtx]'" in refused.err
    assert "https://pypi.nvidia.com" in refused.err


def test_a_build_imports_no_heavy_package_that_it_does_not_need() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "numpy")
    code = f"import sys, deploy.engines.build; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "they take longer than a small engine"
