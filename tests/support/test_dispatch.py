"""What observes operators does not import PyTorch's compiler, and keeps it out where a model uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from deploy.support.precision import computed_in
from deploy.support.state import unchanged

SLOW = ("torch._dynamo", "torchvision")
CHECK = f"import sys, json, deploy; deploy.check(sys.argv[1]); print(json.dumps([*{{*{SLOW}}} & {{*sys.modules}}]))"


def test_a_check_imports_no_compiler(lenet5: Path) -> None:
    file = lenet5 / "lenet5" / "lenet5.fp32.onnx"
    done = subprocess.run([sys.executable, "-c", CHECK, str(file)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


class Compiled(nn.Module):
    """Counts its calls; a part of it is compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.run = torch.compile(lambda x: torch.relu(self.linear(x)) * 2 + 1, backend="eager")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        result: torch.Tensor = self.run(x)
        return result


def test_a_model_with_a_compiled_part_is_observed_like_any_other() -> None:
    torch.manual_seed(0)
    model, x = Compiled(), torch.randn(2, 4)
    with torch.no_grad():
        expected = torch.relu(nn.functional.linear(x.double(), *map(torch.Tensor.double, model.linear.parameters())))
        with computed_in(torch.float64, model):
            assert torch.equal(model(x), expected * 2 + 1)
        with unchanged(model):
            torch.testing.assert_close(model(x), (expected * 2 + 1).float())
    assert model.calls.item() == 0


CONTROL_FLOW = """
import sys, torch
from deploy.backends.torch.reference import PyTorchRunner
from deploy.core.model import Model, Weights
from deploy.core.tensors import TensorSpec

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        y = self.linear(x)
        return torch.cond(y.sum() > 0, lambda value: value * 2, lambda value: value - 1, (y,))

model = Model(
    name="net", slug="net", module=Net().eval(), sizes={"batch": 2}, weights=Weights(source="none", trained=False),
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
)
assert "torch._dynamo" not in sys.modules
feeds = {"x": torch.randn(2, 4).numpy()}
runner = PyTorchRunner(model, sys.argv[1])
print(len(runner.run_again(feeds)[0] if sys.argv[2] == "twice" else runner.run(feeds)), float(model.module.calls))
"""


@pytest.mark.parametrize(("precision", "runs"), [("fp64", "once"), ("fp32", "twice")])
def test_a_model_that_brings_the_compiler_runs(precision: str, runs: str) -> None:
    """In the process in which it is the first to import it."""
    command = [sys.executable, "-W", "ignore", "-c", CONTROL_FLOW, precision, runs]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0.0"], "its state is what it was"
