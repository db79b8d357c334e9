"""Half precision of networks that choose: detections by score, classes of pixels, proposals for a second stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import deploy
from deploy.precision.plan import recorded_plan
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

SIDE = 64
POSTPROCESSING = deploy.Postprocessing(
    kind="fcos", score_threshold=0.3, iou_threshold=0.4, candidates=60, detections=20
)

NETS = '''
import torch
from torch import nn


class Candidates(nn.Module):
    """64 boxes, most of them with nearly equal scores."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(16, 7, 1)
        with torch.no_grad():
            self.head.weight.mul_(12)

    def forward(self, images):
        y = self.head(self.body(images))
        rows, columns = torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij")
        center = torch.stack([columns, rows]).float() * 8 + 4 + y[:, :2].tanh() * 8
        half = (y[:, 2:4].tanh() + 1.5) * 7
        boxes, scores = torch.cat([center - half, center + half], 1), (y[:, 4:] + 1).sigmoid()
        return {"boxes": boxes.flatten(2).mT, "scores": scores.flatten(2).mT}


class Staged(Candidates):
    """Proposals by score, and layers that look at them."""

    def __init__(self):
        super().__init__()
        self.second = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, images):
        found = super().forward(images)
        _, index = found["scores"].amax(2).topk(16)
        boxes = found["boxes"].gather(1, index.unsqueeze(2).expand(-1, -1, 4))
        return {"proposals": boxes, "logits": self.second(boxes / 64)}


class Classes(nn.Module):
    """The class of every pixel, as integers only."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, 1, 1))
        with torch.no_grad():
            self.body[2].weight.mul_(4)

    def forward(self, images):
        return self.body(images).argmax(1)


class Both(Classes):
    """The best class of every pixel and its score."""

    def forward(self, images):
        score, index = self.body(images).softmax(1).topk(1, 1)
        return score, index


def seeded(kind):
    torch.manual_seed(1)
    return kind().eval()


def candidates(): return seeded(Candidates)
def staged(): return seeded(Staged)
def classes(): return seeded(Classes)
def both(): return seeded(Both)
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "choosing.py"
    path.write_text(NETS, encoding="utf-8")
    return path


def _pipeline(name: str) -> dict[str, Any]:
    if name != "candidates":
        return {}
    return {"pipeline": deploy.GraphPipeline(parts=("postprocessing",), postprocessing=POSTPROCESSING)}


@pytest.mark.parametrize("precision", by_day(("fp16", "bf16"), "fp16"))
@pytest.mark.parametrize("name", ("candidates", "staged", "classes", "both"))
def test_layers_are_in_half_precision_and_choices_are_not(
    nets: Path, tmp_path: Path, name: str, precision: Any
) -> None:
    done = deploy.export(
        f"{nets}:{name}",
        f"images:batch,3,{SIDE},{SIDE}:float32:0..1",
        precision=precision,
        artifacts=tmp_path,
        probes="quick",
        **_pipeline(name),
    )
    assert done.verdict == "pass", done.parity.reasons
    plan = recorded_plan(done.artifact.manifest.options)
    assert plan is not None and plan.share is not None and plan.share > 0.9, plan
    assert plan.margin is not None and plan.margin >= 1.0 and plan.runs == 1
    assert {item.reason for item in plan.kept} <= {"choice", "underflow"}
    graph = ir.load(done.artifact.path).graph
    orders = [node for node in graph if node.op_type in ("TopK", "ArgMax")]
    assert orders and all(node.inputs[0].dtype == ir.DataType.FLOAT for node in orders)  # type: ignore[union-attr]
    wanted = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16
    weighted = [node for node in graph if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert weighted and all(node.inputs[1].dtype == wanted for node in weighted)  # type: ignore[union-attr]


def test_a_file_of_somebody_else_and_its_engine(
    nets: Path, tmp_path: Path, run: Callable[..., Ran], store: Path
) -> None:
    made = deploy.export(
        f"{nets}:staged",
        f"images:batch,3,{SIDE},{SIDE}:float32:0..1",
        artifacts=tmp_path / "made",
        probes="quick",
        **_pipeline("staged"),
    )
    path = tmp_path / "theirs.onnx"
    path.write_bytes(made.artifact.path.read_bytes())
    ran = run("convert", path, "--precision", "fp16", "--probes", "quick", "--json")
    assert ran.code == 0, ran.err
    ran = run("trt", "build", path, "--fp16", "--runtime", "tensorrt-rtx", "--json")
    assert ran.code == 0, ran.err
    assert "no set of nodes" not in ran.err
    (half,) = (item for item in store.rglob("*.fp16-tensorrt.onnx"))
    types = {tensor.data_type for tensor in onnx.load(half).graph.initializer if len(tensor.dims) == 4}
    assert types == {onnx.TensorProto.FLOAT16}


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """A number that is the same for every input."""
        return {"y": x @ torch.full((8, 8), 0.3), "count": torch.ones(x.shape[0], dtype=torch.int64)}


def test_an_output_that_never_changes_keeps_no_node_in_float32(tmp_path: Path) -> None:
    done = deploy.export(Plain(), "x:batch,8", name="plain", precision="fp16", artifacts=tmp_path, probes="quick")
    plan = recorded_plan(done.artifact.manifest.options)
    assert plan is not None and not plan.kept and plan.margin is not None and plan.margin >= 1.0
