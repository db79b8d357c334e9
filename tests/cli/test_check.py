"""The command lines `deploy check`, `inspect`, `verify`, `doctor` and `models`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]


@pytest.fixture
def exported(lenet5: Path, store: Path) -> Path:
    shutil.copytree(lenet5, store)
    return store / "lenet5" / "lenet5.fp32.onnx"


def _change(path: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(out))
    return out


def _scale(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(item for item in model.graph.initializer if item.name == name)
        value = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))

    return change


def test_the_newest_export_is_checked_against_its_model(run: Run, exported: Path) -> None:
    done = run("check", "--json")
    assert done.code == 0
    assert done.json["file"] == str(exported) and done.json["parity"]["verdict"] == "pass"
    assert "lenet5.fp32.onnx" in done.err


def test_a_changed_file_fails_its_digest_before_it_is_run(run: Run, exported: Path) -> None:
    _change(exported, exported, _scale("conv2.weight", 1.001))
    done = run("check")
    assert done.code == 3 and "lenet5.fp32.onnx" in done.err and "parity" not in done.out


def test_a_file_of_another_exporter_with_other_names_is_compared_by_position(run: Run, tmp_path: Path) -> None:
    model = resolve(ModelRequest(name="zoo/lenet5", weights="none"))
    path = tmp_path / "other.onnx"
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(
            model.module, (torch.zeros(2, 1, 32, 32),), path, dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    done = run("check", "zoo/lenet5", "--onnx", path, "--weights", "none", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["dynamic"] == {"batch": [1, 2, 3, 4, 5, 8, 13]}
    (note,) = done.json["parity"]["notes"]
    assert "y as logits" in note


@pytest.mark.parametrize("factor", [pytest.param(1.001, marks=pytest.mark.slow), 1.00001, -1.0])
def test_a_scaled_weight_is_detected_and_located(run: Run, exported: Path, tmp_path: Path, factor: float) -> None:
    bad = _change(exported, tmp_path / "bad.onnx", _scale("conv2.weight", factor))
    done = run("check", "zoo/lenet5", "--weights", "none", "--onnx", bad, "--locate", "--json")
    assert done.code == 3, done.out
    assert done.json["location"]["module"] == "conv2"
    assert done.json["location"]["operator"] == "Conv"
    assert done.json["parity"]["weights"]["listed"] == ["conv2.weight"]


def test_a_correct_file_has_nothing_to_locate(run: Run, exported: Path) -> None:
    done = run("check", "--locate", "--json")
    location = done.json["location"]
    assert done.code == 0 and location["tensor"] == "" and location["agreed"] == location["compared"] > 5
    assert run("check", "--locate").code == 0


def test_the_backend_is_named(run: Run, exported: Path) -> None:
    assert "ONNX Runtime" in run("check").out


def test_swapped_outputs_missing_outputs_and_wrong_inputs(run: Run, nets: Path, store: Path, tmp_path: Path) -> None:
    inputs = ("--input", "a:batch,8", "--input", "b:batch,6")
    run("export", f"{nets}:two", *inputs)
    path = next(store.rglob("*.onnx"))

    def swap(model: onnx.ModelProto) -> None:
        left, right = model.graph.output
        for node in model.graph.node:
            names = [{"sum": "gate", "gate": "sum"}.get(name, name) for name in node.output]
            node.output[:] = names
        left.name, right.name = "sum", "gate"

    swapped = _change(path, tmp_path / "swapped.onnx", swap)
    assert run("check", f"{nets}:two", *inputs, "--onnx", swapped).code == 3
    dropped = _change(path, tmp_path / "dropped.onnx", lambda model: model.graph.output.pop() and None)
    done = run("check", f"{nets}:two", *inputs, "--onnx", dropped)
    assert done.code == 3 and "outputs: gate" in done.out
    done = run("check", "zoo/lenet5", "--weights", "none", "--onnx", path)
    assert done.code == 3 and "2 inputs" in done.out.replace("\n", " ")


def test_fp16_checked_as_fp32_fails(run: Run, store: Path, tmp_path: Path) -> None:
    run("export", "zoo/lenet5", "--weights", "none", "--precision", "fp16")
    other = tmp_path / "other.onnx"
    shutil.copy(store / "lenet5" / "lenet5.fp16.onnx", other)
    assert run("check", "zoo/lenet5", "--weights", "none", "--onnx", other).code == 3
    assert run("check", "zoo/lenet5", "--weights", "none", "--onnx", other, "--precision", "fp16").code == 0


def test_another_seed_gives_other_weights(run: Run, exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    shutil.copy(exported, other)
    arguments = ("check", "zoo/lenet5", "--weights", "none", "--onnx", other)
    assert run(*arguments).code == 0
    assert run(*arguments, "--seed", "1").code == 3


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_file_is_refused(run: Run, exported: Path, tmp_path: Path, keep: float) -> None:
    content = exported.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    for command in (["check", "zoo/lenet5", "--weights", "none", "--onnx", cut], ["inspect", cut]):
        done = run(*command)
        assert done.code == 1 and "cut.onnx" in done.err and "Traceback" not in done.err


def test_an_unsupported_operator_is_a_typed_error(run: Run, exported: Path, tmp_path: Path) -> None:
    def invent(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Invented"

    bad = _change(exported, tmp_path / "bad.onnx", invent)
    done = run("check", "zoo/lenet5", "--weights", "none", "--onnx", bad)
    assert done.code == 1 and "Invented" in done.err and "Traceback" not in done.err


def test_mistakes_of_check(run: Run, tmp_path: Path) -> None:
    done = run("check", "zoo/lenet5", "--onnx", "nowhere.onnx")
    assert done.code == 1 and "nowhere.onnx" in done.err
    done = run("check")
    assert done.code == 1 and "deploy export" in done.err
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    done = run("check", "--onnx", tmp_path / "x.onnx")
    assert done.code == 2 and "deploy check MODEL --onnx" in done.err and "--against" in done.err
    assert run("chekc").code == 2 and "Did you mean check" in run("chekc").err


def test_models_lists_and_counts(run: Run) -> None:
    lines = {line["name"]: line for line in run("models", "resnet*", "--json").json["models"]}
    assert lines["torchvision/resnet18"]["parameters"] == 11_689_512
    assert lines["zoo/resnet18_gray"]["parameters"] == 11_178_378
    layers = run("models", "zoo/lenet5", "--layers", "--json").json["layers"]
    assert sum(layer["parameters"] for layer in layers) == 61_706
    assert "16×10×10" in run("models", "zoo/lenet5", "--layers").out
    assert run("models", "nothing-like-it").code == 2
    assert run("models", "--layers").code == 2
