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
from tests import choosing
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]


@pytest.mark.parametrize("precision", by_day(("fp16", "bf16"), "fp16"))
@pytest.mark.parametrize("kind", (choosing.Candidates, choosing.Staged, choosing.Classes, choosing.Both))
def test_layers_are_in_half_precision_and_choices_are_not(
    tmp_path: Path, kind: type[nn.Module], precision: Any
) -> None:
    done = deploy.export(
        choosing.seeded(kind),
        choosing.INPUTS,
        name="net",
        precision=precision,
        artifacts=tmp_path,
        probes="quick",
        **choosing.selecting(kind),
    )
    assert done.verdict == "pass", done.parity.reasons
    plan = recorded_plan(done.artifact.manifest.options)
    assert plan is not None and plan.share is not None and plan.share > 0.9, plan
    assert plan.margin is not None and plan.margin >= 1.0
    assert plan.runs <= 2  # by either bound; no node is searched for
    assert {item.reason for item in plan.kept} <= {"choice", "underflow"}
    graph = ir.load(done.artifact.path).graph
    orders = [node for node in graph if node.op_type in ("TopK", "ArgMax")]
    assert orders and all(node.inputs[0].dtype == ir.DataType.FLOAT for node in orders)  # type: ignore[union-attr]
    wanted = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16
    weighted = [node for node in graph if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert weighted and all(node.inputs[1].dtype == wanted for node in weighted)  # type: ignore[union-attr]


def test_a_file_of_somebody_else_and_its_engine(tmp_path: Path, run: Callable[..., Ran], store: Path) -> None:
    module = choosing.seeded(choosing.Staged)
    made = deploy.export(module, choosing.INPUTS, name="net", artifacts=tmp_path / "made", probes="quick")
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
