"""`make gpu-check`: on a machine without a GPU, and its rehearsal on a CPU, where nothing that fails loses the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.support.cuda_driver import gpus

ROOT = Path(__file__).parents[2]

NETS = """
import os, torch
class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.head(x).sigmoid()
class Deadly(Small):
    def forward(self, x):
        if x.dtype == torch.float16:
            os.abort()
        return super().forward(x)
def small(): return Small()
def deadly(): return Deadly()
"""


def check(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu_it_writes_nothing() -> None:
    before = set((ROOT / "benchmarks" / "results").rglob("*"))
    done = check()
    assert done.returncode == 1 and "GPU" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert set((ROOT / "benchmarks" / "results").rglob("*")) == before


@pytest.mark.slow
@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_a_process_that_dies_and_a_package_that_is_missing_lose_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError('no onnxruntime here')", encoding="utf-8")
    models = [f"{tmp_path}/nets.py:{name}" for name in ("deadly", "small")]
    words = [*models, "--device", "cpu", "--only", "torch", "--only", "onnxruntime", "--rounds", "2", "--warm", "0.1"]
    words += ["--input", "x:batch,4", "--jobs", "2"]
    done = check(*words, "--out", str(tmp_path / "out"), environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2, done.stdout + done.stderr
    document: dict[str, Any] = json.loads((tmp_path / "out" / "cpu.json").read_text(encoding="utf-8"))
    deadly, small = (document["models"][name] for name in models)
    assert set(document["ended"]) == {models[0]}
    assert [(row["backend"], row["precision"], row["verdict"]) for row in deadly][:1] == [("torch", "fp32", "pass")]
    of_small = {(row["backend"], row["precision"]): row for row in small}
    assert of_small["torch", "fp32"]["verdict"] == "pass" and len(of_small["torch", "fp32"]["medians_ms"]) == 2
    assert of_small["torch graph", "fp32"]["skipped"]
    assert "onnxruntime" in of_small["onnxruntime cpu", "fp32"]["skipped"]
    again = check(models[1], *words[2:], "--out", str(tmp_path / "out"), environment={"PYTHONPATH": str(tmp_path)})
    kept = json.loads((tmp_path / "out" / "cpu.json").read_text(encoding="utf-8"))
    assert again.returncode == 0 and kept["models"][models[0]] == deadly, "other models in the file are kept"
    assert set(kept["ended"]) == {models[0]}
