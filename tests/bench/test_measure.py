"""Timing real runtimes in real processes; never how long something took, only what is said of it."""

import csv
import dataclasses
import functools
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.bench.compare import compare_speed, run_pairs
from deploy.bench.measure import BenchmarkReport, interleaved, measure_speed
from deploy.bench.process import BenchProcess
from deploy.bench.records import load
from deploy.bench.repetition import Budget
from deploy.bench.saturation import saturate
from deploy.bench.sequential import guard, interval_at, verdict_of
from deploy.core.artifact import Artifact, manifest_path
from deploy.core.backend import find_backend
from deploy.core.checked import dump_checked
from deploy.core.errors import ArtifactError, BackendError, MissingPackageError, UnknownNameError, UsageError
from deploy.engines.build import build_engine
from deploy.engines.request import BuildRequest
from deploy.exporting.export import export_model
from deploy.models.request import ModelRequest
from deploy.parity.probes import probes_at
from deploy.quantization.quantize import quantize
from deploy.tools.verify import verify
from tests.conftest import Listener, Ran  # type: ignore[import-not-found,unused-ignore]

QUICK = Budget(time_s=0.02, warm_s=0.3, patience_s=20)


def _bench(root: Path, *models: str, **options: object) -> BenchmarkReport:
    settings = {"repetitions": 2, "threads": 1, "budget": QUICK, "artifacts": root, **options}
    return measure_speed(models, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_bfloat16_is_timed_where_it_runs(artifacts: Path) -> None:
    report = _bench(artifacts, "lenet5", backends=("torch", "onnxruntime"), precisions=("bf16",))
    (row,), (left_out,) = report.rows, report.skipped
    assert (row.record.cell.backend, row.record.evidence["verdict"]) == ("torch", "pass") and row.stats is not None
    assert left_out.reason == "onnxruntime does not run bf16."


def _records(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.glob("*/bench/*.json"))}


@pytest.mark.parametrize("given", [("fp32",), pytest.param((), marks=pytest.mark.slow)], ids=["fp32", "all"])
def test_every_artifact_on_every_backend_with_its_evidence(artifacts: Path, given: tuple[str, ...]) -> None:
    seen: list[int] = []
    report = _bench(artifacts, precisions=given, listener=lambda rows: seen.append(len(rows)))
    found = {(row.record.cell.backend, row.record.cell.precision): row for row in report.rows}
    backends = ("torch", "onnxruntime", "openvino")
    assert set(found) == {(name, kind) for name in backends for kind in given or ("fp32", "fp16")}
    assert found["torch", "fp32"].record.evidence["verdict"] == "reference"
    assert found["onnxruntime", "fp32"].record.evidence["by"] == "export, on ONNX Runtime"
    assert found["openvino", "fp32"].record.evidence["by"] == "bench, on openvino, at this size"
    for key, row in found.items():
        assert row.record.evidence["verdict"] in ("pass", "reference"), key
        assert row.stats is not None and row.stats.processes == 2 and row.stats.median.low < row.stats.median.high
        assert (row.speedup is None) == (key == ("torch", "fp32"))
        assert row.detail("load_ns") and row.detail("first_ns") and row.detail("peak_bytes")
    assert seen and verify(artifacts).problems == ()


def test_a_run_resumes_and_again_repeats(artifacts: Path) -> None:
    options = {"backends": ("onnxruntime",), "precisions": ("fp32",)}
    _bench(artifacts, "lenet5", **options)
    before = _records(artifacts)
    _bench(artifacts, "lenet5", **options)
    assert _records(artifacts) == before, "nothing is measured twice"
    report = _bench(artifacts, "lenet5", repetitions=3, **options)
    (path,) = artifacts.glob("*/bench/*.json")
    assert [item.number for item in load(path).repetitions] == [0, 1, 2]
    assert load(path).repetitions[0].samples.tolist() == report.rows[0].record.repetitions[0].samples.tolist()
    (name, old), *_ = before.items()
    _bench(artifacts, "lenet5", again=True, **options)
    assert _records(artifacts)[name] != old


def test_a_damaged_record_is_measured_anew(artifacts: Path) -> None:
    options = {"backends": ("onnxruntime",), "precisions": ("fp32",)}
    _bench(artifacts, "lenet5", **options)
    (path,) = artifacts.glob("*/bench/*.json")
    path.write_text(path.read_text()[:100])
    assert _bench(artifacts, "lenet5", **options).rows[0].stats
    assert len(load(path).repetitions) == 2


def test_no_number_without_parity(artifacts: Path) -> None:
    beside = manifest_path(artifacts / "lenet5" / "lenet5.fp32.onnx")
    document = json.loads(beside.read_text())
    document["parity"] |= {"verdict": "fail", "reasons": ["logits: noise 3 times the signal"]}
    beside.write_text(dump_checked(document))
    report = _bench(artifacts, "lenet5", backends=("onnxruntime",), precisions=("fp32",))
    assert report.rows == () and "logits: noise 3 times" in report.skipped[0].reason


def test_a_file_that_was_changed_is_not_timed(artifacts: Path) -> None:
    path = artifacts / "lenet5" / "lenet5.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"lenet5\.fp32\.onnx"):
        _bench(artifacts, "lenet5", backends=("onnxruntime",))


def test_missing_files_are_made_with_a_note(store: Path) -> None:
    listener = Listener()
    report = _bench(
        store, "zoo/lenet5", backends=("onnxruntime",), precisions=("int8",), calib="digits", progress=listener
    )
    (row,) = report.rows
    assert row.record.evidence["verdict"] == "measured" and row.record.cell.target == "onnxruntime"
    assert any("exporting" in note for note in listener.notes)
    assert any("quantizing" in note for note in listener.notes)


def test_skipped_cells_carry_the_reason(artifacts: Path) -> None:
    report = _bench(artifacts, "lenet5", backends=("torch", "onnxruntime"), precisions=("int8",))
    assert [item.backend for item in report.skipped] == ["torch", "onnxruntime"]
    assert "int8" in report.skipped[0].reason and "deploy quantize lenet5" in report.skipped[1].reason
    report = _bench(artifacts, "lenet5", backends=("onnxruntime", "openvino"), precisions=("fp32",), device="cuda")
    assert "CUDAExecutionProvider" in report.skipped[0].reason and "cuda" in report.skipped[1].reason
    report = _bench(artifacts, "lenet5", backends=("tensorrt",), precisions=("fp32",))
    assert "cpu" in report.skipped[0].reason
    report = _bench(artifacts, "lenet5", backends=("tensorrt",), precisions=("fp16",), device="cuda")
    assert report.skipped[0].reason.endswith("deploy trt build lenet5 --fp16")


def test_a_file_is_run_by_what_it_is_for(artifacts: Path) -> None:
    quantize("lenet5", calib="digits", target="openvino", samples=8, artifacts=artifacts)
    folder = artifacts / "lenet5"
    report = _bench(artifacts, str(folder / "lenet5.int8-openvino.onnx"), repetitions=1)
    assert [row.record.cell.backend for row in report.rows] == ["openvino"] and not report.skipped
    report = _bench(artifacts, str(folder / "lenet5.fp32.onnx"), repetitions=1)
    assert [row.record.cell.backend for row in report.rows] == ["onnxruntime", "openvino"] and not report.skipped
    report = _bench(artifacts, str(folder / "lenet5.fp32.onnx"), backends=("torch",))
    assert report.rows == () and report.skipped[0].backend == "torch"


def test_a_fixed_batch_is_not_stretched(store: Path) -> None:
    export_model("zoo/lenet5", artifacts=store, dynamic=(), strategy="trace")
    report = _bench(store, "zoo/lenet5", backends=("onnxruntime",), batches=(1, 4))
    assert [row.record.cell.batch for row in report.rows] == [1]
    assert report.skipped[0].batch == 4 and "--dynamic batch" in report.skipped[0].reason


FACTORY = """
import os, time, torch
class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.calls = 0
    def forward(self, x):
        self.calls += 1
        if self.calls == 4:
            {what}
        return x * self.weight
def make():
    return Odd()
"""


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL.*memory"),
        pytest.param("os._exit(3)", "status 3", marks=pytest.mark.slow),
        ("time.sleep(1000)", "within .* s"),
        pytest.param("raise MemoryError", "MemoryError", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_is_a_row_with_its_reason(tmp_path: Path, store: Path, what: str, reason: str) -> None:
    (tmp_path / "odd.py").write_text(FACTORY.format(what=what))
    request = ModelRequest(name=f"{tmp_path / 'odd.py'}:make", inputs=("x:batch,3",))
    report = measure_speed(
        [request],
        backends=("torch",),
        threads=1,
        repetitions=2,
        budget=Budget(time_s=0.02, warm_s=0.1, patience_s=1.0 if "sleep" in what else 60.0),
        artifacts=store,
    )
    (row,) = report.rows
    assert row.stats is None and re.search(reason, row.record.failure), row.record.failure
    assert len(row.record.repetitions) == 1, "what failed is not tried again"
    assert row.to_dict()["status"] == "failed"


def test_a_first_look_is_not_recorded_and_earlier_runs_are_said(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ("bench", "lenet5", "--backends", "onnxruntime", "--precision", "fp32", "--threads", "1")
    looked = run(*words, "--quick", "--json")
    assert looked.code == 0 and len(looked.json["rows"]) == 1
    assert not (artifacts / "lenet5" / "bench").exists()
    assert run(*words, "--repetitions", "1", "--min-time", "0.02").code == 0
    again = run(*words, "--repetitions", "1", "--min-time", "0.02")
    assert again.code == 0 and "--again" in again.err
    with pytest.raises(UsageError, match="first look"):
        _bench(artifacts, "lenet5", quick=True, repetitions=2)


def test_names_that_are_not_known(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean onnxruntime"):
        _bench(artifacts, "lenet5", backends=("onnxrutime",))
    with pytest.raises(UnknownNameError, match=r"Did you mean.* lenet5"):
        _bench(artifacts, "lenet55")
    missing = dataclasses.replace(find_backend("openvino"), modules=("not_installed_here",))
    monkeypatch.setattr("deploy.backends.openvino.BACKEND", missing)
    with pytest.raises(MissingPackageError) as raised:
        _bench(artifacts, "lenet5", backends=("openvino",))
    assert raised.value.hint == "pip install 'deploy-toolkit[openvino]'"


def test_a_file_that_does_not_exist(artifacts: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.onnx: no such file"):
        _bench(artifacts, "missing.onnx")


def test_an_empty_store(store: Path) -> None:
    with pytest.raises(ArtifactError, match=str(store)):
        _bench(store)


@pytest.mark.slow
def test_a_comparison_runs_in_pairs_of_processes(artifacts: Path) -> None:
    found = compare_speed("onnxruntime", "openvino", model="lenet5", threads=1, time_limit_s=1, artifacts=artifacts)
    assert len(found.first.medians) == len(found.second.medians) == found.to_dict()["pairs"] == 5
    assert found.ratio.low < found.ratio.value < found.ratio.high
    assert found.guard is None and found.to_dict()["verdict"] == found.verdict


@pytest.mark.slow
def test_a_planted_slowdown_is_found(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process busy-waits until three times its own latency has passed, whatever that is on this machine."""
    monkeypatch.setenv("SLOWDOWN", "3")
    path = artifacts / "lenet5" / "lenet5.fp32.onnx"
    feeds = probes_at(Artifact.open(path).manifest.inputs, {"batch": 1})[0].feeds

    def start(target: str) -> BenchProcess:
        process = BenchProcess(find_backend("onnxruntime").runner, 1, target=target)
        process.submit_open(feeds, path=path, model=None, options={"threads": 1})
        return process

    targets = ("deploy.bench.worker:TimingWorker", "benchmarks.slowed_runner:SlowedWorker")
    openers = [functools.partial(start, target) for target in targets]
    found = run_pairs(openers, decided=lambda interval: True, more=lambda: False)
    ratio = interval_at(found.ratios)
    assert (verdict_of(ratio, 0.02), guard(ratio, 0.03)) == ("slower", "fail")
    found = run_pairs(openers[::-1], decided=lambda interval: True, more=lambda: False)
    ratio = interval_at(found.ratios)
    assert (verdict_of(ratio, 0.02), guard(ratio, 0.03)) == ("faster", "pass")


def test_a_comparison_needs_two_things_that_run(artifacts: Path) -> None:
    with pytest.raises(UsageError, match="torch is a backend"):
        compare_speed("torch", "onnxruntime", artifacts=artifacts)
    with pytest.raises(BackendError, match="does not run int8"):
        compare_speed("lenet5@torch", "lenet5", precision="int8", artifacts=artifacts)


def test_the_command_in_its_formats(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ["-q", "bench", "lenet5", "--backends", "torch,onnxruntime", "--threads", "1", "--precision", "fp32"]
    words += ["--min-time", "0.02", "--repetitions", "2"]
    table = run(*words)
    assert table.code == 0 and "onnxruntime" in table.out and "95 %" in table.out
    document = json.loads(run(*words, "--json").out)
    assert [row["status"] for row in document["rows"]] == ["timed", "timed"]
    assert document["rows"][1]["speedup"]["low"] > 0 and document["machine"]["cores"]
    lines = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv").out)))
    assert [line["backend"] for line in lines] == ["torch", "onnxruntime"]
    markdown = run(*words, "--format", "markdown").out
    assert markdown.startswith("| model |") and markdown.count("\n| lenet5 |") == 2
    assert run("-q", "bench", "lenet5", "--precision", "int8", "--backends", "torch").code == 4
    assert run("bench", "lenet5", "--fail-if-slower", "3%").code == 2
    assert run("bench", "lenet5", "--batch", "1,x").code == 2


def test_batches_grow_until_throughput_is_saturated(artifacts: Path) -> None:
    found = saturate(
        ["lenet5"],
        max_batch=4,
        backends=("onnxruntime",),
        precisions=("fp32",),
        threads=1,
        repetitions=1,
        budget=QUICK,
        artifacts=artifacts,
    )
    batches = [row.record.cell.batch for row in found.report.rows]
    assert batches == [1, 2, 4][: len(batches)] and len(batches) >= 2
    (end,) = found.ends
    assert end.batch in batches and end.largest == batches[-1] and end.throughput > 0


def test_requests_in_the_command(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ["-q", "bench", "lenet5", "--backends", "onnxruntime", "--precision", "fp32", "--threads", "1"]
    words += ["--min-time", "0.02", "--repetitions", "1", "--json"]
    served = json.loads(run(*words, "--scenario", "server", "--rate", "500").out)["rows"][0]
    assert served["scenario_details"][0]["rate_per_s"] == 500 and served["latency"]["samples"] == 1000
    asked = json.loads(run(*words, "--scenario", "loadgen").out)["rows"][0]
    assert Path(asked["scenario_details"][0]["log"]).is_dir() and verify(artifacts).problems == ()
    assert "Did you mean server" in run(*words, "--scenario", "servr").err
    assert run(*words, "--rate", "5").code == 2


@pytest.mark.slow
def test_a_model_is_timed_at_the_sizes_that_its_files_have(store: Path) -> None:
    """PyTorch would take pictures of any size; the export takes one, and both are set beside each other."""
    report = _bench(store, "squeezenet1_1", backends=("torch", "onnxruntime"), precisions=("fp32",))
    assert {row.record.cell.backend for row in report.rows} == {"torch", "onnxruntime"}
    assert {tuple(row.record.cell.sizes.items()) for row in report.rows} == {(("batch", 1),)}
    assert [row.speedup is not None for row in report.rows if row.record.cell.backend == "onnxruntime"] == [True]


def test_processes_are_interleaved_in_a_new_order_each_repetition() -> None:
    found = list(interleaved("abcdefgh", 4, seed=0))
    orders = ["".join(item for number, item in found if number == wanted) for wanted in range(4)]
    assert all(sorted(order) == list("abcdefgh") for order in orders) and len(set(orders)) == 4
    assert found == list(interleaved("abcdefgh", 4, seed=0)) != list(interleaved("abcdefgh", 4, seed=1))


def test_the_command_compare(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ["onnxruntime", "openvino"]
    common = ["--threads", "1", "--time-limit", "1", "--json"]
    found = run("-q", "compare", *words, "--model", "lenet5", *common)
    assert found.code == 0 and found.json["pairs"] == 5 and found.json["first"]["backend"] == "onnxruntime"


@pytest.mark.slow
def test_bench_compares_as_compare_does(artifacts: Path, run: Callable[..., Ran]) -> None:
    words = ["onnxruntime", "openvino"]
    common = ["--threads", "1", "--time-limit", "1", "--json"]
    found = run("-q", "compare", *words, "--model", "lenet5", *common)
    forwarded = run("-q", "bench", "lenet5", "--compare", *words, *common)
    assert forwarded.code == 0 and set(forwarded.json) == set(found.json)


def test_arguments_of_a_comparison_that_would_be_ignored(artifacts: Path) -> None:
    path = str(artifacts / "lenet5" / "lenet5.fp32.onnx")
    for options in ({"model": "lenet5"}, {"precision": "int8"}, {"calib": "digits"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            compare_speed(path, path, artifacts=artifacts, **options)


def test_the_device_of_a_comparison_is_one_that_both_sides_run_on(artifacts: Path, tmp_path: Path) -> None:
    build_engine(BuildRequest(model="lenet5", runtime="tensorrt-rtx"), artifacts=artifacts)
    engine = str(next((artifacts / "lenet5").glob("*.engine")))
    with pytest.raises(BackendError, match="lenet5") as refused:  # not: TensorRT does not run on the CPU
        compare_speed(engine, engine, artifacts=artifacts)
    assert "cpu" not in refused.value.message
    with pytest.raises(UsageError, match=r"openvino.*tensorrt"):
        compare_speed("lenet5@openvino", engine, artifacts=artifacts)


def test_files_made_from_an_export_are_timed_at_its_sizes(tmp_path: Path) -> None:
    nets = tmp_path / "tokens.py"
    nets.write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 3))\n"
    )
    artifacts = tmp_path / "artifacts"
    request = ModelRequest(name=f"{nets}:build", inputs=("input:batch,length=6:int64:0..50",))
    exported = export_model(request, artifacts=artifacts, strategy="trace", probes="quick").artifact
    np.savez(tmp_path / "calib.npz", input=np.random.default_rng(0).integers(0, 50, (20, 6)))
    made = quantize(exported.path, calib=tmp_path / "calib.npz", samples=10, artifacts=artifacts).artifact
    assert made.manifest.options["sizes"] == {"batch": 2, "length": 6}
    report = _bench(artifacts, str(made.path), backends=("onnxruntime",), repetitions=1)
    (row,) = report.rows
    assert row.stats is not None and row.record.cell.sizes == {"batch": 1, "length": 6}
