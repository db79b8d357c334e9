"""A small graph with every construct that the rules of the targets mention."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

Save = Callable[..., Path]


class Block(nn.Module):
    """Convolutions, a residual sum, a batch normalization without a convolution, pools, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.alone = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(torch.relu(self.first(x)), 2)
        x = torch.relu(self.norm(self.second(x)) + x)
        x = self.third(torch.relu(self.alone(x)))
        x = nn.functional.avg_pool2d(nn.functional.relu6(x), 2)
        return self.head(x.mean((2, 3)))


def save(path: Path, *, batch: bool = True) -> Path:
    """Export the block to ONNX, seeded, with batch statistics other than the identity."""
    torch.manual_seed(5)
    module = Block().eval()
    with torch.no_grad():
        for name, value in module.named_buffers():
            if "running" in name:
                value.copy_(torch.rand_like(value) + 0.5)
        for name, value in module.named_parameters():
            value.mul_(0.1 if name.endswith("bias") else 3.0)  # so that the output depends on the input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        _trace(module, path, batch)
    return path


def _trace(module: nn.Module, path: Path, batch: bool) -> None:
    torch.onnx.export(
        module,
        (torch.zeros(2 if batch else 1, 3, 16, 16),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["input"],
        output_names=["logits"],
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.EVAL,
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}} if batch else None,
    )


@pytest.fixture(scope="session")
def block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("block") / "block.onnx")


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.standard_normal((24, 3, 16, 16)) * 0.5 + rng.standard_normal((24, 3, 1, 1))).astype(np.float32)


@pytest.fixture
def change(tmp_path: Path, block: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """A function that saves the block after a change."""

    def changed(apply: Callable[[onnx.ModelProto], None]) -> Path:
        model = onnx.load(str(block))
        apply(model)
        onnx.save(model, str(tmp_path / "changed.onnx"))
        return tmp_path / "changed.onnx"

    return changed
