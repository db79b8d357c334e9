"""PyTorch's own run with other roundings, on operators that return nothing, as in a detector that finds no object."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy.backends.torch.perturbed import PerturbedRunner
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec


class TakesApart(nn.Module):
    """Takes the rows above a threshold apart, by an operator whose result is a list, and adds what it finds."""

    def __init__(self, operator: str, threshold: float) -> None:
        super().__init__()
        self.operator, self.threshold = operator, threshold
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(x).sigmoid()
        found = y[y[:, 0] > self.threshold]
        parts = found.unbind(0) if self.operator == "unbind" else found.split([1] * len(found))
        for part in parts:
            y = y + part
        return y


@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("threshold", [2.0, 0.5])
@pytest.mark.parametrize("operator", ["unbind", "split"])
def test_a_list_without_elements(operator: str, threshold: float, layers: bool) -> None:
    torch.manual_seed(0)
    model = Model(
        name="finds",
        slug="finds",
        module=TakesApart(operator, threshold).eval(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
        sizes={"batch": 6},
        weights=Weights(source="seed", trained=False),
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)}
    (plain,) = PyTorchRunner(model, "fp32").run(feeds).values()
    runner = PerturbedRunner(model, "fp32", layers=layers)
    (other,) = runner.run(feeds).values()
    assert runner.roundings.used and not np.array_equal(plain, other)
    np.testing.assert_allclose(other, plain, rtol=1e-5)
