"""The fake TensorRT on a real GPU: a run is operators of PyTorch, launched on the stream whose handle is passed.

Streams, events, copies and captures are those of CUDA. A pause on the GPU precedes every run, so that results which
are read too early are wrong.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.backends.engine_sequences import SEQUENCES, Desk, out_of_memory
from tests.backends.fake_tensorrt import Gpu, ICudaEngine, IExecutionContext, Shape, Tensor, Values

PAUSE_CYCLES = 4_000_000
"""Of the GPU, about 2 ms."""

SEQUENCES_ON_GPU = tuple(item for item in SEQUENCES if item is not out_of_memory)
"""Sequences that need no memory to run out after a number of allocations."""


class RealGpu(Gpu):
    """The current GPU of PyTorch; what is counted is counted by `CountingGraph` and `CountingEvent`."""

    def __init__(self) -> None:
        self._done = torch.zeros((), dtype=torch.int64, device="cuda")
        super().__init__()

    @property
    def current(self) -> int:
        """Handle of the current stream."""
        return int(torch.cuda.current_stream().cuda_stream)

    @current.setter
    def current(self, handle: int) -> None:
        """PyTorch keeps it."""

    @property
    def capturing(self) -> Any:
        """Not None during a capture on the current stream."""
        return True if torch.cuda.is_current_stream_capturing() else None

    @capturing.setter
    def capturing(self, graph: Any) -> None:
        """CUDA keeps it."""

    @property
    def done(self) -> int:
        """The number of runs that have ended; asking does not wait for others."""
        return int(self._done.item())

    def is_one_run(self, time_ns: int) -> bool:
        """A run lasts at least as long as its pause does at 4 GHz."""
        return time_ns > PAUSE_CYCLES / 4

    def is_pending(self, stream: int) -> bool:
        """Ask CUDA."""
        return not torch.cuda.ExternalStream(stream).query()  # type: ignore[no-untyped-call]

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Launch at once: CUDA queues."""
        with torch.cuda.stream(torch.cuda.ExternalStream(stream)):  # type: ignore[no-untyped-call]
            torch.cuda._sleep(PAUSE_CYCLES)
            work()
            self._done += 1

    def record(self, work: Callable[[], None]) -> None:
        """Launch into the capture, while another thread allocates memory if the GPU is ``busy``."""
        if self.broken_captures:
            self.broken_captures -= 1
            self.spoil()
            return
        if self.busy:
            other = threading.Thread(target=lambda: torch.empty(1 << 26, dtype=torch.uint8, device="cuda"))
            other.start()
            other.join()
        self.queue(self.current, work)

    def spoil(self) -> None:
        """Wait for the stream, which CUDA forbids during a capture."""
        with pytest.raises(RuntimeError, match="captur"):
            torch.cuda.current_stream().synchronize()

    def read(self, address: int, size: int, on_gpu: bool) -> bytes:
        """Return the content of memory on the CPU."""
        assert not on_gpu
        return ctypes.string_at(address, size)


class RealContext(IExecutionContext):
    """Launches the plan's operators."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._views: dict[Any, torch.Tensor] = {}

    def _view(self, item: Tensor, shape: Shape, address: int) -> torch.Tensor:
        """Return the tensor at an address; made outside captures, as every capture follows a run."""
        key = (address, shape, item.dtype)
        if key not in self._views:
            self._views[key] = _tensor_at(address, shape, item.dtype)
        return self._views[key]

    def _run(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int], host: Values) -> Any:
        def launch() -> None:
            feeds: dict[str, Any] = dict(host)
            views = {item.name: item for item in self._plan.tensors if item.name not in host}
            tensors = {name: self._view(item, shapes[name], addresses[name]) for name, item in views.items()}
            for name, item in views.items():
                if item.is_input:
                    feeds[name] = tensors[name]
            for name, value in self._plan.kernels(feeds).items():
                tensors[name].copy_(value)

        return lambda queued: launch


class RealEngine(ICudaEngine):
    """An engine whose runs are launched on the GPU."""

    _context = RealContext


class RealDesk(Desk):
    """Opens engines on the GPU of this machine."""

    def _prepare(self, patch: pytest.MonkeyPatch) -> tuple[Gpu, type[ICudaEngine]]:
        gpu = RealGpu()

        class CountingGraph(torch.cuda.CUDAGraph):
            def capture_end(self) -> None:
                super().capture_end()
                gpu.captures += 1

            def replay(self) -> None:
                gpu.replays += 1
                super().replay()

        class CountingEvent(torch.cuda.Event):
            def record(self, stream: Any = None) -> None:
                gpu.events += 1
                super().record(*(() if stream is None else (stream,)))

        patch.setattr(torch.cuda, "CUDAGraph", CountingGraph)
        patch.setattr(torch.cuda, "Event", CountingEvent)
        return gpu, RealEngine


def _tensor_at(address: int, shape: Shape, dtype: str) -> torch.Tensor:
    """Return a tensor of memory on the GPU that somebody else allocated."""
    if 0 in shape:
        return torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")

    layout = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 3}
    return torch.as_tensor(type("Memory", (), {"__cuda_array_interface__": layout})(), device="cuda")
