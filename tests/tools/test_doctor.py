"""`deploy doctor`, as typed."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts metadata of a package before that of the installed one, as if that version were installed."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def put(package: str, version: str) -> None:
        folder = site / f"{package}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        importlib.invalidate_caches()

    return put


def test_everything_is_tried(run: Run) -> None:
    done = run("doctor", "--json")
    assert done.code == 0, done.json
    states = {finding["name"]: finding["state"] for finding in done.json["findings"]}
    needed = ("Python", "INT8 on this CPU", "torch", "onnx", "ONNX Runtime on CPU", "required versions")
    assert {states[name] for name in needed} == {"works"}
    assert {"a sweep on a cluster", "the server", "OpenVINO"} <= set(states)
    assert done.json["versions"]["torch"] == torch.__version__.partition("+")[0]
    shown = run("doctor").out
    assert all(name in shown for name in states)


@pytest.mark.slow
def test_versions_older_than_the_package_requires(run: Run, installed: Callable[[str, str], None]) -> None:
    installed("onnx", "1.20.1")
    installed("timm", "0.9.16")
    done = run("doctor", "--json")
    assert done.code == 1, "the exit code says that something required does not work"
    findings = {finding["name"]: finding for finding in done.json["findings"]}
    required, optional = findings["required versions"], findings["timm models"]
    assert required["state"] == "broken" and "1.20.1" in required["detail"] and "'onnx>=1.21'" in required["fix"]
    assert "timm" not in required["detail"], "an optional package is not required"
    assert optional["state"] == "unavailable" and "0.9.16" in optional["detail"] and "[timm]" in optional["fix"]


ONNXRUNTIME = """
import numpy
loaded = False
def preload_dlls():
    global loaded
    loaded = True
def set_default_logger_severity(severity): pass
class InferenceSession:
    def __init__(self, model, providers):
        self.providers = providers if loaded else ["CPUExecutionProvider"]
    def get_providers(self): return self.providers
    def run(self, names, feeds): return [2 * feeds["a"]]
"""
"""An ONNX Runtime that finds CUDA's libraries in Python's wheels only after ``preload_dlls``."""


def test_cuda_is_tried_with_the_libraries_of_python_s_wheels(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(ONNXRUNTIME, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    states = {finding["name"]: finding["state"] for finding in run("doctor", "--json").json["findings"]}
    assert states["ONNX Runtime on CUDA"] == states["ONNX Runtime on CPU"] == "works"
