"""The pytest plugin: real runs of pytest on a small project that holds its export."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

pytest_plugins = ["pytester"]

INSTALLED = any(item.value == "deploy.testing.plugin" for item in importlib.metadata.entry_points(group="pytest11"))
"""Whether pytest finds the plugin by itself."""
PLUGIN = () if INSTALLED else ("-p", "deploy.testing.plugin")
NETS = """
import torch


def build(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def first():
    return build(1)


def second():
    return build(2)


class Constant(torch.nn.Module):
    def forward(self, x):
        return x * 0.0
"""
TEST = """
import torch
import nets

X = torch.zeros(2, 8)


def test_first(deploy_export):
    deploy_export(nets.first(), X, "models/first.onnx", strategy="trace", probes="quick")


def test_second(deploy_export):
    deploy_export(nets.second(), X, "models/second.onnx", strategy="trace", probes="quick")


def test_constant(deploy_export):
    deploy_export(nets.Constant(), X, "constant.onnx", strategy="trace")
"""


def run(pytester: pytest.Pytester, *more: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", "-W", "error", *more, timeout=300)


def test_held_exports(pytester: pytest.Pytester) -> None:
    nets = pytester.makepyfile(nets=NETS)
    pytester.makepyfile(test_nets=TEST)
    models = pytester.path / "models"

    written = run(pytester, "--deploy-update")
    written.assert_outcomes(passed=2, failed=1)
    assert "inconclusive" in written.stdout.str()  # what the parity check does not pass is not written
    names = ["first.onnx", "first.onnx.json", "second.onnx", "second.onnx.json"]
    assert sorted(item.name for item in models.iterdir()) == names
    assert json.loads((models / names[1]).read_text(encoding="utf-8"))["files"][0]["file"] == names[0]
    assert not list(pytester.path.glob("constant*")) and not (pytester.path / "artifacts").exists()

    nets.write_text(NETS.replace("build(2)", "build(3)"), encoding="utf-8")
    before = (models / "second.onnx").read_bytes()
    held = run(pytester)
    held.assert_outcomes(passed=1, failed=2)
    text = held.stdout.str()
    assert "verdict is fail" in text and "constant.onnx" in text and "--deploy-update" in text
    assert "Traceback" not in text and (models / "second.onnx").read_bytes() == before


def test_pytest_starts_without_heavy_packages(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys


        def test_light():
            assert not {"torch", "onnx", "onnxruntime", "numpy", "click"} & set(sys.modules)
        """
    )
    run(pytester).assert_outcomes(passed=1)
