"""Activations that are sums with 1: runtimes compute them with an absolute error, however small the result is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import from_array
from torch import nn

import deploy
from deploy.exporting.comparison import AT_ONE
from deploy.parity.verdict import ParityReport
from tests.nightly import by_day, pairs_by_day  # type: ignore[import-not-found,unused-ignore]

functional = nn.functional

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": lambda x: torch.sigmoid(x - 4.6),
    "silu": lambda x: functional.silu(x - 5),
    "silu in place": lambda x: functional.silu(x - 5, inplace=True),
    "hardswish": lambda x: functional.hardswish(x - 2.9),
    "glu": lambda x: functional.glu(torch.cat((x, x - 6), 1), 1),
    "elu": lambda x: functional.elu(x * 1e-2),
    "celu": lambda x: functional.celu(x * 1e-2),
    "selu": lambda x: functional.selu(x * 1e-2),
    "expm1": lambda x: torch.expm1(x * 1e-2),
    "log1p": lambda x: torch.log1p(x.abs() * 1e-3),
    "logsigmoid": lambda x: functional.logsigmoid(x + 5),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True) - 9) * 1e4,
    "boxes and scores": lambda x: torch.cat((x[:, :4] * 1e4, torch.sigmoid(x[:, 4:] - 9)), 1),
}

RIGHT_BY_DAY = ("sigmoid", "silu", "hardswish", "elu", "log1p", "logsigmoid", "gate", "boxes and scores")


class Head(nn.Module):
    """A small head whose last layer has little weight, as detectors have before training."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
        nn.init.normal_(self.body[-1].weight, std=0.02)
        self.activation = activation

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.activation(self.body(image))


def exported(activation: Callable[[torch.Tensor], torch.Tensor], folder: Path) -> tuple[Path, ParityReport]:
    module = Head(activation).eval()
    report = deploy.export(module, torch.rand(2, 3, 12, 12), name="head", artifacts=folder, strategy="export")
    return report.artifact.path, report.parity


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_error_of_a_sigmoid_is_absolute() -> None:
    """What the documentation says of ONNX Runtime and of PyTorch."""
    node = onnx.helper.make_node("Sigmoid", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy")
    graph = onnx.helper.make_graph([node], "sigmoid", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.linspace(-17, 0, 100_001).astype(np.float32)
    exact = 1 / (1 + np.exp(-values.astype(np.float64)))
    theirs = np.abs(session.run(None, {"x": values})[0] - exact)
    ours = np.abs(torch.sigmoid(torch.from_numpy(values)).numpy() - exact)
    assert 6e-8 < theirs.max() < 2.4e-7 and (theirs / exact).max() > 0.1
    assert (ours / exact).max() < 1e-6


@pytest.mark.parametrize("name", by_day(ACTIVATIONS, *RIGHT_BY_DAY))
def test_a_right_file_passes(tmp_path: Path, name: str) -> None:
    _, parity = exported(ACTIVATIONS[name], tmp_path)
    assert parity.verdict == "pass" and parity.margin > 1.2, (parity.reasons, parity.margin)


def test_the_report_says_what_was_allowed(tmp_path: Path) -> None:
    _, parity = exported(ACTIVATIONS["sigmoid"], tmp_path / "small")
    assert AT_ONE in parity.notes
    _, parity = exported(torch.sigmoid, tmp_path / "ordinary")
    assert parity.verdict == "pass" and AT_ONE not in parity.notes


def test_scores_below_the_error_of_a_sigmoid_prove_nothing(tmp_path: Path) -> None:
    _, parity = exported(lambda x: 2 * torch.sigmoid(x - 30), tmp_path)  # of a final one, its input is compared
    assert parity.verdict == "inconclusive" and AT_ONE in parity.notes
    assert "rounding decides" in parity.reasons[0]


@pytest.mark.parametrize(
    ("name", "fault"),
    pairs_by_day(
        ["sigmoid", "silu", "gate"],
        ["scores", "shift", "constant", "one"],
        lambda name, fault: name == "sigmoid" or fault == "scores",
    ),
)
def test_a_wrong_file_fails(tmp_path: Path, name: str, fault: str) -> None:
    """The last operator is followed by a fault; no weight is changed."""
    path, _ = exported(ACTIVATIONS[name], tmp_path)
    model = onnx.load(str(path))
    output = model.graph.output[0].name
    peak = {"sigmoid": 0.01, "silu": 0.03, "gate": 0.1}[name]
    node, value = {
        "scores": ("Mul", 1.01),
        "shift": ("Add", peak * 1e-2),
        "constant": ("Min", peak * 0.5),
        "one": ("Max", 1.0),
    }[fault]
    for item in model.graph.node:
        for place, other in enumerate(item.output):
            if other == output:
                item.output[place] = "before"
    model.graph.initializer.append(from_array(np.float32(value), "by"))
    model.graph.node.append(onnx.helper.make_node(node, ["before", "by"], [output]))
    wrong = tmp_path / "wrong.onnx"
    onnx.save(model, str(wrong))
    parity = deploy.check(Head(ACTIVATIONS[name]).eval(), inputs=torch.rand(2, 3, 12, 12), onnx=wrong).parity
    assert parity.verdict == "fail", parity.reasons


def test_two_runs_with_other_roundings_are_equal(tmp_path: Path) -> None:
    first, second = (exported(ACTIVATIONS["glu"], tmp_path / name)[1] for name in ("one", "two"))
    assert first.margin == second.margin and math.isfinite(first.margin)
