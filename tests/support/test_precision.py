"""Float64 without a second copy of the weights: equal to ``module.double()`` to the last bit."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from deploy.support.precision import computed_in


class Constants(nn.Module):
    """Makes float32 constants of its own; `.double()` fails on it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.arange(4, dtype=torch.float32).reshape(1, 4)
        return self.fc(x) @ table.T + torch.zeros(1, dtype=self.fc.weight.dtype) + x.float().sum(1, keepdim=True)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_equal_to_double(name: str) -> None:
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with computed_in(torch.float64):
        found = module(x)
    assert found.dtype is torch.float64
    assert all(parameter.dtype is torch.float32 for parameter in module.parameters())
    with torch.no_grad():
        assert torch.equal(found, copy.deepcopy(module).double()(x))


def test_attention_and_layer_norm() -> None:
    torch.manual_seed(0)
    module = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    with computed_in(torch.float64):
        found = module(x)
    with torch.no_grad():
        assert torch.allclose(found, copy.deepcopy(module).double()(x), rtol=1e-13, atol=1e-14)


def test_modules_that_make_float32_constants() -> None:
    torch.manual_seed(0)
    module = Constants().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError), torch.no_grad():
        copy.deepcopy(module).double()(x)
    with computed_in(torch.float64):
        found = module(x)
    weight, bias = module.fc.weight.double(), module.fc.bias.double()
    expected = (x @ weight.T + bias) @ torch.arange(4.0, dtype=torch.float64).reshape(4, 1) + x.sum(1, keepdim=True)
    assert torch.allclose(found, expected.detach(), rtol=1e-14, atol=1e-14)


def test_it_tells_which_parameters_were_read() -> None:
    module = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    with computed_in(torch.float64, module) as read:
        module["used"](torch.ones(1, 2))
    assert read == {"used.weight", "used.bias"}


def test_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.support.half_products.has_kernels", lambda: True)
    module = nn.Linear(8, 8)
    x = torch.randn(2, 8)
    with computed_in(torch.float16):
        found = module(x)
    assert found.dtype is torch.float16
    with torch.no_grad():
        assert torch.equal(found, copy.deepcopy(module).half()(x.half()))


class Caching(nn.Module):
    """Keeps tables it computed, as attention with cached biases does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(3))
        self.by_device: dict[str, torch.Tensor] = {}
        self.seen: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "cpu" not in self.by_device:
            self.by_device["cpu"] = self.table * 2
        self.seen.append(x)
        self.last, self.fresh = x, x
        return x @ self.by_device["cpu"]


def test_tables_cached_in_one_precision_do_not_spoil_another() -> None:
    module = Caching().eval()
    with computed_in(torch.float64, module):
        assert module(torch.ones(2, 3)).dtype is torch.float64
    assert module.by_device == {} and module.seen == [] and module.last is None and not hasattr(module, "fresh")
    with torch.no_grad():
        assert module(torch.ones(2, 3)).dtype is torch.float32
    with computed_in(torch.float64, module):
        assert module(torch.ones(2, 3)).dtype is torch.float64
    assert module.by_device["cpu"].dtype is torch.float32 and len(module.seen) == 1
