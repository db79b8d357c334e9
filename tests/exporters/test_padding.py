"""A padding with zeros in front of a max pooling stays what it is in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import deploy


class Stem(nn.Module):
    """The stem of BiT: values before the padding are negative."""

    def __init__(self, *, relu: bool = False, twice: bool = False, value: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.pool = nn.MaxPool2d(3, 2)
        self.relu, self.twice, self.value = relu, twice, value
        nn.init.normal_(self.convolution.weight, std=0.4, generator=torch.Generator().manual_seed(1))
        nn.init.constant_(self.convolution.bias, 1.0 if relu else -2.0)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.convolution(x)
        features = features.relu() if self.relu else features
        padded = nn.functional.pad(features, (1, 0, 1, 1), value=self.value)
        return (self.pool(padded), padded.mean((2, 3))) if self.twice else self.pool(padded)


def exported(model: nn.Module, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    return deploy.export(
        model.eval(), (torch.randn(1, 3, 15, 15),), name="stem", artifacts=folder, probes="quick", **options
    )


def padding_values(path: Path) -> list[float]:
    graph = onnx.load(str(path)).graph
    stored = {item.name: item for item in graph.initializer}
    constants = (node for node in graph.node if node.op_type == "Constant")
    stored |= {node.output[0]: node.attribute[0].t for node in constants}
    pads = [node for node in graph.node if node.op_type == "Pad"]
    return [float(numpy_helper.to_array(stored[node.input[2]])) if len(node.input) > 2 else 0.0 for node in pads]


@pytest.mark.parametrize(
    ("strategy", "precision", "twice"),
    [("export", "fp32", False), ("trace", "fp32", False), ("export", "fp16", False), ("export", "fp32", True)],
)
def test_zeros_that_are_larger_than_the_values(tmp_path: Path, strategy: Any, precision: Any, twice: bool) -> None:
    report = exported(Stem(twice=twice), tmp_path, strategy=strategy, precision=precision)
    assert report.parity.verdict == "pass", report.parity.reasons
    assert [np.signbit(value) for value in padding_values(report.artifact.path)] == [True]


@pytest.mark.parametrize("model", [Stem(relu=True), Stem(value=-np.inf), Stem(value=0.5)], ids=["relu", "-inf", "0.5"])
def test_other_paddings_are_as_the_model_has_them(tmp_path: Path, model: Stem) -> None:
    report = exported(model, tmp_path)
    assert report.parity.verdict == "pass", report.parity.reasons
    assert padding_values(report.artifact.path) == [model.value]
    assert not any(value == 0 and np.signbit(value) for value in padding_values(report.artifact.path))


def test_the_runtime_still_needs_it(tmp_path: Path) -> None:
    """Without it, ONNX Runtime is wrong: if this fails, it has been mended there."""
    report = exported(Stem(), tmp_path)
    model = onnx.load(str(report.artifact.path))
    pad = next(node for node in model.graph.node if node.op_type == "Pad")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "plain_zero"))
    pad.input[2] = "plain_zero"
    path = tmp_path / "plain.onnx"
    onnx.save(model, str(path))
    torch.manual_seed(0)
    parity = deploy.check(str(report.artifact.path), onnx=path, probes="quick", locate_fault=True)
    assert parity.verdict == "fail"
