"""INT8 with the other layers in FP16: what FP16 cannot hold stays in float32, though ONNX Runtime would not show it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deploy
from deploy.backends.torch.rounded import RoundedRunner
from tests.conftest import Listener  # type: ignore[import-not-found,unused-ignore]

X = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)


class Scaled(nn.Module):
    """Values inside reach ``factor`` times the usual ones, and are scaled back."""

    def __init__(self, factor: float, *, square: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.factor, self.square = factor, square
        with torch.no_grad():
            self.first.weight *= factor
            self.first.bias *= factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        hidden = hidden * hidden / self.factor**2 if self.square else hidden / self.factor
        return self.head(torch.relu(self.second(hidden)).mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "kept"),
    [(Scaled(1e5), True), (Scaled(1e3, square=True), True), (Scaled(1.0), False)],
    ids=["layers", "between layers", "ordinary"],
)
def test_what_fp16_cannot_hold(tmp_path: Path, model: nn.Module, kept: bool) -> None:
    np.save(tmp_path / "data.npy", X)
    progress, sample = Listener(), {"x": torch.from_numpy(X[:2])}
    deploy.export(model, sample, name="net", artifacts=tmp_path, opset=20, probes="quick", progress=progress)
    options = {"calib": str(tmp_path / "data.npy"), "target": "tensorrt", "artifacts": tmp_path, "samples": 16}
    plain = deploy.quantize("net", **options)
    report = deploy.quantize("net", **options, fp16=True, progress=progress)
    expected = RoundedRunner(plain.artifact.path).run({"x": X[:4]})
    found = RoundedRunner(report.artifact.path).run({"x": X[:4]})
    for name, value in expected.items():
        noise = np.linalg.norm(found[name] - value) / np.linalg.norm(value)
        assert noise < 0.02, f"{name}: {noise}"
    assert any("kept in float32, since FP16 cannot hold" in text for text in progress.notes) == kept
