"""Half-precision runs on CPUs without kernels: as near to float64 as PyTorch's own kernels, and of the same type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.support import half_products
from deploy.support.precision import computed_in


def attention(mask: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(module: nn.Module, x: Tensor) -> Tensor:
        parts = module(x.flatten(2).mT).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        size = query.shape[-2]
        bias = torch.linspace(-1, 1, size * size).reshape(size, size) if mask == "float" else None
        chosen = torch.ones(size, size, dtype=torch.bool).tril(3 if mask == "bool" else -1) if "bool" in mask else bias
        return F.scaled_dot_product_attention(query, key, value, chosen, is_causal=mask == "causal")

    return run


def plain(module: nn.Module, x: Tensor) -> Tensor:
    result = module(x)
    return result[0] if isinstance(result, tuple) else result


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 16, 3, groups=16), nn.SiLU()),
        plain,
    ),
    "transposed": (lambda: nn.ConvTranspose2d(8, 8, 3, 2, bias=False), plain),
    "linear": (lambda: nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32, bias=False)), plain),
    "lstm": (lambda: nn.Sequential(nn.Flatten(2), nn.LSTM(144, 16, batch_first=True)), plain),
    **{
        f"attention, mask {mask}": (lambda: nn.Linear(8, 96), attention(mask))
        for mask in ("none", "causal", "bool", "bool with an empty row", "float")
    },
}


def nsr(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_as_near_as_kernels_are(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    build, run = NETWORKS[name]
    module, x = build().eval(), torch.randn(4, 8, 12, 12)
    with computed_in(torch.float64, module):
        exact = run(module, x)
    found = {}
    for kernels in (True, False):
        monkeypatch.setattr(half_products, "has_kernels", lambda kernels=kernels: kernels)
        with computed_in(dtype, module):
            found[kernels] = run(module, x)
    assert found[False].dtype is found[True].dtype is dtype and found[False].shape == found[True].shape
    limit = torch.finfo(dtype).eps
    assert nsr(found[False], found[True].double()) < 2 * limit
    assert nsr(found[True], exact) / 1.5 < nsr(found[False], exact) < 1.5 * nsr(found[True], exact)


def test_results_that_are_too_large_stay_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_products, "has_kernels", lambda: False)
    with computed_in(torch.float16):
        found = F.linear(torch.full((1, 64), 200.0), torch.full((2, 64), 100.0))
    assert torch.isinf(found).all()
