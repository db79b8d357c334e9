"""One command finds the fastest way to run a model that is still right, and its choice can be deployed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import deploy
from deploy.bench.measure import measure_speed
from deploy.core.backend import find_backend
from deploy.core.errors import BackendError, DigestError, UsageError
from deploy.support.cuda_driver import gpus
from deploy.support.deployment import load, save
from tests.conftest import Ran
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
QUICK = ("--threads", "1", "--budget", "1s")


@pytest.mark.parametrize("kind", by_day(("plain", "float", "INT8"), "plain"))
def test_a_choice_with_its_evidence_that_can_be_deployed(run: Run, artifacts: Path, kind: str) -> None:
    eight = kind == "INT8"
    words = ("--data", "digits", "--effort", "low") if eight else ("--precision", "fp32")
    words = (*words, "--plain") if kind == "plain" else words
    ran = run("optimize", "lenet5", "--backends", "torch,onnxruntime", "--json", *words, *QUICK)
    found = ran.json
    assert ran.code == 0 or (ran.code == 4 and "the time was up" in found["reason"]), ran.err  # on a busy machine
    first, *others = found["candidates"]
    assert first["state"] == "winner" and first["ratio"]["value"] == 1.0
    assert found["bounds"]["max_drop"] == (0.5 if eight else None)
    kinds = {(item["backend"], item["precision"], item["variant"]) for item in found["candidates"]}
    assert {("torch", "fp32", ""), ("onnxruntime", "fp32", "")} <= kinds
    variants = {("torch", "fp32", "channels last"), ("onnxruntime", "fp32", "fixed sizes")}
    assert variants.isdisjoint(kinds) if kind == "plain" else variants <= kinds
    assert (("onnxruntime", "int8", "") in kinds) == eight
    assert all(item["evidence"]["verdict"] in ("pass", "reference") for item in found["candidates"])
    assert found["speedup"]["low"] < found["speedup"]["value"] and all(item["rounds"] >= 3 for item in others)

    path = artifacts / "lenet5" / "deployment.json"
    choice = load(path)
    assert (choice.backend, choice.file, choice.variant) == (first["backend"], first["file"], first["variant"])
    assert deploy.verify(artifacts).problems == ()
    packed = run("package", path, "--for", "standalone", "--output", artifacts.parent / "packed")
    assert packed.code == 0, packed.err
    assert (
        run("inspect", path, "--json").json["file"]
        == run("inspect", path.with_name(str(choice.file)), "--json").json["file"]
    )

    document = json.loads(path.read_text(encoding="utf-8"))
    document["deployment"]["file"] = "lenet5.fp16.onnx"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DigestError):
        load(path)


@pytest.fixture
def choice(artifacts: Path) -> Path:
    """A choice of ONNX Runtime with options and threads that are not the usual ones."""
    deploy.optimize(
        "lenet5",
        backends=["onnxruntime"],
        precisions=["fp32"],
        variants=False,
        threads=[1],
        budget_s=0.5,
        artifacts=artifacts,
    )
    path = artifacts / "lenet5" / "deployment.json"
    changed = dataclasses.replace(
        load(path),
        variant="extended",
        changed={"optimization": "extended"},
        evidence={"verdict": "pass", "reasons": []},
    )
    return save(artifacts, "lenet5", changed)


@pytest.mark.slow
def test_a_choice_is_timed_as_it_was_chosen(run: Run, choice: Path) -> None:
    quick = ("--quick", "--json")
    (row,) = run("bench", choice, *quick).json["rows"]
    assert (row["backend"], row["precision"], row["threads"], row["batch"]) == ("onnxruntime", "fp32", 1, 1)
    assert row["options"]["variant"] == row["options"]["optimization"] == "extended"
    assert "onnxruntime extended" in run("bench", choice, "--quick").out
    rows = run("bench", choice, "lenet5", "--backends", "onnxruntime", "--precision", "fp32", *quick).json["rows"]
    assert {row["options"].get("variant") for row in rows} == {"extended", None}, "as chosen, and as usual"
    (other,) = run("bench", choice, "--backends", "openvino", "--batch", "2", *quick).json["rows"]
    assert (other["backend"], other["batch"], other["options"].get("variant")) == ("openvino", 2, None)


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_a_device_that_is_named_comes_before_that_of_the_choice(choice: Path) -> None:
    report = measure_speed([choice], device="cuda", quick=True, artifacts=choice.parents[1])
    assert not report.rows and report.skipped, "not timed on the CPU in its place"


def test_a_choice_of_other_weights_is_not_timed(run: Run, choice: Path) -> None:
    save(choice.parent.parent, "lenet5", dataclasses.replace(load(choice), file=None, backend="torch"))
    refused = run("bench", choice, "--quick")
    assert refused.code == 4 and "other weights" in refused.out


@pytest.mark.slow
def test_a_choice_of_pytorch_is_timed_with_the_same_weights(run: Run, choice: Path) -> None:
    words = ("--backends", "torch", "--precision", "fp32", "--quick", "--json")
    (row,) = run("bench", "lenet5", *words).json["rows"]
    eager = dataclasses.replace(load(choice), file=None, backend="torch", sha256=row["digest"], variant="", changed={})
    save(choice.parent.parent, "lenet5", eager)
    (timed,) = run("bench", choice, "--quick", "--json").json["rows"]
    assert (timed["backend"], timed["threads"], timed["digest"]) == ("torch", 1, row["digest"])


def test_what_breaks_a_bound_is_not_chosen(run: Run, artifacts: Path) -> None:
    words = ("optimize", "lenet5", "--plain", "--backends", "onnxruntime,openvino", "--precision", "fp32", *QUICK)
    late = run(*words, "--max-latency", "1us", "--json")
    assert late.code == 3 and late.json["verdict"] == "fail" and late.json["candidates"][0]["median_ns"]["value"] > 1e3
    large = run(*words, "--max-size", "10kB")
    assert large.code == 1 and "above 10,000" in large.err


def test_a_backend_that_dies_is_a_row(artifacts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It passes the parity check, and its process ends while it is timed."""
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "from deploy.backends.openvino import runner\n"
        "def open(path, **options):\n"
        "    opened = runner.open(path, **options)\n"
        "    launch, calls = opened.launch, []\n"
        "    def dies():\n"
        "        calls.append(1)\n"
        "        os._exit(9) if len(calls) > 60 else launch()\n"
        "    opened.launch = dies\n"
        "    return opened\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dying = dataclasses.replace(find_backend("openvino"), runner="dying")
    monkeypatch.setattr("deploy.backends.openvino.BACKEND", dying)
    options: dict[str, Any] = {"precisions": ["fp32"], "threads": [1], "variants": False, "artifacts": artifacts}
    found = deploy.optimize("lenet5", backends=["openvino", "onnxruntime"], budget_s=1, **options)
    assert [(item.backend, item.state) for item in found.candidates] == [
        ("onnxruntime", "winner"),
        ("openvino", "failed"),
    ]
    assert found.candidates[1].reason
    with pytest.raises(BackendError, match="no candidate could be timed"):
        deploy.optimize("lenet5", backends=["openvino"], budget_s=1, **options)


def test_arguments_that_would_have_no_effect(artifacts: Path) -> None:
    with pytest.raises(UsageError, match="--objective throughput"):
        deploy.optimize("lenet5", batches=[1, 8], artifacts=artifacts)
    with pytest.raises(UsageError, match="--data has no effect"):
        deploy.optimize("lenet5", data="digits", precisions=["fp32"], artifacts=artifacts)
    with pytest.raises(UsageError, match="--min-sqnr has no effect"):
        deploy.optimize("lenet5", min_sqnr=30.0, precisions=["fp32"], artifacts=artifacts)
    with pytest.raises(UsageError, match="--max-drop is measured on data"):
        deploy.optimize("lenet5", max_drop=0.5, artifacts=artifacts)
