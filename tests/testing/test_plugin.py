"""The pytest plugin: real runs of pytest on a small project that holds its export."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

pytest_plugins = ["pytester"]

INSTALLED = any(item.value == "deploy.testing.plugin" for item in importlib.metadata.entry_points(group="pytest11"))
"""Whether pytest finds the plugin by itself."""
PLUGIN = () if INSTALLED else ("-p", "deploy.testing.plugin")
NET = """
import torch


def build():
    torch.manual_seed({seed})
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
"""
TEST = """
import torch
import nets


class Constant(torch.nn.Module):
    def forward(self, x):
        return x * 0.0


def test_export(deploy_export):
    deploy_export(nets.build(), torch.zeros(2, 8), "models/net.onnx", strategy="trace", probes="quick")


def test_constant(deploy_export):
    deploy_export(Constant(), torch.zeros(2, 8), "constant.onnx", strategy="trace")
"""


def run(pytester: pytest.Pytester, *more: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", "-W", "error", *more, timeout=300)


def test_a_held_export(pytester: pytest.Pytester) -> None:
    net = pytester.makepyfile(nets=NET.format(seed=1))
    pytester.makepyfile(test_net=TEST)
    path = pytester.path / "models" / "net.onnx"

    written = run(pytester, "--deploy-update")
    written.assert_outcomes(passed=1, failed=1)
    assert "inconclusive" in written.stdout.str()  # what the parity check does not pass is not written
    manifest = json.loads(path.with_name("net.onnx.json").read_text(encoding="utf-8"))
    assert manifest["files"][0]["file"] == "net.onnx"
    assert sorted(item.name for item in path.parent.iterdir()) == ["net.onnx", "net.onnx.json"]
    assert not list(pytester.path.glob("constant*")) and not (pytester.path / "artifacts").exists()
    before = path.read_bytes()

    held = run(pytester)
    held.assert_outcomes(passed=1, failed=1)
    assert "constant.onnx" in held.stdout.str() and "--deploy-update" in held.stdout.str()

    net.write_text(NET.format(seed=2), encoding="utf-8")
    differs = run(pytester, "-k", "test_export")
    differs.assert_outcomes(failed=1, deselected=1)
    assert "verdict is fail" in differs.stdout.str() and "Traceback" not in differs.stdout.str()
    assert path.read_bytes() == before


def test_pytest_starts_without_heavy_packages(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys


        def test_light():
            assert not {"torch", "onnx", "onnxruntime", "numpy", "click"} & set(sys.modules)
        """
    )
    run(pytester).assert_outcomes(passed=1)
