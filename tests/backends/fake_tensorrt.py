"""A TensorRT runtime that computes on the CPU and enforces what TensorRT's headers demand of its callers.

The classes have the names of those in the Python bindings, and `unknown_calls` compares every method, its number of
arguments and every property with a real library. Work is queued and done when its stream is synchronized, so that
results that are read too early, and memory that is changed or freed too early, are seen. A broken rule raises
`Violation`, which is no `Exception` that a runner may translate.

`FakeTorch` replaces ``torch`` in a runner: memory of the GPU is memory of the CPU whose addresses are aligned as those
of a GPU, and ``torch.cuda`` has streams, events and captures on the same queue.
"""

from __future__ import annotations

import ctypes
import enum
import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

Shape = tuple[int, ...]
ALIGNMENT = 256
RUN_MS = 1.0
"""Simulated duration of one run on the GPU."""


class Violation(BaseException):
    """The caller broke a rule of the interface."""


def demand(holds: bool, rule: str) -> None:
    """Raise `Violation` unless a rule holds."""
    if not holds:
        raise Violation(rule)


# The GPU ----------------------------------------------------------------------------------------------------------


class Gpu:
    """Queues of streams, live memory and a simulated clock.

    Attributes:
        captures: number of completed captures.
        launches: number of runs that were queued outside captures.
        broken_captures: number of captures that fail.
        busy: another thread uses the GPU, which a capture in global mode does not survive.
        memory_left: number of allocations on the GPU that succeed; None for any number.
    """

    def __init__(self) -> None:
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.clock_ms = 0.0
        self.current = 0
        self.capturing: FakeGraph | None = None
        self.captures = self.launches = self.replays = self.events = 0
        self.busy = False
        self.broken_captures = 0
        self.memory_left: int | None = None
        self._live: list[tuple[int, int, bool, Any]] = []

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        """Do something when the stream is synchronized."""
        self.queues.setdefault(stream, []).append(work)

    @property
    def done(self) -> int:
        """The number of runs that have ended."""
        return round(self.clock_ms / RUN_MS)

    def is_one_run(self, time_ns: int) -> bool:
        """Whether one run takes this time."""
        return time_ns == RUN_MS * 1e6

    def is_pending(self, stream: int) -> bool:
        """Whether a stream has work that is not done."""
        return bool(self.queues.get(stream))

    def record(self, work: Callable[[], None]) -> None:
        """Add work to the capture."""
        if self.capturing is not None:
            self.capturing.work.append(work)

    def spoil(self) -> None:
        """Do what cannot be captured, so that the capture fails."""
        if self.capturing is not None:
            self.capturing.is_spoiled = True

    def finish(self, stream: int) -> None:
        """Do the queued work of a stream."""
        demand(self.capturing is None, "nothing is synchronized during a capture")
        work, self.queues[stream] = self.queues.get(stream, []), []
        for item in work:
            item()

    def allocate(self, size: int, on_gpu: bool) -> torch.Tensor:
        """Return memory filled with 0xA5: aligned to 512 bytes on the GPU, and to no more than 64 on the CPU."""
        if on_gpu and self.memory_left is not None:
            if self.memory_left == 0:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            self.memory_left -= 1
        array = np.full(size + 1024, 0xA5, np.uint8)
        start = -array.ctypes.data % 512 + (0 if on_gpu else 64)
        address = array.ctypes.data + start
        self._live.append((address, address + size, on_gpu, weakref.ref(array)))
        return torch.from_numpy(array)[start : start + size]

    def check(self, address: int, size: int, on_gpu: bool) -> None:
        """Demand that memory is allocated, on the right side, and large enough."""
        self._live = [item for item in self._live if item[3]() is not None]
        holders = [item for item in self._live if item[0] <= address < item[1] or (size == 0 and address == item[1])]
        demand(bool(holders), "memory is not freed before the run that uses it has ended")
        demand(holders[0][2] == on_gpu, "a tensor's memory is where get_tensor_location says")
        demand(address + size <= holders[0][1], "memory is as large as the tensor")

    def read(self, address: int, size: int, on_gpu: bool) -> bytes:
        """Return the content of memory."""
        self.check(address, size, on_gpu)
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes, on_gpu: bool) -> None:
        """Change the content of memory."""
        self.check(address, len(data), on_gpu)
        ctypes.memmove(address, data, len(data))


# The part of torch.cuda that runners use ---------------------------------------------------------------------------


class FakeStream:
    """A stream; work on it waits for `synchronize`."""

    def __init__(self, gpu: Gpu, handle: int) -> None:
        self._gpu, self.cuda_stream = gpu, handle

    def synchronize(self) -> None:
        """Do the queued work."""
        self._gpu.finish(self.cuda_stream)

    def wait_stream(self, other: FakeStream) -> None:
        """Do the other stream's work first."""
        self._gpu.finish(other.cuda_stream)


class FakeEvent:
    """An event; its time is known when its stream is synchronized."""

    def __init__(self, gpu: Gpu, enable_timing: bool = False) -> None:
        demand(enable_timing, "elapsed_time needs events with timing")
        self._gpu, self.time_ms = gpu, None

    def record(self) -> None:
        """Take the time when the work before it on the current stream has ended."""
        demand(self._gpu.current != 0, "an event is recorded on the stream of the run")
        self._gpu.events += 1
        self.time_ms = None
        self._gpu.queue(self._gpu.current, self._take)

    def _take(self) -> None:
        self.time_ms = self._gpu.clock_ms

    def elapsed_time(self, other: FakeEvent) -> float:
        """Return the milliseconds between two events."""
        if self.time_ms is None or other.time_ms is None:
            raise RuntimeError("CUDA error: device not ready")
        return other.time_ms - self.time_ms


class _Recorder(TorchDispatchMode):
    """Records the operators of PyTorch that a capture contains, with their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def repeat(self) -> None:
        """Compute again, from what the operands contain now into the results of the capture."""
        with torch.inference_mode():
            for func, args, kwargs, result in self.calls:
                again = func(*args, **kwargs)
                pairs = zip(result, again, strict=True) if isinstance(result, tuple | list) else [(result, again)]
                for old, new in pairs:
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)


class FakeGraph:
    """A captured graph: the runs of engines and the operators of PyTorch that it contains."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.work: list[Callable[[], None]] = []
        self.operators: _Recorder | None = None
        self.complete = self.is_spoiled = False

    def replay(self) -> None:
        """Queue everything that was captured."""
        demand(self.complete, "a graph is replayed after its capture")
        self._gpu.replays += 1
        for item in self.work:
            self._gpu.queue(self._gpu.current, item)
        if self.operators is not None:
            self.operators.repeat()


class FakeCuda:
    """``torch.cuda``."""

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._handles = iter(range(0x1000, 0x10000, 0x10))
        self._default = FakeStream(gpu, next(self._handles))
        gpu.current = self._default.cuda_stream

    def is_available(self) -> bool:
        """There is a GPU."""
        return True

    def current_device(self) -> int:
        """The index of the GPU."""
        return 0

    def Stream(self) -> FakeStream:
        """Create a stream."""
        return FakeStream(self._gpu, next(self._handles))

    def Event(self, enable_timing: bool = False) -> FakeEvent:
        """Create an event."""
        return FakeEvent(self._gpu, enable_timing)

    def CUDAGraph(self) -> FakeGraph:
        """Create an empty graph."""
        return FakeGraph(self._gpu)

    def current_stream(self) -> FakeStream:
        """The current stream."""
        return FakeStream(self._gpu, self._gpu.current)

    def synchronize(self) -> None:
        """Do all queued work."""
        for stream in list(self._gpu.queues):
            self._gpu.finish(stream)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """Make a GPU current."""
        yield

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        """Make a stream current."""
        before, self._gpu.current = self._gpu.current, stream.cuda_stream
        try:
            yield
        finally:
            self._gpu.current = before

    @contextmanager
    def graph(
        self, graph: FakeGraph, stream: FakeStream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        """Capture; as in CUDA, a capture in which something failed raises an error of its own when it ends."""
        self.synchronize()
        recorder = _Recorder()
        with self.stream(stream or self.Stream()):
            self._gpu.capturing, failed = graph, True
            try:
                with recorder:
                    yield
                failed = graph.is_spoiled
            finally:
                self._gpu.capturing = None
                if self._gpu.broken_captures:
                    self._gpu.broken_captures -= 1
                    failed = True
                if failed or (self._gpu.busy and capture_error_mode == "global"):
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        graph.complete, graph.operators = True, recorder
        self._gpu.captures += 1


class FakeTorch:
    """``torch`` with a GPU that is a part of the CPU's memory."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.cuda = FakeCuda(gpu)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, kind: str, index: int | None = None) -> str:
        """Return the name of the kind of device."""
        return kind

    def empty(self, size: Any, *, dtype: torch.dtype, device: str) -> torch.Tensor:
        """Allocate memory that `Gpu.check` knows."""
        count = int(np.prod(size))
        memory = self._gpu.allocate(count * dtype.itemsize, device == "cuda")
        return memory.view(dtype).reshape(size)


# The engine, as its author knows it --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input with its ranges (min, opt, max) by profile, or an output."""

    name: str
    shape: Shape
    dtype: str = "float32"
    ranges: tuple[tuple[Shape, Shape, Shape], ...] = ()
    on_host: bool = False

    @property
    def is_input(self) -> bool:
        """Whether the engine reads it."""
        return bool(self.ranges)


Values = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an engine computes.

    Attributes:
        shapes: output shapes from the shapes of the inputs and the values of those on the host; -1 where values of
            other tensors decide.
        compute: outputs from inputs.
        kernels: the same on a GPU, as operators of PyTorch on tensors there; inputs on the host are arrays.
        capturable: it can be captured in a CUDA graph.
    """

    tensors: tuple[Tensor, ...]
    shapes: Callable[[Mapping[str, Shape], Values], Mapping[str, Shape]]
    compute: Callable[[Values], Values]
    kernels: Callable[[Mapping[str, Any]], Mapping[str, torch.Tensor]]
    profiles: int = 1
    capturable: bool = True


class TensorIOMode(enum.Enum):
    """Of the real name."""

    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    """Of the real name."""

    DEVICE = 0
    HOST = 1


class CudaGraphStrategy(enum.Enum):
    """Of the real name."""

    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    """Of the real name."""

    LAZY = 0
    EAGER = 1
    NONE = 2


class EngineValidity(enum.Enum):
    """Of the real name."""

    VALID = 0
    INVALID = 2


class DataType(enum.Enum):
    """Of the real name."""

    FLOAT = "float32"
    HALF = "float16"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"


class ILogger:
    """Of the real name."""

    def log(self, severity: Any, message: str) -> None:
        """Hear a message."""
        raise NotImplementedError


class IRuntimeCache:
    """Of the real name; the cache is its number of compiled kernels."""

    def __init__(self) -> None:
        self.content = b"kernels"

    def deserialize(self, blob: bytes) -> bool:
        """Take the content of a cache."""
        return bytes(blob) == self.content

    def serialize(self) -> bytes:
        """Return the content."""
        return self.content


class IRuntimeConfig:
    """Of the real name."""

    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> IRuntimeCache:
        """Create an empty cache."""
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        """Use a cache."""
        return isinstance(cache, IRuntimeCache)


class IExecutionContext:
    """Of the real name."""

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None) -> None:
        self._engine, self._plan, self._gpu, self._config = engine, engine._plan, engine._gpu, config
        self._profile = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._warm: Any = None

    def _tensor(self, name: str) -> Tensor:
        found = {item.name: item for item in self._plan.tensors}
        demand(name in found, "the engine has a tensor of this name")
        return found[name]

    def _refuse(self, text: str) -> bool:
        self._engine._logger.log("Severity.ERROR", text)
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Switch to a profile, which forgets all input shapes."""
        demand(stream_handle in (self._gpu.current,), "the profile is switched on the stream of the run")
        demand(not self._gpu.is_pending(stream_handle), "the profile is not switched while runs are pending")
        if not 0 <= profile_index < self._plan.profiles:
            return self._refuse(f"there is no profile {profile_index}")
        self._profile, self._shapes, self._warm = profile_index, {}, None
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        """Set the shape of an input; it must be within the active profile."""
        tensor = self._tensor(name)
        demand(tensor.is_input, "only inputs have a shape to set")
        low, _, high = tensor.ranges[self._profile]
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"{name}: {shape} is outside profile {self._profile}")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set the address of a tensor."""
        self._tensor(name)
        demand(memory != 0, "no address is null, not that of an empty tensor either")
        demand(memory % ALIGNMENT == 0, "addresses are aligned to 256 bytes, on the host too")
        self._addresses[name] = memory
        return True

    def _on_host(self) -> Values:
        """Return the inputs that the library reads on the CPU, at once."""
        values = {}
        for item in self._plan.tensors:
            if item.is_input and item.on_host and item.name in self._addresses and item.name in self._shapes:
                values[item.name] = self._read(item, self._shapes[item.name], self._addresses[item.name]).copy()
        return values

    def _read(self, item: Tensor, shape: Shape, address: int) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(item.dtype).itemsize
        return np.frombuffer(self._gpu.read(address, size, not item.on_host), item.dtype).reshape(shape)

    def infer_shapes(self) -> list[str]:
        """Return the inputs whose shape, or address where values decide shapes, is not set."""
        inputs = [item for item in self._plan.tensors if item.is_input]
        return [
            item.name
            for item in inputs
            if item.name not in self._shapes or (item.on_host and item.name not in self._addresses)
        ]

    def get_tensor_shape(self, name: str) -> Shape:
        """Return the shape of a tensor; of an output, once those of all inputs are set."""
        tensor = self._tensor(name)
        if tensor.is_input:
            return self._shapes.get(name, tensor.shape)
        demand(not self.infer_shapes(), "the shape of an output is asked for after those of all inputs are set")
        return tuple(self._plan.shapes(self._shapes, self._on_host())[name])

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue a run, or record it in the capture of the stream."""
        demand(stream_handle == self._gpu.current, "the run is queued on the stream that is current")
        demand(not self.infer_shapes(), "all input shapes are set")
        demand(set(self._addresses) == {item.name for item in self._plan.tensors}, "all addresses are set")
        host = self._on_host()
        shapes = {**self._shapes, **self._plan.shapes(self._shapes, host)}
        demand(
            all(size >= 0 for shape in shapes.values() for size in shape), "outputs of unknown size need an allocator"
        )
        state = (self._profile, tuple(sorted(shapes.items())), tuple(sorted(self._addresses.items())))
        run = self._run(shapes, dict(self._addresses), host)
        if self._gpu.capturing is not None:
            demand(self._warm == state, "a run of the same sizes precedes the capture")
            if not self._plan.capturable:
                self._gpu.spoil()
                return self._refuse("the engine is not stream capturable")
            self._gpu.record(run(None))
            return True
        self._capture_by_itself()
        self._gpu.launches += 1
        self._gpu.queue(stream_handle, run(host))
        self._warm = state
        return True

    def _capture_by_itself(self) -> None:
        strategy = self._config.cuda_graph_strategy if self._config else CudaGraphStrategy.DISABLED
        if strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE and not self._plan.capturable:
            text = "The engine is not graph capturable. Falling back to not using CUDA graphs."
            self._engine._logger.log("Severity.WARNING", text)

    def _run(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int], host: Values) -> Any:
        """Return the run, which has read the host's inputs already; memory of the others is read when it is done."""
        tensors = self._plan.tensors

        def work(queued: Values | None) -> Callable[[], None]:
            def done() -> None:
                for item in tensors:
                    if item.name in (queued or ()):
                        now = self._read(item, shapes[item.name], addresses[item.name])
                        same = now.tobytes() == host[item.name].tobytes()
                        demand(same, "memory on the host is not changed before the run has ended")
                feeds = dict(host)
                for item in tensors:
                    if item.is_input and not item.on_host:
                        feeds[item.name] = self._read(item, shapes[item.name], addresses[item.name])
                outputs = self._plan.compute(feeds)
                for item in tensors:
                    if not item.is_input:
                        value = np.asarray(outputs[item.name], item.dtype)
                        demand(value.shape == shapes[item.name], "the plan of the test is consistent")
                        self._gpu.write(addresses[item.name], value.tobytes(), not item.on_host)
                self._gpu.clock_ms += RUN_MS

            return done

        return work


class ICudaEngine:
    """Of the real name."""

    _context: type[IExecutionContext] = IExecutionContext

    def __init__(self, plan: Plan, gpu: Gpu, logger: ILogger) -> None:
        self._plan, self._gpu, self._logger = plan, gpu, logger
        self.num_io_tensors = len(plan.tensors)
        self.num_optimization_profiles = plan.profiles

    def _tensor(self, name: str) -> Tensor:
        return next(item for item in self._plan.tensors if item.name == name)

    def get_tensor_name(self, index: int) -> str:
        """Return the name of a tensor."""
        return self._plan.tensors[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Return whether a tensor is an input."""
        return TensorIOMode.INPUT if self._tensor(name).is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Return the type of a tensor."""
        return DataType(self._tensor(name).dtype)

    def get_tensor_location(self, name: str) -> TensorLocation:
        """Return where a tensor is read or written."""
        return TensorLocation.HOST if self._tensor(name).on_host else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Shape:
        """Return the shape in the network."""
        return self._tensor(name).shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        """Return min, opt and max shape of an input."""
        demand(0 <= profile_index < self._plan.profiles, "there is such a profile")
        return list(self._tensor(name).ranges[profile_index])

    def create_runtime_config(self) -> IRuntimeConfig:
        """Create the configuration of a context."""
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext:
        """Create a context."""
        return self._context(self, runtime_config)


class Runtime:
    """Of the real name; opens the engine of a plan, whatever the file contains."""

    _plan: Plan
    _gpu: Gpu
    _engine: type[ICudaEngine]

    def __init__(self, logger: ILogger) -> None:
        demand(isinstance(logger, ILogger), "the logger derives from ILogger")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
        """Open an engine."""
        return self._engine(self._plan, self._gpu, self._logger)


class RtxRuntime(Runtime):
    """``Runtime`` of TensorRT for RTX."""

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        """Return whether an engine runs here, and why not."""
        return EngineValidity.VALID, 0


RtxRuntime.__name__ = "Runtime"
CLASSES = (Runtime, ICudaEngine, IExecutionContext, IRuntimeConfig, ILogger, DataType, TensorIOMode, TensorLocation)
RTX_CLASSES = (RtxRuntime, IRuntimeCache, CudaGraphStrategy, DynamicShapesKernelSpecializationStrategy, EngineValidity)
RTX_ONLY = {
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineValidity",
    "IRuntimeCache",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
    "Runtime.get_engine_validity",
}
"""What TensorRT does not have."""


def make_module(name: str, plan: Plan, gpu: Gpu, version: str, engine: type[ICudaEngine] = ICudaEngine) -> ModuleType:
    """Return a module that stands for ``tensorrt`` or ``tensorrt_rtx`` and whose runtime opens an engine of a plan."""
    module = ModuleType(name)
    for item in (*CLASSES, *(RTX_CLASSES if name == "tensorrt_rtx" else ())):
        setattr(module, item.__name__, item)
    opened = type("Runtime", (module.Runtime,), {"_plan": plan, "_gpu": gpu, "_engine": engine})
    vars(module).update(__version__=version, Runtime=opened)
    return module


# Comparison with the real bindings ---------------------------------------------------------------------------------


def unknown_calls(real: ModuleType) -> list[str]:
    """Return every method, number of arguments, property and member of the fake that a real library does not have."""
    found: list[str] = []
    for fake in (*CLASSES, *RTX_CLASSES):
        if not hasattr(real, fake.__name__):
            found.append(fake.__name__)
            continue
        theirs = getattr(real, fake.__name__)
        if fake is DataType:
            known = {**theirs.__members__} if hasattr(theirs, "__members__") else vars(theirs)
            found += [f"DataType.{name}" for name in fake.__members__ if name not in known]
        elif issubclass(fake, enum.Enum):
            found += [f"{fake.__name__}.{name}" for name in fake.__members__ if name not in theirs.__members__]
        else:
            found += _unknown_members(fake, theirs)
    return found + [f"ICudaEngine.{name}" for name in _PROPERTIES if not hasattr(real.ICudaEngine, name)]


def _unknown_members(fake: type, theirs: Any) -> Iterator[str]:
    for name, value in vars(fake).items():
        label = f"{fake.__name__}.{name}"
        if name.startswith("_"):
            continue
        if not hasattr(theirs, name):
            yield label
        elif inspect.isfunction(value) and fake is not ILogger:  # whose log is overridden, and documented as a property
            count = len(inspect.signature(value).parameters) - 1
            if count not in _argument_counts(name, getattr(theirs, name).__doc__ or ""):
                yield f"{label} with {count} arguments"


_PROPERTIES = ("num_io_tensors", "num_optimization_profiles")


def _argument_counts(name: str, text: str) -> set[int]:
    """Return the numbers of arguments, without ``self``, of all overloads in the docstring that pybind11 wrote."""
    counts: set[int] = set()
    for signature in re.findall(rf"^(?:\d+\. )?{name}\((self: .*)\) ->", text, re.MULTILINE):
        counts.add(len(_top_level(signature)) - 1)
    return counts


def _top_level(text: str) -> Sequence[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += character in "[(<"
        depth -= character in "])>"
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
