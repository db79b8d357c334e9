"""CUDA graphs of the PyTorch runner on the GPU of `tests.backends.fake_tensorrt`, which repeats what it recorded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from deploy.backends.torch import runner as torch_runner
from deploy.core.errors import BackendError
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.support import cuda_graph
from tests.backends.fake_tensorrt import FakeTorch, Gpu

to_device = torch.Tensor.to


def on_the_cpu(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``Tensor.to``, for which the GPU is the CPU."""

    def moved(item: Any) -> Any:
        return "cpu" if isinstance(item, str | torch.device) and torch.device(item).type == "cuda" else item

    return to_device(tensor, *map(moved, args), **{name: moved(item) for name, item in kwargs.items()})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A GPU for the PyTorch runner."""
    made = Gpu()
    faked = FakeTorch(made)
    monkeypatch.setattr(torch_runner, "torch", faked)
    monkeypatch.setattr(cuda_graph, "torch", faked)
    monkeypatch.setattr(torch.Tensor, "to", on_the_cpu)
    yield made


def batch(size: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng((size, seed))
    return {"input": rng.standard_normal((size, 1, 32, 32)).astype(np.float32)}


def opened(**options: Any) -> tuple[torch_runner.ModuleRunner, Any]:
    request = ModelRequest(name="zoo/lenet5", weights="none")
    runner = torch_runner.from_model(resolve(request), device="cuda", **options)
    plain = torch_runner.from_model(resolve(request), device="cpu")
    return runner, lambda feeds: next(iter(plain.run(feeds).values()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_graph_is_captured_once_for_a_size_and_computes_of_new_inputs(gpu: Gpu, channels_last: bool) -> None:
    runner, expected = opened(graph=True, channels_last=channels_last)
    counts = []
    for step, size in enumerate((2, 2, 2, 3, 3, 2)):
        feeds = batch(size, step)
        (logits,) = runner.run(feeds).values()
        np.testing.assert_allclose(logits, expected(feeds), atol=1e-5)
        counts.append(gpu.captures)
    assert counts == [1, 1, 1, 2, 2, 3] and gpu.replays == 6


def test_a_capture_that_failed_is_repeated(gpu: Gpu) -> None:
    runner, expected = opened(graph=True)
    gpu.broken_captures = 1
    with pytest.raises(BackendError, match="capture"):
        runner.bind(batch(2))
    (logits,) = runner.run(batch(2)).values()
    np.testing.assert_allclose(logits, expected(batch(2)), atol=1e-5)
    assert gpu.captures == 1


def test_another_thread_may_use_the_gpu_during_a_capture(gpu: Gpu) -> None:
    gpu.busy = True
    runner, _ = opened(graph=True)
    runner.bind(batch(2))
    assert gpu.captures == 1


@pytest.mark.parametrize("graph", [False, True])
def test_events_lie_outside_what_is_timed(gpu: Gpu, graph: bool) -> None:
    runner, _ = opened(graph=graph)
    runner.bind(batch(2))
    before = gpu.events
    runner.launch()
    runner.synchronize()
    assert gpu.events == before
    assert runner.device_ns() is not None and gpu.events == before + 2


def test_the_first_error_of_a_capture_is_the_one_that_is_raised(gpu: Gpu) -> None:
    def call() -> None:
        raise BackendError("the reason")

    with pytest.raises(BackendError, match="the reason"):
        cuda_graph.capture(call)
