"""FP8: the pairs of INT8 for TensorRT with values in E4M3, judged on the CPU, and built by TensorRT for RTX."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deploy import BuildRequest, build_engine, export_model, quantize
from deploy.core.errors import DeployError, ExportError, UsageError

Arrays = dict[str, np.ndarray[Any, Any]]


class Small(torch.nn.Module):
    """A convolution, a depthwise one, a residual sum, and a linear layer whose weight others share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.depth = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = torch.nn.Conv2d(8, 8, 1)
        self.head = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x).relu()
        y = (y + self.point(self.depth(y))).relu().permute(0, 2, 3, 1)
        result: torch.Tensor = self.head(self.head(y).relu())
        return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An export, and samples whose largest value is 40 times the usual one."""
    folder = tmp_path_factory.mktemp("fp8")
    torch.manual_seed(0)
    export_model(Small().eval(), inputs={"x": torch.randn(2, 1, 12, 12)}, artifacts=folder, opset=20)
    samples = np.random.default_rng(0).standard_normal((24, 1, 12, 12)).astype(np.float32)
    samples[0, 0, 0, 0] = 40.0
    np.save(folder / "samples.npy", samples)
    return folder, folder / "samples.npy"


def stored(path: Path) -> tuple[onnx.ModelProto, Arrays]:
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return model, {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_values_and_scales(small: tuple[Path, Path]) -> None:
    folder, samples = small
    report = quantize(artifacts=folder, calib=samples, target="tensorrt-fp8", effort="low")
    assert report.artifact.manifest.precision == "fp8" and report.artifact.path.name.endswith(".fp8-tensorrt-fp8.onnx")
    model, values = stored(report.artifact.path)
    floats = stored(report.source)[1]
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) >= 11
    assert {values[node.input[2]].dtype for node in pairs} == {np.dtype(ml_dtypes.float8_e4m3fn)}
    rounded = [node for node in pairs if node.input[0] in values]
    assert len(rounded) == 4, "the weight of the head has one pair for its two readers"
    for node in rounded:
        name = node.input[0].removesuffix("_quantized")
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        weights, scale = np.moveaxis(floats[name], axis, 0), values[node.input[1]]
        kept = np.moveaxis(values[node.input[0]].astype(np.float32), axis, 0)
        flat = weights.reshape(len(weights), -1)
        np.testing.assert_allclose(scale * 448, np.abs(flat).max(1), rtol=1e-6, err_msg="one scale for each channel")
        made = kept.reshape(len(kept), -1) * scale[:, None]
        large = np.abs(flat) > 0.01 * np.abs(flat).max(1, keepdims=True)
        assert (np.abs(made - flat) / np.abs(flat))[large].max() <= 1 / 16, "half of the last of three bits"
    first = next(node for node in pairs if node.input[0] == "x")
    assert values[first.input[1]] == pytest.approx(40 / 448), "the largest value that was seen"


def test_a_far_value_costs_fp8_less_than_int8(small: tuple[Path, Path]) -> None:
    folder, samples = small
    fp8, int8 = (
        quantize(artifacts=folder, calib=samples, target=target, method=method, effort="low")
        .evidence.outputs[0]
        .sqnr_db
        for target, method in (("tensorrt-fp8", "mse"), ("tensorrt", "minmax"))
    )
    assert fp8 is not None and int8 is not None and fp8 > 15 and fp8 > int8 + 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "entropy"}, "--method entropy"), ({"fp16": True}, "--fp16 is not possible for tensorrt-fp8")],
)
def test_what_only_integers_need(small: tuple[Path, Path], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        quantize(artifacts=small[0], calib=small[1], target="tensorrt-fp8", **options)


def test_an_old_opset_is_refused(tmp_path: Path, small: tuple[Path, Path]) -> None:
    export_model(
        Small().eval(), inputs={"x": torch.randn(2, 1, 12, 12)}, artifacts=tmp_path, opset=17, strategy="trace"
    )
    with pytest.raises(UsageError, match="tensorrt-fp8 needs opset 19, and the file has 17"):
        quantize(artifacts=tmp_path, calib=small[1], target="tensorrt-fp8")


def test_engines(small: tuple[Path, Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder, samples = small
    report = build_engine(BuildRequest(fp8=True, calib=samples, runtime="tensorrt-rtx"), artifacts=folder)
    assert report.artifact.manifest.precision == "fp8" and set(report.built.weighted) == {"fp8"}
    recorded = report.artifact.manifest.options
    assert "8.9" in recorded["compute_capabilities"] and "8.6" not in recorded["compute_capabilities"]
    assert "--fp8" in recorded["rebuild"] and "decided on the GPU" in str(report.to_dict()["arithmetic"])
    with pytest.raises(ExportError, match=r"sm86.*fp8"):
        build_engine(
            BuildRequest(fp8=True, calib=samples, runtime="tensorrt-rtx", compute_capabilities=("8.6",)),
            artifacts=folder,
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fp8": True}, "--fp8 needs calibration data"),
        ({"fp8": True, "int8": True, "calib": "digits"}, "--fp8 and --int8"),
        ({"fp8": True, "fp16": True, "calib": "digits"}, "--fp8 and --fp16"),
        ({"calib": "digits"}, "only --int8 and --fp8"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=words):
        build_engine(BuildRequest(model="zoo/lenet5", **options), artifacts=tmp_path)
