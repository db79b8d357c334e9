"""The model in PyTorch as a deployment would run it: weights in the chosen precision, on the chosen device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
import torch

from deploy.core.errors import BackendError, UsageError
from deploy.core.model import Model
from deploy.core.options import read_options
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec
from deploy.support.cuda_graph import capture
from deploy.support.profiling import Event, node_times
from deploy.support.runtime_errors import first_line, run_error

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchOptions:
    """Options of a module's execution.

    Attributes:
        precision: precision of weights and arithmetic, ``fp32``, ``fp16`` or ``bf16``; outputs are float32.
        channels_last: store images and weights in NHWC order.
        graph: replay a captured CUDA graph instead of launching every kernel.
        threads: threads within an operator, for the whole process; 0 leaves the choice to PyTorch.
    """

    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    channels_last: bool = False
    graph: bool = False
    threads: int = 0


class ModuleRunner(Runner):
    """Runs a model's module, which is converted in place and must not be used for anything else.

    ``wrap`` is applied to the converted module, such as ``torch.compile``.
    """

    def __init__(self, model: Model, options: TorchOptions, wrap: Callable[[Any], Any] = lambda module: module) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise BackendError("PyTorch finds no CUDA device on this machine.", "deploy doctor")
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
        self._feeds: Feeds = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._graph: Any = None
        self._events: tuple[Any, Any] | None = None
        if options.device == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # TF32 is the default and is less precise than float32
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._events = start, end
            self.gpu = torch.cuda.current_device()

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.bind(feeds)
        self.launch()
        self.synchronize()
        return self.fetch()

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to the device; where a CUDA graph is asked for, new shapes capture a new one."""
        self._feeds = feeds
        graph, self._graph = self._graph, None  # a bind that fails leaves nothing to replay
        try:
            tensors = {name: self._tensor(value) for name, value in feeds.items()}
            if graph is not None and _layouts(tensors) == _layouts(self._tensors):
                for name, tensor in tensors.items():
                    self._tensors[name].copy_(tensor)
                self._graph = graph
                return
            self._tensors, self._arguments = tensors, self.model.arguments(tensors)
            if self._options.graph:
                self._graph = self._capture()
        except Exception as exc:
            raise self._failed(exc) from exc

    def launch(self) -> None:
        """Call the module, or replay its CUDA graph."""
        try:
            if self._graph is None:
                self._result = self._call()
            else:
                self._graph.replay()
        except Exception as exc:
            raise self._failed(exc) from exc

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._events:
            try:
                torch.cuda.synchronize()
            except Exception as exc:
                raise self._failed(exc) from exc

    def device_ns(self) -> int | None:
        """Run once more and return the device time of that run in ns, from CUDA events; None on a CPU."""
        if self._events is None:
            return None
        self._events[0].record()
        self.launch()
        self._events[1].record()
        self.synchronize()
        elapsed_ms: float = self._events[0].elapsed_time(self._events[1])
        return round(elapsed_ms * 1e6)

    def fetch(self) -> Fetches:
        """Copy the outputs to the CPU, floats as float32."""
        named = self.model.name_outputs(self._result)
        return {
            name: np.asarray((value.float() if value.is_floating_point() else value).cpu().numpy())
            for name, value in named.items()
        }

    def _tensor(self, value: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.asarray(value, order="C")).to(self._options.device)
        tensor = tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        return tensor.to(memory_format=self._layout) if tensor.ndim == 4 else tensor

    def _capture(self) -> Any:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy initialization must be complete before the capture
            for _ in range(3):
                self._call()
        torch.cuda.current_stream().wait_stream(side)
        graph, self._result = capture(self._call)
        return graph

    def _call(self) -> Any:
        positional, keyword = self._arguments
        with torch.inference_mode():
            return self.model.result_of(self._module, positional, keyword)

    def _failed(self, error: Exception) -> BackendError:
        return run_error(f"{self.model.name} in PyTorch", self._feeds, first_line(error))


def _layouts(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[Any, ...]]:
    """Return what a captured graph cannot change of its inputs."""
    return {name: (item.shape, item.stride(), item.dtype) for name, item in tensors.items()}


def from_model(model: Model, **options: Any) -> ModuleRunner:
    """Open a model, converted in place, for eager execution; the options are the fields of `TorchOptions`."""
    return ModuleRunner(model, read_options(TorchOptions, options, "PyTorch"))


def profile_model(model: Model, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time every module without children; work between these modules is not included."""
    runner = from_model(model, **options)
    runner.bind(feeds)
    events: list[Event] = []
    started: dict[str, int] = {}
    leaves = {name: item for name, item in model.module.named_modules() if not any(item.children())}

    def before(name: str) -> Callable[..., None]:
        return lambda *_: started.__setitem__(name, _synchronized_ns(runner))

    def after(name: str) -> Callable[..., None]:
        kind = type(leaves[name]).__name__
        return lambda *_: events.append((name, kind, "float", float(_synchronized_ns(runner) - started[name])))

    hooks = [item.register_forward_pre_hook(before(name)) for name, item in leaves.items()]
    hooks += [item.register_forward_hook(after(name)) for name, item in leaves.items()]
    try:
        for _ in range(calls):
            runner.launch()
    finally:
        for hook in hooks:
            hook.remove()
    return node_times(events, calls)


def _synchronized_ns(runner: ModuleRunner) -> int:
    """Return the time after the device has finished."""
    runner.synchronize()
    return perf_counter_ns()
