"""INT8 files for CPUs without VNNI, whose sums of products saturate: weights of seven bits, and stale files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

Run = Callable[..., Ran]
RNG = np.random.default_rng(0)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Two layers whose products are large and of one sign, so that two of them exceed 16 bits at eight bits each."""
    weights = {
        "w": RNG.uniform(0.8, 1, (16, 8, 3, 3)) * RNG.choice([-1, 1], (16, 1, 1, 1)),
        "v": RNG.uniform(0.8, 1, (16, 4)) * RNG.choice([-1, 1], (1, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Abs", ["c"], ["r"], name="abs"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "v"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    levels = RNG.uniform(0.6, 1, (96, 1, 1, 1))
    np.save(tmp_path / "samples.npy", (levels * RNG.uniform(0.9, 1, (96, 8, 6, 6))).astype(np.float32))
    return path


def quantize(run: Run, network: Path, *more: object) -> Any:
    done = run("quantize", network, "--calib", network.parent / "samples.npy", "--effort", "low", *more, "--json")
    assert done.code == 0, done.err
    return done.json


def largest_weight(path: str) -> int:
    stored = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return max(
        int(np.abs(value.astype(np.int32)).max()) for value in stored if value.dtype == np.int8 and value.ndim > 1
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_files_are_right_on_this_cpu(target: str, network: Path, run: Run) -> None:
    made = quantize(run, network, "--target", target)
    assert made["evidence"]["outputs"][0]["sqnr_db"] > 25, "a sum that saturates is off by a quarter"


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_weights_fit_the_cpu_that_is_named(target: str, network: Path, run: Run) -> None:
    for cpu, most in (("avx2", 64), ("vnni", 127)):
        made = quantize(run, network, "--target", target, "--cpu", cpu)
        assert made["cpu"] == made["options"]["cpu"] == cpu
        assert largest_weight(made["file"]) == most
        assert made["evidence"]["outputs"][0]["sqnr_db"] > 25, "run here, or simulated where this CPU would saturate"


def test_a_cpu_is_named_only_where_it_matters(network: Path, run: Run) -> None:
    refused = run(
        "quantize", network, "--calib", network.parent / "samples.npy", "--target", "tensorrt", "--cpu", "avx2"
    )
    assert refused.code == 2 and "do not depend on the CPU" in refused.err
    assert quantize(run, network, "--target", "tensorrt")["cpu"] is None


def test_a_file_for_another_cpu_is_named(network: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.core.cpu.cpu_features", lambda: frozenset({"avx2"}))
    made = quantize(run, network, "--cpu", "vnni")
    assert "simulated" in made["evidence"]["runtime"]
    monkeypatch.setattr("deploy.core.cpu.cpu_features", lambda: frozenset({"avx512_vnni"}))
    assert run("verify", "--json").json["stale"] == []
    monkeypatch.setattr("deploy.core.cpu.cpu_features", lambda: frozenset({"avx2"}))
    (stale,) = run("verify", "--json").json["stale"]
    assert "VNNI" in stale["reason"] and "--cpu" not in stale["command"]
    assert "VNNI" in run("inspect", made["file"]).out
    renewed = run(*shlex.split(stale["command"])[1:], "--json")
    assert renewed.json.get("cpu") == "avx2", (stale["command"], renewed.out)
    assert run("verify", "--json").json["stale"] == []
