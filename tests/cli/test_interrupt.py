"""A command that is stopped, or that the disk refuses, leaves nothing behind."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-u", "-m", "deploy.cli.main"]


def _started(store: Path, until: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a command; return when it has finished the stage before the one it is to be stopped in."""
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
@pytest.mark.parametrize("until", ["WARNING", "building the model", "exporting"])
def test_stopped_in_a_stage(tmp_path: Path, until: str, number: int, code: int) -> None:
    store = tmp_path / "artifacts"
    process = _started(store, until, "export", "zoo/vgg11_small")
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "nothing unfinished was kept" in err and "Traceback" not in err
    assert not [path for path in store.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    store = tmp_path / "artifacts"
    export = [*COMMAND, "--artifacts", str(store), "-q", "export", "zoo/lenet5", "--weights", "none"]
    subprocess.run(export, check=True, capture_output=True)
    path = store / "lenet5" / "lenet5.fp32.onnx"
    before = path.read_bytes()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run([*export, "--seed", "1"], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == before
    assert sorted(item.name for item in path.parent.iterdir()) == [".lock", path.name, f"{path.name}.json"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    command = str(Path(sys.executable).with_name("deploy"))
    environment = {**os.environ, "_DEPLOY_COMPLETE": f"{shell}_source"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "_DEPLOY_COMPLETE" in done.stdout
    environment = {**os.environ, "_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": "deploy ex", "COMP_CWORD": "1"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "plain,export" in done.stdout


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
