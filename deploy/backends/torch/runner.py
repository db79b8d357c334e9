"""A model as a deployment would run it in PyTorch: weights in their precision, on their device, nothing watched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch

from deploy.core.errors import BackendError, UsageError
from deploy.core.model import Model, name_outputs
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.profiling import Event, node_times

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchOptions:
    """How a module is run.

    Attributes:
        precision: ``fp32``, or ``fp16`` with weights and arithmetic in half; floats come out as float32.
        device: ``cpu`` or ``cuda``.
        channels_last: images and weights in NHWC order.
        graph: replay a captured CUDA graph instead of launching kernel by kernel.
        threads: within an operator; 0 leaves it to PyTorch. It holds for the whole process.
    """

    precision: str = "fp32"
    device: str = "cpu"
    channels_last: bool = False
    graph: bool = False
    threads: int = 0


class ModuleRunner(Runner):
    """Runs a model's module; the module is converted in place and must not be used otherwise.

    Raises:
        BackendError: there is no CUDA device here.
        UsageError: a CUDA graph was asked for on a CPU.
    """

    def __init__(self, model: Model, options: TorchOptions, wrap: Callable[[Any], Any] = lambda module: module) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise BackendError("PyTorch finds no CUDA device on this machine.", "deploy doctor tells what is missing")
        if options.graph and options.device != "cuda":
            raise UsageError("a CUDA graph needs --device cuda.")
        if options.threads:
            torch.set_num_threads(options.threads)
        self.model = model
        self.inputs = model.inputs
        self.outputs: tuple[TensorSpec, ...] = ()
        self._options = options
        self._dtype = PRECISIONS[options.precision]
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        module = model.module.to(device=options.device, dtype=self._dtype)
        self._module = wrap(module.to(memory_format=torch.channels_last) if options.channels_last else module)
        self._graph: Any = None
        self._events: tuple[Any, Any] | None = None
        if options.device == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # on by default: float32 is to be float32
            self._events = _event(), _event()

    def _tensor(self, value: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(self._options.device)
        tensor = tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        return tensor.to(memory_format=self._layout) if tensor.ndim == 4 else tensor

    def bind(self, feeds: Feeds) -> None:
        """Move inputs to the device and, where asked for, capture the graph."""
        self._arguments = self.model.arguments({name: self._tensor(value) for name, value in feeds.items()})
        self._graph = None
        if self._options.graph:
            self._graph = self._capture()

    def _capture(self) -> Any:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is set up lazily must have happened before the capture
            for _ in range(3):
                self._call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._call()
        return graph

    def _call(self) -> Any:
        positional, keyword = self._arguments
        with torch.inference_mode():
            return self._module(*positional, **keyword)

    def launch(self) -> None:
        """Call the module, or replay its graph."""
        if self._events:
            self._events[0].record()
        if self._graph is None:
            self._result = self._call()
        else:
            self._graph.replay()
        if self._events:
            self._events[1].record()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._events:
            torch.cuda.synchronize()

    def device_ns(self) -> int | None:
        """Time on the device of what was launched and waited for last, by CUDA events; None on a CPU."""
        if self._events is None:
            return None
        elapsed_ms: float = self._events[0].elapsed_time(self._events[1])
        return round(elapsed_ms * 1e6)

    def fetch(self) -> Fetches:
        """Outputs as numpy arrays, floats as float32."""
        named = name_outputs(self._result)
        return {
            name: np.asarray((value.float() if value.is_floating_point() else value).cpu().numpy())
            for name, value in named.items()
        }

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            self.bind(feeds)
            self.launch()
            self.synchronize()
        except Exception as exc:
            shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
            first = next(iter(str(exc).splitlines()), type(exc).__name__)
            raise BackendError(f"PyTorch could not run {self.model.name} on {shapes}: {first}") from exc
        return self.fetch()


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Open a model for eager execution.

    Args:
        model: the model; its module is converted in place.
        options: fields of `TorchOptions`.
    """
    return ModuleRunner(model, TorchOptions(**options))


def profile_model(model: Model, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time by module that has no modules of its own, over so many calls; what is computed between them is left out.

    Returns:
        As `deploy.support.profiling.node_times`; the operator is the module's class.
    """
    runner = ModuleRunner(model, TorchOptions(**options))
    runner.bind(feeds)
    found: list[Event] = []
    began: dict[str, int] = {}
    leaves = {name: item for name, item in model.module.named_modules() if not any(item.children())}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: began.__setitem__(name, _waited(runner))

    def after(name: str) -> Callable[..., None]:
        kind = type(leaves[name]).__name__
        return lambda *_: found.append((name, kind, "float", float(_waited(runner) - began[name])))

    hooks = [item.register_forward_pre_hook(before(name)) for name, item in leaves.items()]
    hooks += [item.register_forward_hook(after(name)) for name, item in leaves.items()]
    try:
        for _ in range(calls):
            runner.launch()
    finally:
        for hook in hooks:
            hook.remove()
    return node_times(found, calls)


def _waited(runner: ModuleRunner) -> int:
    """The time, once the device is done."""
    runner.synchronize()
    return perf_counter_ns()
