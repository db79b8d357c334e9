"""What a parity check reached: choices, weights and tables, and what is said where it did not reach all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]

CODE = '''
import torch
from torch import nn


class Bounded(nn.Module):
    """A clip at 25 that one pattern of signs in 2^32 reaches, and one that no input reaches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(33, 4)
        self.register_buffer("signs", torch.tensor([1.0, -1.0]).repeat(16))

    def forward(self, x):
        agreement = (torch.tanh(x) * self.signs).sum(1, keepdim=True).clamp(max=25.0)
        return self.head(torch.cat((x, agreement / 5), 1)).sigmoid().clamp(max=2.0)


class Signed(nn.Module):
    """Two ways by the mean of the input; inputs have mean 0 at most once in a lifetime."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, x):
        if x.mean() > 1.5:
            return self.left(x)
        return self.right(x)


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.left(x).relu(), lambda x: self.right(x), (x,))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(60, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.words(ids).mean(1))


class Relative(nn.Module):
    """A table that is read at constant indices, as the relative positions of Swin."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Parameter(torch.randn(15, 4)), nn.Linear(8, 8)
        self.register_buffer("index", (torch.arange(8)[:, None] - torch.arange(8)[None] + 7), persistent=False)

    def forward(self, x):
        bias = self.table[self.index.reshape(-1)].view(8, 8, 4).permute(2, 0, 1).contiguous()
        return (self.head(x)[:, None] @ bias[None]).sum(1)
'''


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "covered.py").write_text(CODE, encoding="utf-8")
    return str(tmp_path / "covered.py")


def _export(run: Run, model: str, spec: str, *more: str) -> Any:
    return run("export", model, "--input", spec, "--json", *more)


def test_a_bound_that_random_inputs_do_not_reach_is_searched_for_and_one_that_cannot_be_reached_is_named(
    run: Run, nets: str
) -> None:
    done = _export(run, f"{nets}:Bounded", "x:batch,32")
    coverage = done.json["parity"]["coverage"]
    assert done.code == 0 and coverage["directed"] > 0
    assert [(item["operator"], item["side"]) for item in coverage["unreached"]] == [("Clip", "above 2")]
    assert coverage["percent"] < 100 and coverage["sides"] == coverage["sides_reached"] + 1
    low, high = coverage["inputs"]["x"]
    assert low < -1 and high > 1


def test_a_demanded_coverage_makes_the_verdict_inconclusive(run: Run, nets: str) -> None:
    assert _export(run, f"{nets}:Bounded", "x:batch,32", "--min-coverage", "50").code == 0
    done = _export(run, f"{nets}:Bounded", "x:batch,32", "--min-coverage", "100")
    assert done.code == 4 and done.json["parity"]["verdict"] == "inconclusive"
    assert run("export", f"{nets}:Bounded", "--input", "x:batch,32", "--min-coverage", "101").code == 2


def test_a_traced_file_that_lost_a_branch_fails_at_a_directed_probe(run: Run, nets: str) -> None:
    done = _export(run, f"{nets}:Signed", "x:batch,64", "--strategy", "trace")
    assert done.code == 3


def test_both_ways_of_a_conditional_are_run(run: Run, nets: str) -> None:
    done = _export(run, f"{nets}:Conditional", "x:batch,8")
    coverage = done.json["parity"]["coverage"]
    assert done.code == 0 and coverage["unreached"] == [] and coverage["nodes"] == coverage["nodes_ran"]


def _with_branch(path: Path, out: Path, above: float, factor: float) -> None:
    """Multiply the output where the largest input is above a bound."""
    model = onnx.load(str(path))
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[list(last.output).index(output)] = "right"

    def branch(name: str, operator: str, *more: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["right", *more], [name])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    for name, value in (("bound", above), ("factor", factor)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", [model.graph.input[0].name], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "bound"], ["above"]),
            helper.make_node(
                "If",
                ["above"],
                [output],
                "hidden",
                then_branch=branch("t", "Mul", "factor"),
                else_branch=branch("e", "Identity"),
            ),
        ]
    )
    onnx.save(model, str(out))


@pytest.mark.parametrize(
    ("above", "factor"), [(1e6, -1.0), (20.0, 1.0005)], ids=["never taken", "taken only where noise does not decide"]
)
def test_a_branch_of_a_foreign_file_that_no_probe_proves_is_not_passed(
    run: Run, nets: str, tmp_path: Path, above: float, factor: float
) -> None:
    assert _export(run, f"{nets}:Bounded", "x:batch,32").code == 0
    _with_branch(next((tmp_path / "artifacts").rglob("*.onnx")), tmp_path / "foreign.onnx", above, factor)
    arguments = (
        "check",
        f"{nets}:Bounded",
        "--input",
        "x:batch,32",
        "--onnx",
        str(tmp_path / "foreign.onnx"),
        "--json",
    )
    done = run(*arguments)
    assert done.code == 4
    missed = [item for item in done.json["parity"]["coverage"]["unreached"] if item["kind"] == "branch"]
    assert [(item["node"], item["side"], item["by"]) for item in missed] == [("hidden", "then", "data")]
    assert run(*arguments, "--accept-unreached").code == 0


def _permuted(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table[:30], table[30:][::-1]])


def _zeroed(table: np.ndarray) -> np.ndarray:
    return np.concatenate([table[:30], np.zeros_like(table[30:])])


@pytest.mark.parametrize("change", [_permuted, _zeroed, lambda table: table[:30]])
def test_rows_of_a_table_that_no_probe_looks_up_are_compared(
    run: Run, nets: str, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The range of --input ends before the rows that differ."""
    assert _export(run, f"{nets}:Words", "ids:batch,n=5:int64:0..30").code == 0
    path = next((tmp_path / "artifacts").rglob("*.onnx"))
    model = onnx.load(str(path))
    tensor = next(item for item in model.graph.initializer if list(item.dims) == [60, 8])
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, str(tmp_path / "other.onnx"))
    done = run(
        "check",
        f"{nets}:Words",
        "--input",
        "ids:batch,n=5:int64:0..30",
        "--onnx",
        str(tmp_path / "other.onnx"),
        "--json",
    )
    assert done.code == 3 and any("words" in reason for reason in done.json["parity"]["reasons"])


def test_a_table_that_the_exporter_looked_up_is_recomputed(run: Run, nets: str, tmp_path: Path) -> None:
    done = _export(run, f"{nets}:Relative", "x:batch,8,8", "--strategy", "trace")
    counts = done.json["parity"]["weights"]["counts"]
    assert done.code == 0 and counts["identical"] + counts["computed"] == 3 and counts["listed"] == 0
    path = next((tmp_path / "artifacts").rglob("*.onnx"))
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) == 256:  # the looked-up values in another order are no lookup
            value = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.flip(value, -1).copy(), tensor.name))
            onnx.save(model, str(tmp_path / "other.onnx"))
            arguments = ("check", f"{nets}:Relative", "--input", "x:batch,8,8", "--onnx", str(tmp_path / "other.onnx"))
            assert run(*arguments, "--json").json["parity"]["weights"]["listed"] == ["table"]
            return
