"""Modules whose weights have no values yet: on the device meta, or lazy; and weights given besides a module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from torch import nn

import deploy
from tests.conftest import Ran

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


def build():
    with torch.device("meta"):
        return Net()
"""


def net(device: str = "cpu") -> nn.Module:
    space: dict[str, Any] = {"__name__": "net"}
    exec(compile(NET, "net.py", "exec"), space)
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(2)
        module: nn.Module = space["Net"]()
    if device == "cpu":
        nn.init.uniform_(module.get_submodule("norm").weight, 0.5, 2.0)  # type: ignore[arg-type]
        nn.init.uniform_(module.get_submodule("norm").running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return module.eval()


def state(module: nn.Module, folder: Path) -> Any:
    return module.state_dict()


def tensors_file(module: nn.Module, folder: Path) -> Any:
    safetensors.torch.save_file(module.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


def wrapped(module: nn.Module, folder: Path) -> Any:
    torch.save({"model": {f"module.{name}": value for name, value in module.state_dict().items()}}, folder / "net.pt")
    return str(folder / "net.pt")


def outputs(path: Path) -> np.ndarray:
    result: np.ndarray = ort.InferenceSession(str(path)).run(None, {"x": X.numpy()})[0]
    return result


@pytest.mark.parametrize("given", [state, tensors_file, wrapped])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_weights_besides_a_module(
    store: Path, tmp_path: Path, given: Callable[[nn.Module, Path], Any], device: str
) -> None:
    source, module = net(), net(device)
    if device == "cpu":
        nn.init.zeros_(module.get_submodule("last").weight)  # type: ignore[arg-type]
    report = deploy.export(
        module, X, name="net", weights=given(source, tmp_path), artifacts=store, strategy="trace", probes="quick"
    )
    assert report.verdict == "pass"
    np.testing.assert_allclose(outputs(report.artifact.path), source(X).detach().numpy(), rtol=1e-4, atol=1e-5)
    (weight,) = [value for name, value in module.named_parameters() if name == "last.weight"]
    assert weight.is_meta if device == "meta" else not weight.any(), "the module is as it was"
    request = deploy.module_request(net("meta"), X, name="net", weights=source.state_dict())
    assert deploy.check(request, artifacts=store, probes="quick").parity.verdict == "pass"


def test_without_weights_the_hint_is_a_line_that_works(store: Path, tmp_path: Path) -> None:
    with pytest.raises(deploy.ModelError) as refused:
        deploy.export(net("meta"), X, artifacts=store)
    assert refused.value.hint is not None and "weights=" in refused.value.hint
    buffered = net("meta")
    buffered.register_buffer("table", torch.ones(4, device="meta"), persistent=False)
    with pytest.raises(deploy.ModelError, match="table") as refused:
        deploy.export(buffered, X, weights=net().state_dict(), artifacts=store)
    assert refused.value.hint is not None and "CPU" in refused.value.hint


def test_lazy_modules(store: Path) -> None:
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyBatchNorm1d()).eval()
    for weights in (None, nn.Sequential(nn.Linear(6, 4)).state_dict()):
        with pytest.raises(deploy.ModelError) as refused:
            deploy.export(lazy, X, weights=weights, artifacts=store)
        assert refused.value.hint is not None and "module(x)" in refused.value.hint
    lazy(X)
    report = deploy.export_model(lazy, inputs=X, artifacts=store, strategy="trace", probes="quick")
    assert report.verdict == "pass"


def test_weights_that_are_refused(store: Path, tmp_path: Path) -> None:
    other = nn.Linear(6, 9).state_dict()
    cases: list[tuple[Any, Any, type[deploy.DeployError]]] = [
        (net("meta"), other, deploy.WeightsError),
        (net("meta"), {}, deploy.WeightsError),
        (net("meta"), tmp_path / "nowhere.pt", deploy.WeightsError),
        (deploy.module_request(net(), X), other, deploy.UsageError),
        ("zoo/lenet5", other, deploy.UsageError),
        ("zoo/lenet5", tmp_path / "nowhere.pt", deploy.WeightsError),
    ]
    for model, weights, error in cases:
        with pytest.raises(error):
            deploy.export(model, X if isinstance(model, nn.Module) else None, weights=weights, artifacts=store)
    assert not list(store.glob("*/*"))


def test_a_factory_on_meta(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    factory = (f"{tmp_path / 'net.py'}:build", "--input", "x:batch,6", "--strategy", "trace", "--probes", "quick")
    refused = run("export", *factory)
    assert refused.code and "--weights" in refused.err
    assert run("export", *factory, "--weights", tensors_file(net(), tmp_path)).code == 0
