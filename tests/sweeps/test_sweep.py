"""Sweeps on this machine with real models, files and runtimes: results, resuming, failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy.core.artifact import sha256
from deploy.core.store import Store
from deploy.models.request import ModelRequest
from deploy.models.resolve import architecture
from deploy.tools.verify import verify
from tests.conftest import Ran

Run = Callable[..., Ran]
QUICK = ("--repetitions", 2, "--min-time", 0.02, "--threads", 1)


MORE = """

def deadly():
    import os, signal
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def artifacts(trained: Path, store: Path) -> Path:
    shutil.copytree(trained, store)
    return store


def _states(ran: Ran) -> dict[str, str]:
    return {item["task"]: item["state"] for item in ran.json["tasks"]}


def _cells(ran: Ran) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(item["model"], item["backend"], item["precision"]): item for item in ran.json["cells"]}


@pytest.mark.slow
def test_a_matrix_and_its_second_run(run: Run, artifacts: Path) -> None:
    words = ("sweep", "lenet5", "--precision", "fp32,int8", "--backends", "torch,onnxruntime", "--calib", "digits")
    words = (*words, "--samples", "40", "--data", "digits", *map(str, QUICK))
    dry = run(*words, "--dry-run", "--json").json
    assert {task["state"] for task in dry["tasks"]} == {"to do"} and dry["unknown_tasks"] == len(dry["tasks"]) == 4
    ran = run(*words, "--json")
    assert ran.code == 0, ran.err
    assert _states(ran) == {
        "export lenet5 fp32": "found",
        "quantize lenet5 for onnxruntime": "done",
        "evaluate lenet5": "done",
        "bench lenet5": "done",
    }
    cells = _cells(ran)
    assert cells["lenet5", "torch", "int8"]["state"] == "skipped" and cells["lenet5", "torch", "int8"]["reason"]
    timed = [cell for cell in cells.values() if cell["state"] == "timed"]
    assert len(timed) == 3 and all(cell["median_ns"]["low"] < cell["median_ns"]["high"] for cell in timed)
    assert Path(ran.json["report"]).is_file() and ran.json["work_seconds"] < ran.json["seconds"]
    assert verify(artifacts).problems == ()
    accuracy = list((artifacts / "lenet5" / "evaluation").glob("*.json"))
    assert len(accuracy) == 1 and {row["precision"] for row in json.loads(accuracy[0].read_text())["rows"]} >= {"int8"}
    before = {path: path.read_bytes() for path in artifacts.rglob("*.json") if path.parent.name != "report"}

    dry = run(*words, "--dry-run", "--json").json
    assert {task["state"] for task in dry["tasks"]} == {"kept"} and dry["known_seconds"] == 0
    again = run(*words, "--json")
    assert set(_states(again).values()) == {"kept"} and again.json["work_seconds"] == 0
    assert _cells(again) == cells
    assert {path: path.read_bytes() for path in artifacts.rglob("*.json") if path.parent.name != "report"} == before

    more = run(*words, "--batch", "1,2", "--dry-run", "--json").json
    states = {task["task"]: task for task in more["tasks"]}
    assert states["bench lenet5"]["state"] == "to do" and states["quantize lenet5 for onnxruntime"]["state"] == "kept"
    bench = next(item for item in ran.json["tasks"] if item["kind"] == "bench")
    assert states["bench lenet5"]["seconds"] == pytest.approx(2 * bench["seconds"], rel=0.01), (
        "twice as many worker processes"
    )
    shown = run(*words, "--batch", "1,2", "--dry-run")
    assert shown.code == 0 and all(name in shown.out for name in states)


def test_a_float_file_and_its_second_run(run: Run, artifacts: Path) -> None:
    words = ("sweep", "lenet5", "--backends", "onnxruntime", "--repetitions", 1, "--min-time", 0.02, "--threads", 1)
    first, again = run(*words, "--json"), run(*words, "--json")
    assert first.code == again.code == 0, first.err
    assert _states(first) == {"export lenet5 fp32": "found", "bench lenet5": "done"}
    assert set(_states(again).values()) == {"kept"} and _cells(again) == _cells(first)
    assert _cells(first)["lenet5", "onnxruntime", "fp32"]["state"] == "timed" and Path(first.json["report"]).is_file()
    assert verify(artifacts).problems == ()


@pytest.mark.slow
def test_a_changed_input_is_processed_again(run: Run, artifacts: Path, tmp_path: Path) -> None:
    data = tmp_path / "calib.npy"
    rng = np.random.default_rng(0)
    np.save(data, rng.normal(size=(8, 1, 32, 32)).astype(np.float32))
    words = ("sweep", "lenet5", "--precision", "int8", "--backends", "onnxruntime", "--calib", data, *QUICK)
    assert run(*words, "--no-report").code == 0
    np.save(data, rng.normal(size=(9, 1, 32, 32)).astype(np.float32))
    second = _states(run(*words, "--no-report", "--json"))
    assert second == {
        "export lenet5 fp32": "kept",
        "quantize lenet5 for onnxruntime": "done",
        "bench lenet5": "done",
    }
    (made,) = artifacts.glob("lenet5/*.int8-onnxruntime.onnx")
    made.unlink()
    assert _states(run(*words, "--no-report", "--json"))["quantize lenet5 for onnxruntime"] == "done"
    fresh = run("sweep", "lenet5", "--backends", "onnxruntime", *QUICK, "--seed", "5", "--no-report", "--json")
    assert _states(fresh)["export lenet5 fp32"] == "done", "another seed makes another export"


@pytest.mark.slow
def test_other_weights_at_the_same_path_make_another_export(run: Run, store: Path, tmp_path: Path) -> None:
    """An existing export is reused only for the same weights."""
    paths = [tmp_path / name for name in ("a.pt", "b.pt", "best.pt")]
    for seed, path in enumerate(paths[:2]):
        torch.manual_seed(seed)
        state = architecture(ModelRequest(name="zoo/lenet5", seed=seed))[0].module.state_dict()
        torch.save(state, path)
    file = tmp_path / "sweep.yaml"
    quick = "backends: [onnxruntime]\nrepetitions: 1\nmin_time: 0.02"
    file.write_text(f"models: [{{name: {paths[2]}, arch: zoo/lenet5}}]\n{quick}")

    def digests(path: Path) -> tuple[str, str]:
        shutil.copyfile(path, paths[2])
        ran = run("sweep", file, "--no-report", "--json")
        assert ran.code == 0, ran.err
        assert "Infinity" not in ran.out, "one repetition has no interval, and JSON has no infinity"
        (manifest,) = store.glob("*/*.fp32.onnx.json")
        return _states(ran)["export best fp32"], json.loads(manifest.read_text())["weights"]["sha256"]

    first, again, other = digests(paths[0]), digests(paths[0]), digests(paths[1])
    assert first[0] == other[0] == "done" and again[0] in ("kept", "found")
    assert first[1] == again[1] == sha256(paths[0]) and other[1] == sha256(paths[1])
    shutil.rmtree(store / ".sweeps")
    shutil.copyfile(paths[1], paths[2])
    assert digests(paths[1])[0] == "found" and digests(paths[0])[0] == "done"
    file.write_text(f"models: [zoo/lenet5]\n{quick}")
    ran = run("sweep", file, "--no-report", "--json")
    assert _states(ran)["export zoo/lenet5 fp32"] == "done", "without a checkpoint, its weights are not reused"


@pytest.mark.slow
def test_changed_code_and_damaged_records(run: Run, store: Path, nets: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    entry = f"{{name: '{nets}:small', inputs: ['x:batch,3,16,16']}}"
    file.write_text(f"models: [{entry}]\nbackends: [onnxruntime]\nrepetitions: 1\nmin_time: 0.02")
    words = ("sweep", file, "--no-report", "--json")
    export, bench = f"export {nets}:small fp32", f"bench {nets}:small"
    assert _states(run(*words)) == {export: "done", bench: "done"}
    assert _states(run(*words)) == {export: "done", bench: "kept"}, "user code is exported to compare the files"
    nets.write_text(nets.read_text().replace("x = x + torch.relu", "x = x - torch.relu"))
    assert _states(run(*words)) == {export: "done", bench: "done"}
    record = max(store.glob("*/bench/*.json"), key=lambda path: path.stat().st_mtime)
    record.write_text(record.read_text()[:200])
    ran = run(*words)
    assert _states(ran)[bench] == "done" and ran.code == 0, "a damaged record is measured again"


@pytest.mark.slow
def test_a_damaged_artifact_is_made_again(run: Run, artifacts: Path) -> None:
    words = ("sweep", "lenet5", "--precision", "int8", "--backends", "onnxruntime", "--calib", "digits")
    words = (*words, "--samples", "40", *map(str, QUICK), "--no-report", "--json")
    assert run(*words).code == 0
    (made,) = artifacts.glob("lenet5/*.int8-onnxruntime.onnx")
    content = made.read_bytes()
    made.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert _states(run(*words))["quantize lenet5 for onnxruntime"] == "done"
    assert made.read_bytes() == content and verify(artifacts).problems == ()


@pytest.mark.slow
def test_a_failed_task_skips_only_its_dependents(run: Run, nets: Path, tmp_path: Path, store: Path) -> None:
    nets.write_text(nets.read_text() + MORE)
    (tmp_path / "sweep.yaml").write_text(
        f"""
models:
  - name: {nets}:impossible
    inputs: ["x:batch,4"]
  - name: {nets}:forked
    inputs: ["x:batch,4"]
  - name: {nets}:deadly
    inputs: ["x:batch,4"]
  - name: {nets}:small
    inputs: ["x:batch,3,16,16"]
backends: [torch, onnxruntime]
threads: 1
repetitions: 1
min_time: 0.02
""",
        encoding="utf-8",
    )
    ran = run("sweep", tmp_path / "sweep.yaml", "--json")
    assert ran.code == 3, "one export fails its parity check"
    tasks = {(item["task"].split()[0], item["task"].split(":")[1].split()[0]): item for item in ran.json["tasks"]}
    for name in ("impossible", "forked", "deadly"):
        assert tasks["export", name]["state"] == "failed" and tasks["export", name]["reason"]
    assert {tasks[kind, "small"]["state"] for kind in ("export", "bench")} == {"done"}
    assert tasks["bench", "deadly"]["state"] == "failed"
    assert "SIGSEGV" in tasks["export", "deadly"]["reason"] and "SIGSEGV" in tasks["bench", "deadly"]["reason"]
    cells = {(cell["model"].split(":")[1], cell["backend"]): cell for cell in ran.json["cells"]}
    assert cells["small", "torch"]["state"] == cells["small", "onnxruntime"]["state"] == "timed"
    assert cells["impossible", "torch"]["state"] == "timed", "PyTorch needs no export"
    assert cells["impossible", "onnxruntime"]["reason"].startswith(tasks["export", "impossible"]["task"])
    assert "SIGSEGV" in cells["deadly", "torch"]["reason"]
    assert "deadly" in (store / "report" / "report.md").read_text()
    assert verify(store).problems == ()


def test_engines_are_built_without_a_gpu(run: Run, artifacts: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'deploy-toolkit[rtx]'")
    words = ("--backends", "onnxruntime,tensorrt", "--precision", "fp16", "--no-report", "--json")
    ran = run("sweep", "lenet5", "--repetitions", 1, "--min-time", 0.02, "--threads", 1, *words)
    assert ran.code == 0, ran.err
    assert _states(ran)["build lenet5 fp16"] == "done" and len(list(artifacts.glob("lenet5/*.engine"))) == 1
    cells = _cells(ran)
    assert cells["lenet5", "tensorrt", "fp16"]["state"] == "skipped" and cells["lenet5", "tensorrt", "fp16"]["reason"]
    assert cells["lenet5", "onnxruntime", "fp16"]["state"] == "timed"


@pytest.mark.slow
def test_a_sweep_resumes_after_a_signal(artifacts: Path) -> None:
    words = [sys.executable, "-m", "deploy.cli.main", "--artifacts", str(artifacts), "sweep", "lenet5", "--no-report"]
    words += ["--backends", "onnxruntime", "--precision", "fp32,int8", "--calib", "digits", *map(str, QUICK), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 60
    while not list(artifacts.glob(".sweeps/export*.json")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert json.loads(out)["error"]["kind"] == "Terminated"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert verify(artifacts).problems == () and not list(artifacts.rglob(".scratch-*"))
    done = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    states = {item["task"]: item["state"] for item in done["tasks"]}
    assert states["export lenet5 fp32"] == "kept" and states["bench lenet5"] == "done"


@pytest.mark.slow
def test_concurrent_exports(run: Run, store: Path, nets: Path, tmp_path: Path) -> None:
    text = f"models:\n  - {{name: '{nets}:small', inputs: ['x:batch,3,16,16']}}\n  - zoo/lenet5\n"
    (tmp_path / "two.yml").write_text(f"{text}backends: [onnxruntime]\nrepetitions: 1\nmin_time: 0.02\n")
    ran = run("sweep", tmp_path / "two.yml", "--jobs", "2", "--no-report", "--json")
    assert ran.code == 0, ran.err
    assert {item["state"] for item in ran.json["tasks"]} == {"done"}
    assert len(Store(store).artifacts()) == 2


@pytest.mark.parametrize(
    ("words", "datum"),
    [
        (("lenet5", "zoo/lenet5"), "models[1]"),
        (("lenet5", "--precision", "int8"), "calib"),
        (("lenet5", "--calib", "digits"), "--calib"),
        (("lenet5", "--samples", "8"), "--samples"),
        (("lenet5", "--precision", "fp8"), "'fp8'"),
        (("lenet5", "--backends", "onyx"), "'onyx'"),
        (("lenet5", "--engine", "slurm"), "'slurm'"),
        (("lenet5", "--jobs", "4000"), "--jobs 4000"),
        (("{file}", "--batch", "2"), "'batches'"),
        (("{file}", "lenet5"), "{file}"),
        (("{file}",), "a, b"),
        (("nothing.yaml",), "nothing.yaml"),
        ((), "FILE.yaml"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, words: tuple[str, ...], datum: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [lenet5]\nmachines: [{name: a}, {name: b}]\n")
    ran = run("sweep", *(word.format(file=file) for word in words))
    assert ran.code == 2 and datum.format(file=file) in ran.err
    assert "Traceback" not in ran.err
