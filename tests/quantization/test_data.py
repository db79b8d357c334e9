"""What arrays in calibration files are: inputs of the model, images for it, labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.core.errors import DataError
from deploy.quantization.quantize import QuantizeReport, quantize
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

RNG = np.random.default_rng(0)
READY = RNG.normal(size=(64, 3, 8, 8)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (64, 8, 8, 3), np.uint8)
RECIPE = ["crop=8,8", "mean=0.5,0.5,0.5", "std=0.5,0.5,0.5"]


def save(path: Path, name: str, *, scalar: bool = False, dtype: int = TensorProto.FLOAT) -> str:
    """Write a classifier of three classes; with ``scalar`` its result is multiplied by an input without dimensions."""
    nodes = [
        *([helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT)] if dtype != TensorProto.FLOAT else []),
        helper.make_node("Conv", [name if dtype == TensorProto.FLOAT else "cast", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f" if scalar else "y"]),
        *([helper.make_node("Mul", ["f", "factor"], ["y"])] if scalar else []),
    ]
    factor = [helper.make_tensor_value_info("factor", TensorProto.FLOAT, [])] if scalar else []
    graph = helper.make_graph(
        nodes,
        "net",
        [*factor, helper.make_tensor_value_info(name, dtype, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(RNG.normal(size=(3, 3, 3, 3)).astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def make(folder: Path, model: str, data: Path, **changes: Any) -> QuantizeReport:
    return quantize(model, calib=data, artifacts=folder / "artifacts", samples=32, **changes)


@pytest.mark.parametrize("name", ["images", "x", "y", "image"])
def test_arrays_with_the_name_of_the_input_are_inputs(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{name: READY})
    report = make(
        tmp_path, save(tmp_path / "net.onnx", name) if name != "y" else _renamed(tmp_path), tmp_path / "data.npz"
    )
    assert "preprocessing" not in report.data.calibration.summary and report.evidence.sqnr_db is not None


def _renamed(folder: Path) -> str:
    """Return a model whose input has the name of the labels in other files, and its output another one."""
    path = Path(save(folder / "net.onnx", "input"))
    model = onnx.load(path)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "z"
    model.graph.input[0].name = model.graph.node[0].input[0] = "y"
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("name", ["images", "x", "image"])
def test_uint8_images_are_prepared(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{name: IMAGES})
    report = make(tmp_path, save(tmp_path / "net.onnx", name), tmp_path / "data.npz", preprocess=RECIPE)
    assert report.data.calibration.summary["preprocessing"]["crop"] == (8, 8)


def test_uint8_for_an_input_of_uint8_is_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES.transpose(0, 3, 1, 2))
    model = save(tmp_path / "net.onnx", "images", dtype=TensorProto.UINT8)
    report = make(tmp_path, model, tmp_path / "data.npz")
    assert "preprocessing" not in report.data.calibration.summary


def test_floats_named_images_for_another_input_are_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES.astype(np.float32) / 255)
    report = make(tmp_path, save(tmp_path / "net.onnx", "input"), tmp_path / "data.npz", preprocess=RECIPE)
    assert "preprocessing" in report.data.calibration.summary
    with pytest.raises(DataError):
        np.savez(tmp_path / "data.npz", images=READY)
        make(tmp_path, str(tmp_path / "net.onnx"), tmp_path / "data.npz", preprocess=RECIPE)


@pytest.mark.parametrize("ready", [True, False])
def test_a_drop_of_accuracy_needs_no_class_names(ready: bool, tmp_path: Path, run: Callable[..., Ran]) -> None:
    labels = RNG.integers(0, 3, 64)
    np.savez(tmp_path / "data.npz", labels=labels, **({"input": READY} if ready else {"images": IMAGES}))
    recipe = [] if ready else [part for text in RECIPE for part in ("--preprocess", text)]
    model = save(tmp_path / "net.onnx", "input")
    options = ["--calib", str(tmp_path / "data.npz"), "--samples", "32", "--max-drop", "50", *recipe]
    done = run("quantize", model, *options, "--json")
    assert done.code == 0 and done.json["verdict"] == "pass"
    assert done.json["evidence"]["accuracy"]["images"] == 32


def test_a_scalar_input_has_one_value_for_all_samples(tmp_path: Path) -> None:
    model = save(tmp_path / "net.onnx", "input", scalar=True)
    np.savez(tmp_path / "data.npz", input=READY, factor=np.float32(3))
    report = make(tmp_path, model, tmp_path / "data.npz")
    assert report.data.evidence.count == 32 and report.evidence.outputs[0].samples == 32
    np.savez(tmp_path / "data.npz", input=READY, factor=np.ones(64, np.float32))
    with pytest.raises(DataError, match="factor"):
        make(tmp_path, model, tmp_path / "data.npz")
