"""Models that AOTInductor compiled: real compilers, real libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.backends.torch_aot.runner import from_model
from deploy.core.errors import BackendError, UsageError
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler: apt-get install g++")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list to which every compilation adds its file."""
    real, found = torch._inductor.aoti_compile_and_package, list[str]()
    monkeypatch.setattr(
        torch._inductor,
        "aoti_compile_and_package",
        lambda program, package_path, **options: (
            found.append(package_path),
            real(program, package_path=package_path, **options),
        ),
    )
    return found


def test_a_model_for_the_shapes_that_are_bound(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = counted(monkeypatch)
    model = resolve(ModelRequest(name=f"{nets}:small", inputs=("x:batch,3,16,16",)))
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = model.module(torch.from_numpy(image)).numpy()
    with from_model(model, threads=1) as runner:
        (found,) = runner.run({"x": image}).values()
        assert np.abs(found - expected).max() < 1e-5
        (again,) = runner.run({"x": image * 2}).values()
        assert len(compiled) == 1 and np.abs(again - expected).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"freezing": True}, {"channels_last": True}, {"precision": "fp16"}])
def test_options_and_shapes(nets: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> None:
    compiled = counted(monkeypatch)
    request = ModelRequest(name=f"{nets}:small", inputs=("x:batch,3,16,16",))
    reference, model = resolve(request), resolve(request)
    with from_model(model, threads=1, **options) as runner:
        for batch in (1, 3):
            image = np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)
            with torch.no_grad():
                expected = reference.module(torch.from_numpy(image)).numpy()
            (found,) = runner.run({"x": image}).values()
            assert np.abs(found - expected).max() < (0.01 if "precision" in options else 1e-5)
        assert len(compiled) == 2


def test_a_model_that_torch_export_refuses(nets: Path) -> None:
    model = resolve(ModelRequest(name=f"{nets}:forked", inputs=("x:batch,4",)))
    with from_model(model) as runner, pytest.raises(BackendError, match="AOTInductor cannot compile it") as raised:
        runner.run({"x": np.ones((1, 4), np.float32)})
    assert "g++" in str(raised.value.hint)
    with pytest.raises(UsageError, match="CUDA graph"):
        from_model(model, graph=True)
