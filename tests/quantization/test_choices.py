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
from tests.nightly import pairs_by_day  # type: ignore[import-not-found,unused-ignore]

SIDE = 64


class Candidates(nn.Module):
    """64 boxes, most of them with nearly equal scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(16, 7, 1)
        with torch.no_grad():
            self.head.weight.mul_(4)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.head(self.body(images))
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        center = torch.stack([columns, rows]).float() * 8 + 4 + y[:, :2].tanh() * 8
        half = (y[:, 2:4].tanh() + 1.5) * 7
        boxes, scores = torch.cat([center - half, center + half], 1), (y[:, 4:] + 1).sigmoid()
        return {"boxes": boxes.flatten(2).mT, "scores": scores.flatten(2).mT}


class Staged(Candidates):
    """Proposals by score, and layers that look at them."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().forward(images)
        _, index = found["scores"].amax(2).topk(16)
        boxes = found["boxes"].gather(1, index.unsqueeze(2).expand(-1, -1, 4))
        return {"boxes": boxes, "scores": self.second(boxes / 64).sigmoid()}


class Classes(nn.Module):
    """The class of every pixel, as integers only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).argmax(1)


def _pictures(folder: Path) -> Path:
    coarse = np.random.default_rng(0).random((32, 3, 8, 8), np.float32)
    np.save(folder / "pictures.npy", np.repeat(np.repeat(coarse, 8, 2), 8, 3))
    return folder / "pictures.npy"


def _export(kind: type[nn.Module], folder: Path) -> Path:
    torch.manual_seed(1)
    options = {}
    if issubclass(kind, Candidates):
        shown = deploy.Postprocessing(kind="fcos", score_threshold=0.3, iou_threshold=0.4, detections=20)
        options["pipeline"] = deploy.GraphPipeline(parts=("postprocessing",), postprocessing=shown)
    inputs = f"images:batch,3,{SIDE},{SIDE}:float32:0..1"
    done = deploy.export(
        kind().eval(), inputs, name="net", artifacts=folder, probes="quick", strategy="export", **options
    )  # type: ignore[arg-type]
    assert done.verdict != "fail", done.parity.reasons
    return done.artifact.path


@pytest.mark.filterwarnings("ignore:.*UNTRAINED")
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


@pytest.mark.filterwarnings("ignore:.*UNTRAINED")
def test_a_bound_is_held_by_what_is_chosen_from(tmp_path: Path) -> None:
    path = _export(Candidates, tmp_path)
    data = _pictures(tmp_path)
    report = deploy.quantize(path, calib=data, target="tensorrt", min_sqnr=15.0, artifacts=tmp_path)
    assert report.verdict == "pass", report.reasons
    with pytest.raises(UsageError):
        deploy.quantize(path, calib=data, target="tensorrt", max_drop=1.0, artifacts=tmp_path)


@pytest.mark.filterwarnings("ignore:.*UNTRAINED")
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

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = torch.relu(self.layer(self.embedding(tokens)))
        return self.last(states[torch.arange(tokens.shape[0]), tokens.argmax(1)])  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*UNTRAINED")
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
