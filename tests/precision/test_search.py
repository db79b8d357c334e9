"""Half precision by a searched plan: what is kept in float32, why, and that the files hold."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import deploy
from deploy.core.errors import ArtifactError, UsageError
from deploy.core.progress import SILENT
from deploy.precision.plan import PrecisionPlan
from exporters.half import to_half
from tests.conftest import Ran

Run = Callable[..., Ran]


class Planted(nn.Module):
    """One channel is scaled so that it reaches 1e5, and its reader is scaled back.

    Behind a Softplus, unlike behind a ReLU, no other scale gives the same function.
    """

    def __init__(
        self, scale: float = 2e5, activation: Callable[[torch.Tensor], torch.Tensor] = nn.functional.softplus
    ) -> None:
        super().__init__()
        self.activation = activation
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.third, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 5)
        with torch.no_grad():
            self.first.weight[0] *= scale
            self.first.bias[0] *= scale  # type: ignore[index]
            self.second.weight[:, 0] /= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.third(torch.relu(self.second(self.activation(self.first(x))))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Cancelling(nn.Module):
    """A variance of values far from 0, written out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.head = nn.Linear(16, 32), nn.Linear(32, 5)
        with torch.no_grad():
            self.lift.bias.fill_(300.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.lift(x)
        x = x - x.mean(-1, keepdim=True)
        return self.head(x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())  # type: ignore[no-any-return]


class Averaging(nn.Module):
    """Averages 900 values of some hundreds: the averages are far inside float16, and the sums behind them are not."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        with torch.no_grad():
            self.first.weight *= scale
            self.first.bias *= scale  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x)).mean((2, 3)))  # type: ignore[no-any-return]


IMAGE, ROW = torch.randn(2, 3, 12, 12), torch.randn(2, 16)


def exported(module: nn.Module, inputs: torch.Tensor, folder: Path, **options: object) -> deploy.ExportReport:
    """Export a module under the name ``net``."""
    options = {"artifacts": folder, "probes": "quick", "strategy": "trace", "progress": SILENT, **options}
    return deploy.export(module, inputs, name="net", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> deploy.ExportReport:
    """Planted in fp16."""
    return exported(Planted(), IMAGE, tmp_path_factory.mktemp("planted"), precision="fp16")


@pytest.mark.parametrize(("scale", "kept"), [(300.0, ["ReduceMean"]), (3.0, [])])
def test_an_average_whose_sum_overflows_stays_in_float32(scale: float, kept: list[str], tmp_path: Path) -> None:
    report = exported(Averaging(scale), torch.randn(2, 3, 32, 32), tmp_path, precision="fp16")
    assert report.verdict == "pass" and report.plan is not None
    assert [item.operator for item in report.plan.kept] == kept
    assert all(item.reason == "overflow" and "largest sum" in item.detail for item in report.plan.kept)


@pytest.mark.parametrize(("precision", "kept"), [("fp16", {"InstanceNormalization": "wrong kernel"}), ("bf16", {})])
def test_an_operator_whose_kernel_is_wrong_stays_in_float32(
    precision: str, kept: dict[str, str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(256, 5))
    report = exported(net, IMAGE, tmp_path, precision=precision)
    assert report.verdict == "pass" and report.plan is not None, report.parity.reasons
    assert {item.operator: item.reason for item in report.plan.kept} == kept


def test_values_that_overflow_stay_in_float32(planted: deploy.ExportReport) -> None:
    assert planted.verdict == "pass" and planted.plan is not None
    kept = {item.module: item.reason for item in planted.plan.kept if item.operator == "Conv"}
    assert kept == {"first": "overflow", "second": "overflow"}
    assert 0.2 < (planted.plan.share or 0.0) < 0.6
    blocks = {item.module: item for item in planted.plan.blocks}
    assert (blocks["first"].kept, blocks["third"].kept) == (1, 0) and blocks["third"].share == 1.0
    assert sum(item.nodes for item in planted.plan.blocks) == planted.plan.nodes
    assert any("40 dB" in note for note in planted.parity.notes), "PyTorch's own run is infinite"


@pytest.mark.slow
def test_the_plain_conversion_fails(planted: deploy.ExportReport, tmp_path: Path) -> None:
    """Although ONNX Runtime, which rounds nothing, would pass it."""
    single = exported(Planted(), IMAGE, tmp_path)
    plain = tmp_path / "plain.onnx"
    to_half(single.artifact.path, plain)
    report = deploy.check(Planted(), inputs=IMAGE, onnx=plain, precision="fp16", artifacts=tmp_path, probes="quick")
    assert report.parity.verdict == "fail"
    assert exported(Planted(1.0), IMAGE, tmp_path / "same", precision="fp16").plan.kept == ()  # type: ignore[union-attr]


def test_only_ordinary_inputs_must_not_overflow(tmp_path: Path) -> None:
    """Inputs of 100 times the amplitude do, in the layers behind those that are kept in float32."""
    report = exported(Planted(2e4), IMAGE, tmp_path, precision="mixed")
    assert report.verdict == "pass", report.parity.reasons


@pytest.mark.slow
def test_bfloat16_does_not_overflow(tmp_path: Path) -> None:
    report = exported(Planted(), IMAGE, tmp_path, precision="bf16")
    assert report.verdict == "pass" and report.opset >= 22
    assert report.plan is not None and report.plan.kept == () and report.plan.share == 1.0
    assert report.artifact.path.name == "net.bf16.onnx"
    again = deploy.check(Planted(), inputs=IMAGE, onnx=report.artifact, artifacts=tmp_path, probes="quick")
    assert again.parity.verdict == "pass"


def test_differences_of_large_values_stay_in_float32(tmp_path: Path) -> None:
    report = exported(Cancelling(), ROW, tmp_path, precision="mixed")
    assert report.verdict == "pass" and report.plan is not None
    reasons = {item.operator: item.reason for item in report.plan.kept}
    assert reasons["Sub"] == "cancellation"
    assert "head" not in {item.module for item in report.plan.kept}, "the network after the difference is in half"
    assert report.plan.runs <= 14 and report.plan.margin is not None and report.plan.margin >= 1.0


class Guarded(nn.Module):
    """A norm with a small constant against a division by 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x / (x.norm(dim=-1, keepdim=True) + 1e-12))  # type: ignore[no-any-return]


def test_a_guard_that_vanishes_stays_in_float32(tmp_path: Path) -> None:
    """At an input of zeros."""
    report = exported(Guarded(), ROW, tmp_path, precision="fp16")
    assert report.verdict == "pass" and report.plan is not None
    assert {item.operator for item in report.plan.kept if item.reason == "underflow"} >= {"Add", "Div"}


@pytest.mark.slow
def test_a_higher_bound_keeps_more(tmp_path: Path) -> None:
    counts = []
    for bound in (40, 75):
        net = Planted(1.0, torch.relu)
        report = exported(net, IMAGE, tmp_path / str(bound), precision="mixed", min_sqnr=bound)
        assert report.verdict == "pass" and report.plan is not None
        assert report.artifact.manifest.options["min_sqnr"] == bound
        counts.append(len(report.plan.kept))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] > 0


def test_a_plan_is_a_file_that_can_be_used_again(planted: deploy.ExportReport, tmp_path: Path) -> None:
    file = planted.artifact.path.with_suffix(".precision.json")
    assert file.name in [item.file for item in planted.artifact.manifest.files]
    assert PrecisionPlan.read(file) == planted.plan
    again = exported(Planted(1e5), IMAGE, tmp_path, precision="fp16", plan=file)  # other weights, the same graph
    assert again.plan == planted.plan and again.verdict == "pass"
    with pytest.raises(UsageError, match="another graph"):
        exported(Cancelling(), ROW, tmp_path / "other", precision="fp16", plan=file)
    with pytest.raises(UsageError, match="fp16"):
        exported(Planted(), IMAGE, tmp_path, precision="bf16", plan=file)
    (tmp_path / "no.json").write_text(json.dumps({"precision": "fp16"}))
    with pytest.raises(ArtifactError):
        exported(Planted(), IMAGE, tmp_path, precision="fp16", plan=tmp_path / "no.json")


def test_patterns_decide_first(tmp_path: Path) -> None:
    report = exported(Planted(1.0), IMAGE, tmp_path, precision="fp16", keep_float=["third", "Gemm"])
    assert report.plan is not None
    assert {(item.operator, item.module, item.reason) for item in report.plan.kept} == {
        ("Conv", "third", "asked"),
        ("Gemm", "head", "asked"),
    }
    failed = exported(Planted(), IMAGE, tmp_path / "half", precision="fp16", only_half=["first"])
    assert failed.verdict == "fail", "a value overflows where the user insists"
    with pytest.raises(UsageError, match="matches no node"):
        exported(Planted(), IMAGE, tmp_path, precision="fp16", keep_float=["thrid"])
    for options in ({"min_sqnr": 40.0}, {"keep_float": ["x"]}, {"only_half": ["x"]}, {"plan": "plan.json"}):
        with pytest.raises(UsageError, match="no effect"):
            exported(Planted(), IMAGE, tmp_path, **options)


@pytest.mark.slow
def test_a_file_of_another_exporter(tmp_path: Path, run: Run) -> None:
    """The reference is the file itself; then an engine is built from the result."""
    file = tmp_path / "theirs.onnx"
    shutil.copyfile(exported(Planted(), IMAGE, tmp_path / "made").artifact.path, file)
    done = run("convert", str(file), "--precision", "fp16", "--probes", "quick", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["parity"]["verdict"] == "pass" and document["precision"] == "fp16"
    assert {item["reason"] for item in document["plan"]["kept"]} == {"overflow"}
    shown = " ".join(run("inspect", document["file"]).out.split())
    assert "too large for half precision" in shown and "other block" in shown
    options: tuple[str, ...] = ("--backends", "onnxruntime", "--repetitions", "1", "--min-time", "0.01")
    assert run("bench", document["file"], *options).code == 0
    assert run("report").code == 0
    for name in ("index.html", "report.md"):
        text = (Path(document["file"]).parents[1] / "report" / name).read_text()
        assert "What half precision leaves in float32" in text and "too large for half precision" in text
    pytest.importorskip("tensorrt_rtx")
    built = run("trt", "build", document["file"], "--json")
    assert built.code == 0, built.err
    assert run("trt", "build", document["file"], "--fp16", "--keep-float", "Conv").code == 2
    assert run("convert", document["file"]).code == 1, "it is in half precision already"


def test_an_engine_keeps_what_overflows(store: Path, run: Run) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = exported(Planted(), IMAGE, store)
    done = run("trt", "build", report.artifact.path, "--fp16", "--json")
    assert done.code == 0, done.err
    graph = json.loads((store / "net/net.fp16-tensorrt.onnx.json").read_text())
    assert {item["reason"] for item in graph["options"]["precision_plan"]["kept"]} == {"overflow"}
    weighted = json.loads(done.out)["weighted"]
    assert weighted == {"float": 2, "half": 2}


def test_a_received_manifest_does_not_lower_the_bound(tmp_path: Path, store: Path, run: Run) -> None:
    """Nor does a damaged plan stop a command."""
    report = exported(Planted(), IMAGE, store)
    plain = store / "net" / "net.fp16.onnx"
    to_half(report.artifact.path, plain)
    manifest = json.loads(Path(f"{report.artifact.path}.json").read_text())
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    manifest |= {
        "precision": "fp16",
        "files": [{"file": plain.name, "sha256": digest, "bytes": plain.stat().st_size}],
        "options": {**manifest["options"], "min_sqnr": -300, "precision_plan": {"kept": "all"}},
    }
    Path(f"{plain}.json").write_text(json.dumps(manifest))
    checked = deploy.check(Planted(), inputs=IMAGE, onnx=plain, artifacts=tmp_path, probes="quick")
    assert checked.parity.verdict == "fail"
    assert run("inspect", plain).code == 0


def test_an_engine_is_never_of_another_half_precision(store: Path, run: Run) -> None:
    pytest.importorskip("tensorrt_rtx")
    report = exported(Planted(1.0), IMAGE, store, precision="bf16")
    assert run("trt", "build", report.artifact.path, "--fp16").code == 2
    done = run("trt", "build", report.artifact.path, "--json")
    assert done.code == 0 and json.loads(done.out)["weighted"] == {"bf16": 4}, done.err
