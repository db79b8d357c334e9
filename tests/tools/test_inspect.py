"""`deploy inspect`, as typed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

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


def test_it_counts(run: Run, exported: Path) -> None:
    report = run("inspect", exported, "--json").json
    assert report["parameters"] == 61_706 and report["parameter_bytes"] >= 4 * 61_706
    assert report["operators"]["Conv"] == 2 and report["opset"] == 20
    assert report["inputs"] == [
        {"name": "input", "dtype": "float32", "shape": ["batch", 1, 32, 32], "bounds": None, "ranges": []}
    ]
    assert report["costs"]["by_operator"]["Conv"] == 2 * (117_600 + 240_000) + 6 * 28 * 28 + 16 * 10 * 10
    assert report["costs"]["by_operator"]["Gemm"] == 2 * (48_000 + 10_080 + 840) + 120 + 84 + 10
    assert report["costs"]["unknown"] == {} and report["parity"] == "pass"
    twice = run("inspect", exported, "--batch", "2", "--json").json["costs"]
    assert twice["operations"] == 2 * report["costs"]["operations"]
    shown = run("inspect", exported).out
    assert "61,706" in shown and "batch 1" in shown


def test_operators_of_unknown_cost_are_listed(run: Run, exported: Path, tmp_path: Path) -> None:
    def invent(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Invented"

    report = run("inspect", _change(exported, tmp_path / "bad.onnx", invent), "--json").json
    assert report["costs"]["unknown"]["Invented"] == 1


def test_a_dimension_without_a_name_is_a_question_mark(run: Run, exported: Path, tmp_path: Path) -> None:
    def unname(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()

    report = run("inspect", _change(exported, tmp_path / "unnamed.onnx", unname), "--json").json
    assert report["inputs"][0]["shape"][0] == "?"


def test_control_characters_in_names_are_escaped(run: Run, exported: Path, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "\x1b]0;title\x07[red]in"
        model.graph.node[0].op_type = "\x1b[31mConv"

    done = run("inspect", _change(exported, tmp_path / "loud.onnx", rename))
    assert done.code == 0 and "\x1b" not in done.out + done.err and "\x07" not in done.out
    assert r"\x1b]0;title\x07[red]in" in "".join(done.out.split())
