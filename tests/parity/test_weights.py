"""Weights of the model are found in the graph, and single values that differ are told from folded channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import deploy
from deploy.parity.weights import WeightMatches, match_weights

Change = Callable[[np.ndarray], np.ndarray | None]


def weight() -> np.ndarray:
    values: np.ndarray = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    return values


def graph(path: Path, values: np.ndarray) -> onnx.ModelProto:
    """Write a convolution with this weight."""
    shapes = {"x": [1, 4, 8, 8], "y": [1, 6, 6, 6]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", infos[:1], infos[1:], [numpy_helper.from_array(values, "w")])
    )
    onnx.save(model, str(path))
    return model


def matches(folder: Path, change: Change, precision: str = "fp32") -> WeightMatches:
    own = weight()
    stored = own.copy()
    done = change(stored)
    stored = stored if done is None else done
    path = folder / "m.onnx"
    return match_weights({"conv.weight": own}, {"conv.weight"}, [], graph(path, stored), path, precision)


def at(*place: int | slice, factor: float = 1.5) -> Change:
    def change(values: np.ndarray) -> None:
        values[place] *= factor

    return change


def pruned(values: np.ndarray) -> np.ndarray:
    """Most values are 0; the others are scaled as a fold does it."""
    return np.where(np.arange(values.size).reshape(values.shape) % 3 == 0, values * 1.25, 0).astype(np.float32)


WRONG: dict[str, tuple[Change, str]] = {
    "one value": (at(2, 1, 0, 2), "1 of 216 values of 'conv.weight' differ, the first is [2, 1, 0, 2]"),
    "its sign": (at(5, 3, 2, 2, factor=-1), "1 of 216"),
    "one value is 0": (at(0, 0, 0, 0, factor=0), "1 of 216"),
    "a filter of one channel": (at(1, 1), "9 of 216"),
    "values of several channels": (at(slice(None), 0, 0, 0), "6 of 216"),
}


@pytest.mark.parametrize("case", WRONG)
def test_single_values_that_differ_are_faults(tmp_path: Path, case: str) -> None:
    change, said = WRONG[case]
    found = matches(tmp_path, change)
    assert found.listed == ["conv.weight"] and said in found.faults[0]


RIGHT: dict[str, Change] = {
    "unchanged": lambda values: values,
    "channels of the result scaled": at(slice(1, 3)),
    "channels of the input scaled": at(slice(None), 2),
    "both": lambda values: np.asarray(values * np.array([1, 2, 1, 3, 1, 1], np.float32)[:, None, None, None]
                                      * np.array([1, 1, 1, 4], np.float32)[:, None, None]),
    "all scaled": at(slice(None)),
    "the last bits": at(2, 1, 0, 2, factor=1 + 1e-6),
    "pruned": pruned,
    "other values": lambda values: values[::-1].copy() * np.float32(0.5),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_folds_are_no_faults(tmp_path: Path, case: str) -> None:
    assert matches(tmp_path, RIGHT[case]).faults == []


def test_half_precision_rounds_every_value(tmp_path: Path) -> None:
    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    assert matches(tmp_path, half).faults == [] and matches(tmp_path, half, "fp16").identical == ["conv.weight"]


def test_a_file_whose_outputs_do_not_show_it_fails(tmp_path: Path) -> None:
    """The scores are so small that a runtime's rounding of a sigmoid hides the change."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Sigmoid()).eval()
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.normal_(std=0.3)
        net[2].bias.fill_(-22)
    path = deploy.export(net, (torch.zeros(2, 8),), name="small", artifacts=tmp_path).artifact.path
    model = onnx.load(str(path))
    stored = next(item for item in model.graph.initializer if item.dims == [3, 16] or item.dims == [16, 3])
    values = numpy_helper.to_array(stored).copy()
    values[1, 1] += 0.01
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    wrong = tmp_path / "wrong.onnx"
    onnx.save(model, str(wrong))
    parity = deploy.check(str(path), onnx=wrong).parity
    assert parity.verdict == "fail" and "1 of 48 values" in " ".join(parity.reasons)


class Masked(nn.Module):
    """Single values of its weights are set to 0 by what it computes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.triangle, self.filters = (nn.Parameter(torch.randn(*shape)) for shape in ((8, 8), (8, 3, 3, 3)))
        mask = torch.ones(8, 3, 3, 3)
        mask[:, :, 2, 1:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = nn.functional.conv2d(x, self.filters * self.mask).mean((2, 3))
        return means @ torch.tril(self.triangle, diagonal=5)


def test_values_that_the_model_masks_are_no_faults(tmp_path: Path) -> None:
    report = deploy.export(Masked().eval(), (torch.zeros(2, 3, 8, 8),), name="masked", artifacts=tmp_path)
    assert report.verdict == "pass" and report.parity is not None and report.parity.weights["listed"] == []
