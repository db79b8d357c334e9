"""Zoo models from training to the ONNX file: its operators, and the origin of its weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.training.train import train_model


def test_an_export_uses_the_newest_checkpoint(run: Callable[..., Any], store: Path) -> None:
    best = train_model("lenet5", data="digits", artifacts=store, epochs=1, seed=1).best
    done = run("export", "zoo/lenet5", "--strategy", "trace", "--json")
    assert str(best.path) in done.err
    assert done.json["weights"]["sha256"] == best.manifest.files[0].sha256
    again = train_model("lenet5", data="digits", artifacts=store, epochs=1, seed=2).best
    second = run("export", "zoo/lenet5", "--strategy", "trace", "--json").json
    assert second["weights"]["sha256"] == again.manifest.files[0].sha256 != best.manifest.files[0].sha256


def test_the_zoos_batch_normalization_uses_the_moving_statistics(run: Callable[..., Any], store: Path) -> None:
    train_model("lenet_bn", data="digits", artifacts=store, epochs=1, seed=0)
    done = run("export", "zoo/lenet_bn", "--json").json
    assert done["parity"]["verdict"] == "pass" and done["parity"]["weights"]["counts"]["unused"] == 0
    graph = onnx.load(done["file"]).graph
    kinds = {node.op_type for node in graph.node}
    assert not any(kind.startswith(("Reduce", "GlobalAverage")) for kind in kinds)
    session = onnxruntime.InferenceSession(done["file"], providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(4, 1, 28, 28)).astype(np.float32)
    (together,) = session.run(None, {"input": images})
    alone = np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    weights = ModelRequest(name="lenet_bn", weights=str(store / "lenet_bn" / "lenet_bn.fp32.safetensors"))
    with torch.no_grad():
        expected = resolve(weights).module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_plain_twin_exports_no_unused_parameter(run: Callable[..., Any]) -> None:
    done = run("export", "zoo/plain18_digits", "--weights", "none", "--json").json
    weights = done["parity"]["weights"]
    assert done["parity"]["verdict"] == "pass" and weights["counts"]["unused"] == weights["counts"]["listed"] == 0
    graph = onnx.load(done["file"]).graph
    assert "Add" not in {node.op_type for node in graph.node}
    stored = sum(int(np.prod(item.dims)) for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT)
    folded = 2 * (64 + 4 * (64 + 128 + 256 + 512))  # scale and shift of every normalization
    assert stored == 11_005_450 - folded
