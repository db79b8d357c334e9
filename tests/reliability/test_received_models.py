"""A manifest that somebody else made names code: it is not run because of that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.core.checked import dump_checked, load_checked
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]

NET = """
from pathlib import Path

import torch


def build(**options):
    Path(__file__).with_name("CANARY").touch()
    return torch.nn.Linear(4, 2)
"""


@pytest.fixture
def received(lenet5: Path, store: Path) -> Path:
    """An artifacts directory whose manifest names a function beside it."""
    shutil.copytree(lenet5, store)
    (store / "lenet5" / "evil.py").write_text(NET, encoding="utf-8")
    beside = store / "lenet5" / "lenet5.fp32.onnx.json"
    manifest = load_checked(beside.read_text(encoding="utf-8"))
    manifest["reference"] |= {"name": f"{store}/lenet5/evil.py:build", "inputs": ["x:batch,4"]}
    beside.write_text(dump_checked(manifest), encoding="utf-8")
    return store


@pytest.mark.parametrize(
    "command",
    [
        ("check",),
        ("check", "--onnx", "{}"),
        ("bench", "lenet5", "--backends", "torch"),
        ("evaluate", "{}", "--data", "digits"),
        pytest.param(("compare", "lenet5", "{}", "--time-limit", "1"), marks=pytest.mark.slow),
        ("package", "{}", "--allow-untrained"),
    ],
)
def test_code_that_only_a_received_manifest_names_is_not_run(
    run: Run, received: Path, command: tuple[str, ...]
) -> None:
    file = str(received / "lenet5" / "lenet5.fp32.onnx")
    run(*(part.format(file) for part in command))
    assert not (received / "lenet5" / "CANARY").exists()
    assert run("check", "--onnx", file).code == 2


def test_own_code_is_run_from_a_manifest_after_the_user_named_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NET, encoding="utf-8")

    def deploy(*arguments: str, state: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments],
            cwd=tmp_path,
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / state)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout

    made, text = deploy("export", "mine.py:build", "--input", "x:batch,4", "--json", state="mine")
    assert made == 0 and json.loads(text)["parity"]["verdict"] == "pass"
    assert deploy("check", state="mine")[0] == 0
    assert deploy("check", state="of another user")[0] == 2
