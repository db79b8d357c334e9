"""A target and a statistic of a third party, registered through entry points, and used by ``deploy quantize``."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]
TARGET = '''
"""An accelerator that multiplies int8 and adds in float16."""

from calibration.grid import Grid
from calibration.target import QdqRules, Target

RULES = QdqRules(grid=Grid(symmetric=True), operators=("Conv", "Gemm"), outputs=False, bias=False)


def quantize(model, ranges, keep_float, features):
    from calibration.qdq import insert

    return insert(model, ranges, RULES, keep_float)


TARGET = Target(name="tiny-npu", title="Tiny NPU", grid=RULES.grid, quantize=quantize, half=True)
'''
STATISTIC = '''
"""Half of the range of all values."""


def choose(histogram, grid):
    return grid.around(histogram.low / 2, histogram.high / 2)
'''
BROKEN = "TARGET = 'not a Target'\n"

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def _distribution(folder: Path, **modules: tuple[str, str]) -> Path:
    """A folder as pip leaves it.

    Args:
        folder: where to write.
        modules: source and group of the entry point, by module name.
    """
    points = []
    for name, (source, group) in modules.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        points.append(f"[{group}]\n{name} = {name}\n")
    metadata = folder / "tiny_npu-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-npu\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(points))
    return folder


def _python(site: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join((str(site), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "DEPLOY_ARTIFACTS": str(site / "artifacts")}
    return subprocess.run([sys.executable, *arguments], cwd=site, env=environment, capture_output=True, text=True)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return _distribution(
        tmp_path,
        tiny_npu=(TARGET, "calibration.targets"),
        half_range=(STATISTIC, "calibration.statistics"),
    )


def test_deploy_quantize_uses_the_target_and_the_statistic(
    site: Path, change: Callable[[Callable[[onnx.ModelProto], None]], Path], images: np.ndarray
) -> None:
    def raise_opset(model: onnx.ModelProto) -> None:
        model.CopyFrom(onnx.version_converter.convert_version(model, 20))

    np.savez(site / "images.npz", input=images)
    options = ["--calib", str(site / "images.npz"), "--target", "tiny-npu", "--method", "half_range"]
    source = str(change(raise_opset))
    done = _python(site, "-m", "deploy.cli.main", "quantize", source, *options, "--fp16", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["target"] == "tiny-npu" and report["options"]["method"] == "half_range"
    graph = onnx.load(report["file"]).graph
    stored = {item.name: item for item in graph.initializer}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantized and {stored[node.input[2]].data_type for node in quantized} == {onnx.TensorProto.INT8}
    assert onnx.TensorProto.FLOAT16 in {item.data_type for item in graph.initializer}


def test_an_unknown_target_is_refused_with_the_third_party_among_the_known(site: Path) -> None:
    done = _python(site, "-m", "deploy.cli.main", "quantize", "m.onnx", "--calib", "digits", "--target", "tinynpu")
    assert done.returncode == 2 and "tiny-npu" in done.stderr


def test_a_plug_in_without_a_declaration_is_named(tmp_path: Path) -> None:
    site = _distribution(tmp_path, broken_npu=(BROKEN, "calibration.targets"))
    (tmp_path / "m.onnx").touch()
    done = _python(site, "-m", "deploy.cli.main", "quantize", str(tmp_path / "m.onnx"), "--calib", "digits")
    assert done.returncode == 1 and "broken_npu" in done.stderr


def test_listing_targets_imports_no_runtime(site: Path) -> None:
    code = (
        "import sys\n"
        "from calibration.target import targets\n"
        "print(sorted(targets()), [name for name in ('onnx', 'onnxruntime', 'torch') if name in sys.modules])\n"
    )
    done = _python(site, "-c", code)
    assert done.stdout.strip() == "['onnxruntime', 'openvino', 'tensorrt', 'tensorrt-fp8', 'tiny-npu'] []", done.stderr
