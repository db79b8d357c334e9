"""Einsum with labels in upper case, which TensorRT's parser refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import deploy
from deploy.engines.build import build_engine, trtexec_line
from deploy.engines.request import BuildRequest
from deploy.support.onnx_file import all_nodes
from deploy.tools.verify import verify
from exporters.einsum import lower_case


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("B G H I D, B G H J D -> B G H I J", "a c d e b, a c d f b -> a c d e f"),
        ("bI,Ij->bj", "ba,ac->bc"),
        ("aA,Ab->ab", "ba,ac->bc"),
        ("...Ij,...jk->...Ik", "...ab,...bc->...ac"),
        ("CB,BA", "cb,ba"),  # without an output, the order of the labels decides
        ("iJ,Jk", "iJ,Jk"),
        ("ij,jk->ik", "ij,jk->ik"),
    ],
)
def test_equations(equation: str, expected: str) -> None:
    assert lower_case(equation) == expected
    terms = equation.partition("->")[0].replace(" ", "").replace("...", "").split(",")
    size = {label: 2 + place for place, label in enumerate(sorted({*"".join(terms)}))}
    values = [np.random.default_rng(0).standard_normal([size[label] for label in term]) for term in terms]
    np.testing.assert_allclose(np.einsum(expected, *values), np.einsum(equation, *values))


def test_more_labels_than_letters_stay() -> None:
    every = "abcdefghijklmnopqrstuvwxyzA"
    assert lower_case(f"{every}->{every}") == f"{every}->{every}"


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("B H I D, B H J D -> B H I J", x, x)
        return torch.einsum("B H I J, B H J D -> B H I D", scores.softmax(-1), x)


@pytest.mark.parametrize("strategy", ["export", "trace"])
def test_an_export_has_lower_case(tmp_path: Path, strategy: deploy.Strategy) -> None:
    report = deploy.export_model(
        Attention(), inputs="x:batch,2,4,8", name="net", strategy=strategy, artifacts=tmp_path, probes="quick"
    )
    assert report.verdict == "pass"
    for node in onnx.load(str(report.artifact.path)).graph.node:
        for item in node.attribute if node.op_type == "Einsum" else ():
            assert item.s == item.s.lower()


def plain(path: Path) -> None:
    onnx.save(model(einsum("x", "y")), str(path))


def in_a_branch(path: Path) -> None:
    branch = helper.make_graph([einsum("x", "z")], "branch", [], [helper.make_tensor_value_info("z", 1, [2, 4])])
    other = helper.make_graph([einsum("x", "u")], "other", [], [helper.make_tensor_value_info("u", 1, [2, 4])])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    made = model(helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=other))
    made.graph.input.append(flag)
    onnx.save(made, str(path))


def external(path: Path) -> None:
    onnx.save(model(einsum("x", "y")), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)


def einsum(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Einsum", [source, "w"], [target], equation="Ij, jK -> IK")


def model(node: onnx.NodeProto) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(*item) for item in (("x", 1, [2, 3]), ("y", 1, [2, 4]))]
    weight = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("write", [plain, in_a_branch, external])
def test_a_foreign_file_builds(tmp_path: Path, write: Callable[[Path], None]) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "foreign.onnx"
    write(path)
    assert any(node.op_type == "Einsum" for node in all_nodes(onnx.load(str(path), load_external_data=False)))
    before = path.read_bytes()
    report = build_engine(BuildRequest(model=str(path), runtime="tensorrt-rtx"), artifacts=tmp_path / "artifacts")
    assert report.built.layers and path.read_bytes() == before


@pytest.mark.parametrize("write", [plain, in_a_branch, external])
def test_the_command_of_nvidia_s_tool_takes_a_file_that_parses(tmp_path: Path, write: Callable[[Path], None]) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    path, artifacts = tmp_path / "foreign.onnx", tmp_path / "artifacts"
    write(path)
    request = BuildRequest(model=str(path), runtime="tensorrt-rtx")
    shown = trtexec_line(request, artifacts=artifacts)
    assert f"--onnx={shown.onnx}" in shown.arguments and shown.onnx != path
    logger = library.Logger(library.Logger.ERROR)
    builder = library.Builder(logger)
    network = builder.create_network(0)
    parser = library.OnnxParser(network, logger)
    assert parser.parse_from_file(str(shown.onnx))
    assert trtexec_line(request, artifacts=artifacts).onnx == shown.onnx  # again
    assert not verify(artifacts).problems
