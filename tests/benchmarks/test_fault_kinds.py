"""Every kind of fault of the benchmark applies to a network, and changes its output where its condition holds."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from benchmarks.fault_kinds import KINDS
from benchmarks.fault_nets import NETWORKS, build
from benchmarks.faults import outputs


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Traced graphs of a few networks, with names of dimensions as in an export."""
    paths = {}
    for name in ("cnn", "tokens", "padded", "gru", "topk"):
        feeds = NETWORKS[name][1](np.random.default_rng(0))[0]
        paths[name] = tmp_path_factory.mktemp("graphs") / f"{name}.onnx"
        axes = {key: {0: "batch", **({1: "n"} if name in ("tokens", "padded", "gru") else {})} for key in feeds}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = tuple(torch.from_numpy(value) for value in feeds.values())
            torch.onnx.export(
                build(name),
                arguments,
                paths[name],
                dynamo=False,
                input_names=list(feeds),
                dynamic_axes=axes,
                opset_version=20,
            )
    return paths


def test_there_are_many_kinds_with_names_of_their_own() -> None:
    assert len(KINDS) >= 120 and len({kind.name for kind in KINDS}) == len(KINDS)


def test_a_kind_that_applies_gives_a_graph_that_runs(graphs: dict[str, Path], tmp_path: Path) -> None:
    applied = set()
    for name, path in graphs.items():
        feeds = NETWORKS[name][1](np.random.default_rng(1))[:1]
        for kind in KINDS:
            if kind.category == "static" or kind.name in applied:
                continue
            model = onnx.load(str(path))
            if kind.plant(model.graph, np.random.default_rng(0)):
                onnx.save(model, str(tmp_path / "wrong.onnx"))
                outputs(tmp_path / "wrong.onnx", feeds)
                applied.add(kind.name)
    missing = {kind.name for kind in KINDS if kind.category != "static"} - applied
    assert {name for name in missing if "sides differ" not in name} == set()
