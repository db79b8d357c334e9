"""`make gpu-check` on a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.support.cuda_driver import gpus

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu_it_writes_nothing() -> None:
    before = set((ROOT / "benchmarks" / "results").rglob("*"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "GPU" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert set((ROOT / "benchmarks" / "results").rglob("*")) == before
