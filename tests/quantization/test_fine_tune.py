"""Quantization-aware fine-tuning: the module that is trained is the file that runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import deploy
from deploy.core.errors import DataError, ModelError, UsageError
from deploy.core.progress import SILENT
from deploy.core.runner import Feeds
from deploy.quantization.fake_quantization import FakeQuantized
from deploy.quantization.fine_tune import fine_tune
from deploy.quantization.fine_tuning import FineTuning
from tests.conftest import Ran

TARGETS = ("onnxruntime", "openvino", "tensorrt")
SAMPLES = np.random.default_rng(0).standard_normal((160, 3, 12, 12)).astype(np.float32)
FRESH = np.random.default_rng(1).standard_normal((64, 3, 12, 12)).astype(np.float32)


class Uneven(nn.Module):
    """A depthwise convolution whose channels differ by a factor of 1,000, which one scale for all of them loses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depth = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, groups=12)
        self.point, self.head = nn.Conv2d(12, 16, 1), nn.Linear(16, 5)
        factors = torch.logspace(-2, 1, 12)
        with torch.no_grad():
            self.depth.weight *= factors.reshape(-1, 1, 1, 1)
            self.point.weight /= factors.reshape(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depth(torch.sigmoid(self.first(x))))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float export, and one Q/DQ file per target, with weights of eight bits on every CPU: nothing is fused here."""
    folder = tmp_path_factory.mktemp("quantized")
    np.save(folder / "samples.npy", SAMPLES)
    options = {"artifacts": folder / "artifacts", "progress": SILENT}
    exported = deploy.export(Uneven(), torch.from_numpy(SAMPLES[:2]), name="net", probes="quick", **options)  # type: ignore[arg-type]
    (folder / "float.onnx").write_bytes(exported.artifact.path.read_bytes())
    for target in TARGETS:
        cpu = None if target == "tensorrt" else "vnni"
        report = deploy.quantize(
            exported.artifact, calib=folder / "samples.npy", target=target, effort="low", cpu=cpu, **options
        )  # type: ignore[arg-type]
        (folder / f"{target}.onnx").write_bytes(report.artifact.path.read_bytes())
    return folder


def run_file(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # as every target rounds
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def stored(path: Path) -> dict[str, NDArray[np.float32]]:
    return {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def batches(order: NDArray[np.intp], size: int) -> Iterator[Feeds]:
    for start in range(0, len(order), size):
        yield {"x": SAMPLES[order[start : start + size]]}


def floats(folder: Path) -> dict[str, NDArray[np.float32]]:
    return stored(folder / "float.onnx")


@pytest.mark.parametrize("target", TARGETS)
def test_the_module_computes_what_the_file_does(target: str, folder: Path, tmp_path: Path) -> None:
    """Apart from values that lie between two steps, where sums in another order round to the other one."""
    module = FakeQuantized(folder / f"{target}.onnx", floats(folder))
    exact = run_file(folder / f"{target}.onnx", FRESH)
    (made,) = module(torch.from_numpy(FRESH)).values()
    noise = np.square(exact - run_file(folder / "float.onnx", FRESH)).mean()
    assert np.square(made.detach().numpy() - exact).mean() < 0.02 * noise
    module.save(tmp_path / "again.onnx")
    again, read = (stored(path) for path in (tmp_path / "again.onnx", folder / f"{target}.onnx"))
    kept = [np.allclose(again[name], value, rtol=3e-7, atol=0) for name, value in read.items()]
    assert kept and all(kept), "saved as it was read; scales may differ in their last bit"
    assert np.square(run_file(tmp_path / "again.onnx", FRESH) - exact).mean() < 1e-4 * noise
    assert {tuple(value.shape) for value in module.trained()} >= {(12, 1, 3, 3), (16, 12, 1, 1)}


def test_weights_start_as_the_floats_were(folder: Path) -> None:
    known = floats(folder)
    for given in (known, dict[str, NDArray[np.float32]]()):
        module = FakeQuantized(folder / "tensorrt.onnx", given)
        weights = [value.numpy() for value in module.values().values() if value.dim() == 4]
        same = [
            any(np.allclose(value, other, rtol=1e-6, atol=0) for other in known.values() if other.shape == value.shape)
            for value in weights
        ]
        assert len(weights) == 3 and all(same) == bool(given)


@pytest.mark.parametrize("target", TARGETS)
def test_training_brings_the_answers_back(target: str, folder: Path, tmp_path: Path) -> None:
    """Judged by the file in ONNX Runtime, on other samples."""
    path = tmp_path / f"{target}.onnx"
    path.write_bytes((folder / f"{target}.onnx").read_bytes())
    options = FineTuning(epochs=12, lr=1e-3, batch_size=16)
    losses = fine_tune(path, folder / "float.onnx", len(SAMPLES), batches, options)
    exact = run_file(folder / "float.onnx", FRESH)
    before, after = (float(np.square(run_file(item, FRESH) - exact).mean()) for item in (folder / path.name, path))
    assert after < 0.2 * before and min(losses) < losses[0], (before, after, losses)
    nodes = [[node.op_type for node in onnx.load(item).graph.node] for item in (folder / path.name, path)]
    assert nodes[0] == nodes[1], "the roundings stay where they were"


def test_the_same_seed_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    made = []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes((folder / "openvino.onnx").read_bytes())
        fine_tune(path, folder / "float.onnx", len(SAMPLES), batches, FineTuning(epochs=1, seed=seed))
        made.append(path.read_bytes())
    assert made[0] == made[1] != made[2]


def test_what_cannot_be_trained(folder: Path, tmp_path: Path) -> None:
    for options in ({"epochs": 0}, {"epochs": 1, "lr": 0.0}, {"epochs": 1, "batch_size": 0}):
        with pytest.raises(UsageError):
            FineTuning(**options)  # type: ignore[arg-type]
    path = tmp_path / "diverges.onnx"
    path.write_bytes((folder / "onnxruntime.onnx").read_bytes())
    with pytest.raises(ModelError, match="loss is"):
        fine_tune(path, folder / "float.onnx", len(SAMPLES), batches, FineTuning(epochs=40, lr=1e30))
    with pytest.raises(DataError, match="too few"):
        fine_tune(path, folder / "float.onnx", 40, batches, FineTuning(epochs=1), 32)


def test_the_command(tmp_path: Path, run: Callable[..., Ran]) -> None:
    """It trains the file of a trained model, says so, and keeps the start where no epoch is better."""
    root = ("--artifacts", str(tmp_path))
    assert run(*root, "train", "lenet5", "--data", "digits", "--epochs", "1").code == 0
    done = run(*root, "train", "lenet5", "--data", "digits", "--qat", "--target", "openvino", "--epochs", "1", "--json")
    document = json.loads(done.out)
    tuning = document["fine_tuning"]
    assert document["target"] == "openvino" and tuning["samples"] > 1000 and len(tuning["losses"]) == 2
    assert tuning["module_db"] == "inf" or tuning["module_db"] > 20
    assert document["judged_on"]["apart"] and done.code in (0, 4)
    rebuild = document["options"]["rebuild"].split()
    assert rebuild[:2] == ["deploy", "train"] and "--qat" in rebuild and "--epochs" in rebuild, "not the untrained file"
    refused = run(*root, "train", "lenet5", "--data", "digits", "--qat", "--optimizer", "adamw")
    assert refused.code == 2 and "--optimizer" in refused.err
    assert run(*root, "train", "lenet5", "--data", "digits", "--target", "openvino").code == 2


def test_a_loop_of_ones_own(folder: Path, tmp_path: Path) -> None:
    exported = folder / "artifacts" / "net" / "net.fp32.onnx"
    module = deploy.prepare_qat(exported, calib=folder / "samples.npy", target="tensorrt", artifacts=tmp_path)
    optimizer = torch.optim.SGD(module.trained(), lr=1e-4)
    (made,) = module(torch.from_numpy(SAMPLES[:8])).values()
    torch.autograd.backward(made.square().sum())
    assert all(value.grad is not None for value in module.trained())
    optimizer.step()
    module.save(tmp_path / "mine.onnx")
    (now,) = module(torch.from_numpy(FRESH)).values()
    noise = np.square(now.detach().numpy() - run_file(tmp_path / "mine.onnx", FRESH)).mean()
    assert noise < 0.02 * float(now.detach().var())
