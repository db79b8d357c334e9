"""A crash of the runtime while a graph is prepared, calibrated or compared is an error with an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
CRASH = """
import os, signal, sys

if "deploy.quantization.worker:GraphWorker" in sys.orig_argv:
    from deploy.quantization.worker import GraphWorker
    setattr(GraphWorker, "{step}", lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV))
"""


STEPS = ("prepare", "collect", "add", "observations", "compare", "noise")


@pytest.mark.parametrize("step", by_day(STEPS, "prepare", "collect", "noise"))
def test_at_each_step(run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    assert run("export", "zoo/lenet5", "--weights", "none").code == 0
    before = sorted(path.name for path in store.rglob("*") if path.is_file())
    (tmp_path / "sitecustomize.py").write_text(CRASH.replace("{step}", step), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    ran = run("quantize", "zoo/lenet5", "--calib", "digits", "--samples", "40", "--json")
    assert ran.code == 1 and ran.json["error"]["kind"] == "BackendCrashedError"
    assert "ONNX Runtime" in ran.err and "SIGSEGV" in ran.err
    left = [path.name for path in store.rglob("*") if path.is_file() and path.name not in before]
    assert all("calibration" in name or name == ".lock" for name in left), left
    (tmp_path / "sitecustomize.py").unlink()
    assert run("quantize", "zoo/lenet5", "--calib", "digits", "--samples", "40").code == 0
