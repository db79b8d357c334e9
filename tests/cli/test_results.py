"""Results are alone on standard output: what the code of a model prints goes to standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deploy.terminal import results

LOUD = """\
import sys
import torch

print("imported")
sys.stdout.write("really\\n")


class Loud(torch.nn.Linear):
    def forward(self, x):
        print("running")
        return super().forward(x)


def build():
    print("built")
    return Loud(4, 3)
"""


@pytest.mark.parametrize("as_json", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["JSON", "table"])
def test_a_model_that_prints(tmp_path: Path, as_json: bool) -> None:
    file = tmp_path / "loud.py"
    file.write_text(LOUD, encoding="utf-8")
    command = [
        sys.executable, "-m", "deploy.cli.main", "--artifacts", str(tmp_path / "artifacts"), "export", f"{file}:build",
        "--input", "x:batch,4", "--weights", "none", "--probes", "quick", *(["--json"] if as_json else []),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert all(word in done.stderr for word in ("imported", "really", "built", "running"))
    assert not any(word in done.stdout for word in ("imported", "really", "built", "running"))
    if as_json:
        assert json.loads(done.stdout)["parity"]["verdict"] == "pass"
    else:
        assert done.stdout.startswith("file")


def test_help_and_errors_are_where_they_were() -> None:
    @click.group()
    def group() -> None:
        pass

    @group.command()
    @click.option("--fail", is_flag=True)
    def inner(fail: bool) -> None:
        """Say something."""
        sys.stdout.write("noise\n")
        results.echo("result")
        if fail:
            raise click.ClickException("failed")

    results.keep_apart(results.keep_apart(group))  # once is enough
    runner = CliRunner()
    assert "Say something." in runner.invoke(group, ["inner", "--help"]).stdout
    done = runner.invoke(group, ["inner"])
    assert (done.stdout, done.stderr) == ("result\n", "noise\n")
    done = runner.invoke(group, ["inner", "--fail"])
    assert done.stdout == "result\n" and "failed" in done.stderr
    assert results.stream() is sys.stdout, "put back"
