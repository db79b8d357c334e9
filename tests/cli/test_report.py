"""``deploy report`` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

from tests.report.conftest import add_record


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True)


def test_the_command_prints_the_path_of_the_page(tmp_path: Path) -> None:
    add_record(tmp_path, "net")
    add_record(tmp_path, "net", "onnxruntime", ms=0.5)
    done = _run("--artifacts", str(tmp_path), "report", "--models", "net")
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout and "ONNX Runtime" in done.stdout
    document = json.loads(_run("--artifacts", str(tmp_path), "report", "--json").stdout)
    assert document["page"] == str(tmp_path / "report" / "index.html") and len(document["rows"]) == 2


def test_a_comparison(tmp_path: Path) -> None:
    for name, ms in (("old", 1.0), ("new", 1.5)):
        add_record(tmp_path / name, "net", ms=ms)
    done = _run("report", "--compare", str(tmp_path / "old"), str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert "slower" in done.stdout
    document = json.loads(_run("report", "--compare", str(tmp_path / "old"), str(tmp_path / "new"), "--json").stdout)
    assert [item["verdict"] for item in document["changes"]] == ["slower"]


def test_errors(tmp_path: Path) -> None:
    done = _run("--artifacts", str(tmp_path), "report")
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "deploy bench MODEL" in done.stderr
    done = _run("report", "--compare", str(tmp_path / "none"), str(tmp_path))
    assert done.returncode == 2 and str(tmp_path / "none") in done.stderr
    for option in (["--baseline", "torch"], ["--open"]):
        done = _run("report", "--compare", str(tmp_path), str(tmp_path), *option)
        assert done.returncode == 2 and option[0] in done.stderr
