"""INT8 of graphs that choose: what they choose from is compared, and what leads to a choice is not rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import deploy
from calibration.graph import decoding, heads, orders
from deploy.core.errors import UsageError
from deploy.exporting.given_choices import give_choices
from tests import choosing
from tests.choosing import Candidates, Classes, Staged  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]


def _pictures(folder: Path) -> Path:
    coarse = np.random.default_rng(0).random((32, 3, 8, 8), np.float32)
    np.save(folder / "pictures.npy", np.repeat(np.repeat(coarse, 8, 2), 8, 3))
    return folder / "pictures.npy"


def _export(kind: type[nn.Module], folder: Path) -> Path:
    module = choosing.seeded(kind, gain=4.0)
    options = choosing.selecting(kind)
    done = deploy.export(
        module, choosing.INPUTS, name="net", artifacts=folder, probes="quick", strategy="export", **options
    )
    assert done.verdict != "fail", done.parity.reasons
    return done.artifact.path


@pytest.mark.parametrize(
    ("kind", "target"),
    pairs_by_day(
        (Candidates, Staged, Classes),
        ("onnxruntime", "openvino", "tensorrt"),
        lambda kind, target: (
            (kind, target) in ((Candidates, "openvino"), (Staged, "onnxruntime"), (Classes, "tensorrt"))
        ),
    ),
)
def test_rows_that_change_places_are_not_compared(kind: type[nn.Module], target: str, tmp_path: Path) -> None:
    path = _export(kind, tmp_path)
    report = deploy.quantize(path, calib=_pictures(tmp_path), target=target, artifacts=tmp_path)  # type: ignore[arg-type]
    assert report.verdict == "measured", report.reasons
    graph = onnx.load(path)
    outputs = {item.output: item for item in report.evidence.outputs}
    assert outputs and set(outputs) == set(heads(graph))
    assert not set(outputs) & {value.name for value in graph.graph.output}
    assert all(item.sqnr_db is not None and item.sqnr_db > 20.0 for item in outputs.values()), outputs
    quantized = onnx.load(report.artifact.path)
    around = {node.name for node in decoding(graph)}
    made = {name for node in quantized.graph.node if node.name in around for name in node.output}
    assert around and made
    layers = {name for node in quantized.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.input}
    rounded = [
        node
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in made and not layers & _values_of(quantized, node)
    ]
    assert not rounded, rounded


def _values_of(model: onnx.ModelProto, node: onnx.NodeProto) -> set[str]:
    """What is dequantized from the result of a node: the input of a layer is rounded, whatever made it."""
    return {
        name
        for other in model.graph.node
        if other.op_type == "DequantizeLinear" and other.input[0] == node.output[0]
        for name in other.output
    }


def test_a_bound_is_held_by_what_is_chosen_from(tmp_path: Path) -> None:
    path = _export(Candidates, tmp_path)
    data = _pictures(tmp_path)
    report = deploy.quantize(path, calib=data, target="tensorrt", min_sqnr=15.0, artifacts=tmp_path)
    assert report.verdict == "pass", report.reasons
    with pytest.raises(UsageError):
        deploy.quantize(path, calib=data, target="tensorrt", max_drop=1.0, artifacts=tmp_path)


def test_layers_in_half_precision_beside_int8_do_not_decode(tmp_path: Path) -> None:
    path = _export(Candidates, tmp_path)
    report = deploy.quantize(path, calib=_pictures(tmp_path), target="tensorrt", fp16=True, artifacts=tmp_path)
    graph = ir.load(report.artifact.path).graph
    orders = [node for node in graph if node.op_type == "TopK"]
    assert orders and all(node.inputs[0].dtype == ir.DataType.FLOAT for node in orders)  # type: ignore[union-attr]
    around = {node.output[0] for node in decoding(onnx.load(path))}
    types = {value.dtype for node in graph for value in node.outputs[:1] if value.name in around}
    assert ir.DataType.FLOAT in types and ir.DataType.FLOAT16 not in types


class Text(nn.Module):
    """A state at the place of the largest token, as CLIP's encoder of texts takes it: a choice among integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer, self.last = nn.Embedding(40, 16), nn.Linear(16, 32), nn.Linear(32, 8)
        with torch.no_grad():
            self.last.weight.mul_(3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = torch.relu(self.layer(self.embedding(tokens)))
        return self.last(states[torch.arange(tokens.shape[0]), tokens.argmax(1)])  # type: ignore[no-any-return]


def test_a_choice_among_integers_is_none(tmp_path: Path) -> None:
    done = deploy.export(Text(), "tokens:batch,6:int64:0..40", name="text", artifacts=tmp_path, probes="quick")
    graph = onnx.load(done.artifact.path)
    assert any(node.op_type == "ArgMax" for node in graph.graph.node)
    assert orders(graph) == [] and heads(graph) == [] and decoding(graph) == []
    del graph.graph.value_info[:]
    assert orders(graph) == []
    data = tmp_path / "tokens.npy"
    np.save(data, np.random.default_rng(0).integers(0, 40, (32, 6)))
    report = deploy.quantize(done.artifact.path, calib=data, target="tensorrt", artifacts=tmp_path)
    assert [item.output for item in report.evidence.outputs] == [value.name for value in graph.graph.output]
    assert give_choices(done.artifact.path, tmp_path / "given.onnx") is None
