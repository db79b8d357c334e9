"""Shell completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    command = str(Path(sys.executable).with_name("deploy"))
    environment = {**os.environ, "_DEPLOY_COMPLETE": f"{shell}_source"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "_DEPLOY_COMPLETE" in done.stdout
    environment = {**os.environ, "_DEPLOY_COMPLETE": "bash_complete", "COMP_WORDS": "deploy ex", "COMP_CWORD": "1"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "plain,export" in done.stdout
