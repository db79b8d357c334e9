"""SIGINT and SIGTERM end a command at once with exit code 130 or 143, and partial results are discarded."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.tools.verify import verify
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

from .conftest import listing

ALLOWED = {"train": {".safetensors", ".state", ".json", ".csv"}, "bench": {".safetensors", ".onnx", ".json"}}
"""Suffixes of files that may be new: checkpoints of completed epochs; a missing export that was completed."""
COMMAND = [sys.executable, "-u", "-m", "deploy.cli.main"]


def _started(store: Path, until: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command and wait until it prints a line that starts with ``until``."""
    process = subprocess.Popen(
        [*COMMAND, "--artifacts", str(store), *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    if until:
        for line in process.stderr:
            if line.startswith(until):
                break
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("until", by_day(("WARNING", "building the model", "exporting"), "building the model"))
def test_stopped_in_a_stage(tmp_path: Path, until: str, number: int, code: int) -> None:
    store = tmp_path / "artifacts"
    process = _started(store, until, "export", "zoo/vgg11_small")
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not [path for path in store.rglob("*") if path.is_file() and path.name != ".lock"]


STAGES = {
    "quantize": ("preparing the graph", ("quantize", "zoo/lenet5", "--calib", "digits")),
    "train": ("note: epoch 1", ("train", "zoo/lenet5", "--data", "digits", "--epochs", "50")),
    "trt build": ("note: building with", ("trt", "build", "lenet5", "--runtime", "tensorrt-rtx")),
    "bench": ("writing", ("bench", "zoo/lenet", "--backends", "onnxruntime", "--min-time", "5")),
    "evaluate": ("reading the data", ("evaluate", "lenet5", "--data", "digits")),
}
"""Last message before each command is stopped, and its arguments."""


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
@pytest.mark.parametrize("name", by_day(STAGES, "quantize", "train"))
def test_another_command_stopped(lenet5: Path, tmp_path: Path, name: str, number: int, code: int) -> None:
    store = tmp_path / "artifacts"
    shutil.copytree(lenet5, store)
    before = listing(store)
    until, words = STAGES[name]
    process = _started(store, until, *words)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    after = listing(store)
    assert before.items() <= after.items() and verify(store).problems == ()
    assert {Path(name).suffix for name in after.keys() - before.keys()} <= ALLOWED.get(name, set()), after.keys()


def test_a_signal_that_a_library_swallows_is_not_lost(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "import os, signal, torch\n"
        "def build():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.sigtimedwait([], 0.1)\n"
        "    except BaseException:\n"
        "        pass\n"
        "    return torch.nn.Linear(4, 2)\n"
    )
    store = tmp_path / "artifacts"
    arguments = ["--artifacts", str(store), "export", f"{net}:build", "--input", "x:batch,4"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert not list(store.rglob("*.onnx"))
