"""TensorRT engines on an NVIDIA GPU. PyTorch provides memory and streams.

The manifest is checked before the engine is deserialized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.backends.tensorrt.profiles import Binding, Shape, check_feeds, choose_profile, numpy_type, static_shape
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, BackendError, UsageError
from deploy.core.options import read_options
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.store import write_file
from deploy.support.cuda_driver import gpus
from deploy.support.cuda_graph import capture
from deploy.support.engine_file import read_engine, refusal
from deploy.support.runtime_errors import first_line
from deploy.support.tensorrt_library import (
    Library,
    cuda_major,
    deserialize,
    driver_fault,
    make_logger,
    open_library,
)

ALIGNMENT = 256
"""Bytes to which the address of every tensor must be aligned, on the CPU as well (``setTensorAddress``)."""

_NO_GRAPH = "not graph capturable"
"""Part of the message of TensorRT for RTX where it runs an engine without the CUDA graph that it was asked for."""


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Memory of one tensor; its address is valid for a tensor without elements too."""

    tensor: torch.Tensor
    address: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRTOptions:
    """Options of an engine's execution.

    Attributes:
        device: index of the GPU.
        graph: replay a CUDA graph, captured when shapes are bound, instead of launching every kernel.
        runtime_cache: file with the kernels that TensorRT for RTX compiled for this GPU, read and written. It contains
            code, like an engine, so use only files that you wrote yourself.
    """

    device: int = 0
    graph: bool = False
    runtime_cache: str | None = None


class TensorRTRunner(Runner):
    """An open engine with one execution context, one stream and one set of buffers.

    Raises:
        ArtifactError: there is no manifest, or the engine was built by another library version, for another GPU or
            from another graph.
        DigestError: the engine differs from its manifest.
        BackendError: there is no GPU, its driver is too old, or the library cannot deserialize the engine.
        UsageError: an option that the engine's library does not support.
    """

    def __init__(self, path: Path, options: TensorRTOptions | None = None) -> None:
        self._options = options or TensorRTOptions()
        artifact = read_engine(path)
        self._library = _matching_library(artifact, self._options)
        self._path = path
        self._no_graph = ""
        self._logger = make_logger(self._library, self._hear)
        self.gpu = self._options.device
        self._device = torch.device("cuda", self._options.device)
        self._cache: Any = None
        with self._on_gpu("opening"):
            self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._events: Any = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._engine: Any = deserialize(self._library, path.read_bytes(), str(path), self._logger)
            self._context = self._make_context(self._engine)
        self._inputs, self._outputs = self._bindings(self._engine)
        self.inputs, self.outputs = artifact.manifest.inputs, artifact.manifest.outputs
        self._check_names()
        self._buffers: dict[str, _Buffer] = {}
        self._profile = 0
        self._graph: Any = None
        self._is_bound = False

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.bind(feeds)
        self.launch()
        self.synchronize()
        return self.fetch()

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to the GPU and allocate outputs; new shapes, and new values on the CPU, capture a new CUDA graph.

        Raises:
            BackendError: the engine does not accept the inputs or cannot be captured, or the GPU is out of memory.
        """
        shapes = check_feeds(self._inputs, feeds)
        profile = choose_profile(self._inputs, shapes)
        graph, self._graph, self._is_bound = self._graph, None, False  # a bind that fails leaves nothing to launch
        with self._on_gpu("binding"), torch.cuda.stream(self._stream):
            self._stream.synchronize()  # a launched run may still read the buffers
            self._select(profile)
            changed = False
            for item in self._inputs:
                changed |= self._allocate(item, shapes[item.name])
                changed |= self._fill(item, feeds[item.name])
            unknown = self._context.infer_shapes()
            if unknown:
                raise BackendError(f"{self._path}: the shapes of {', '.join(unknown)} cannot be inferred.")
            for item in self._outputs:
                shape = tuple(self._context.get_tensor_shape(item.name))
                changed |= self._allocate(item, static_shape(item.name, shape))
            if self._options.graph:
                self._graph = self._capture() if changed or graph is None else graph
        self._is_bound = True

    def launch(self) -> None:
        """Start a run on the bound inputs and return before it ends."""
        with self._on_gpu("running"), torch.cuda.stream(self._stream):
            self._start()

    def synchronize(self) -> None:
        """Wait for all launched runs."""
        with self._on_gpu("running"):
            self._stream.synchronize()

    def device_ns(self) -> int:
        """Run once more and return the GPU time of that run in ns, from CUDA events."""
        with self._on_gpu("running"), torch.cuda.stream(self._stream):
            self._events[0].record()
            self._start()
            self._events[1].record()
            self._stream.synchronize()
            elapsed_ms: float = self._events[0].elapsed_time(self._events[1])
        return round(elapsed_ms * 1e6)

    def fetch(self) -> Fetches:
        """Copy the outputs to the CPU; see `Runner.fetch`."""
        with self._on_gpu("reading"), torch.cuda.stream(self._stream):
            return {item.name: np.array(self._buffers[item.name].tensor.cpu().numpy()) for item in self._outputs}

    def close(self) -> None:
        """Write the runtime cache and free the engine with its memory."""
        cache, self._cache, self._is_bound = self._cache, None, False
        content = None if cache is None else cache.serialize()
        self._graph = self._context = self._engine = None
        self._buffers = {}
        if cache is None:
            return
        if content is None:
            raise BackendError(f"{self._options.runtime_cache}: cannot be written: {self._logger.last_error}")
        write_file(Path(str(self._options.runtime_cache)), bytes(memoryview(content)))

    def _hear(self, severity: str, text: str) -> None:
        """Note where the library says that it does without the CUDA graph."""
        if _NO_GRAPH in text:
            self._no_graph = text.strip()

    def _make_context(self, engine: Any) -> Any:
        if self._library.name == "tensorrt":
            context = engine.create_execution_context()
        else:
            module, runtime_config = self._library.module, engine.create_runtime_config()
            if self._options.runtime_cache:
                runtime_cache = runtime_config.create_runtime_cache()
                file = Path(self._options.runtime_cache)
                if file.is_file() and not runtime_cache.deserialize(file.read_bytes()):
                    raise BackendError(f"{file}: {self._library.name} cannot read this runtime cache.", f"rm {file}")
                if not runtime_config.set_runtime_cache(runtime_cache):
                    raise BackendError(f"{file}: {self._library.name} refuses it: {self._logger.last_error}")
                self._cache = runtime_cache
            eager = module.DynamicShapesKernelSpecializationStrategy.EAGER  # compile before a run, not during it
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            if self._options.graph:
                runtime_config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(runtime_config)
        if context is None:
            raise BackendError(f"{self._path}: cannot create an execution context: {self._logger.last_error}")
        return context

    def _bindings(self, engine: Any) -> tuple[list[Binding], list[Binding]]:
        """Return the inputs and the outputs of the engine."""
        module = self._library.module
        inputs: list[Binding] = []
        outputs: list[Binding] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            binding = Binding(
                name=name,
                dtype=numpy_type(engine.get_tensor_dtype(name).name, name),
                ranges=_ranges(engine, name) if is_input else (),
                on_host=engine.get_tensor_location(name) == module.TensorLocation.HOST,
            )
            (inputs if is_input else outputs).append(binding)
        return inputs, outputs

    def _check_names(self) -> None:
        for specs, bindings in ((self.inputs, self._inputs), (self.outputs, self._outputs)):
            if {spec.name for spec in specs} != {item.name for item in bindings}:
                names = ", ".join(item.name for item in bindings)
                raise ArtifactError(f"{self._path}: the manifest does not name the engine's tensors: {names}.")

    def _select(self, profile: int) -> None:
        """Switch to a profile."""
        if profile == self._profile:
            return
        if not self._context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise BackendError(f"{self._path}: cannot select profile {profile}: {self._logger.last_error}")
        self._profile = profile

    def _allocate(self, item: Binding, shape: Shape) -> bool:
        """Give a tensor a buffer of its shape; return whether the buffer is new."""
        buffer = self._buffers.get(item.name)
        is_new = buffer is None or tuple(buffer.tensor.shape) != shape
        if buffer is None or is_new:
            device = torch.device("cpu") if item.on_host else self._device
            buffer = self._buffers[item.name] = _aligned(shape, getattr(torch, item.dtype), device)
        accepted = self._context.set_tensor_address(item.name, buffer.address)
        if item.ranges:
            accepted = self._context.set_input_shape(item.name, shape) and accepted
        if not accepted:
            raise BackendError(f"{self._path}: cannot bind {item.name!r}: {self._logger.last_error}")
        return is_new

    def _fill(self, item: Binding, value: Any) -> bool:
        """Copy an input; return whether a captured graph has other values of it, which it read on the CPU."""
        tensor = self._buffers[item.name].tensor
        array = torch.from_numpy(np.asarray(value, order="C"))
        is_stale = item.on_host and not torch.equal(tensor, array)
        tensor.copy_(array)
        return is_stale

    def _start(self) -> None:
        if not self._is_bound:
            raise BackendError(f"{self._path}: no inputs are bound.")
        if self._graph is None or self._library.name != "tensorrt":
            self._enqueue()
        else:
            self._graph.replay()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BackendError(f"{self._path}: the engine cannot be launched: {self._logger.last_error}")

    def _capture(self) -> Any:
        """Capture one run, after a run outside the capture in which the library allocates memory.

        TensorRT for RTX captures by itself in that first run, and may decide against it.
        """
        self._enqueue()
        self._stream.synchronize()
        if self._library.name == "tensorrt":
            return capture(self._enqueue, self._stream)[0]
        if self._no_graph:
            raise BackendError(f"{self._path}: {self._library.name}: {self._no_graph}", "run it without CUDA graphs")
        return self._library.name  # which holds the graph

    @contextmanager
    def _on_gpu(self, doing: str) -> Iterator[None]:
        """Make the engine's GPU current and translate exceptions of PyTorch and CUDA."""
        try:
            with torch.cuda.device(self._device):
                yield
        except torch.cuda.OutOfMemoryError as exc:
            hint = "use a smaller batch, or build an engine with a smaller --batch"
            raise BackendError(f"{self._path}: out of GPU memory while {doing}.", hint) from exc
        except RuntimeError as exc:
            raise BackendError(f"{self._path}: CUDA failed while {doing}: {first_line(exc)}") from exc


def _matching_library(artifact: Artifact, options: TensorRTOptions) -> Library:
    """Import the engine's library and check that engine, library, GPU and options match."""
    library = open_library(str(artifact.manifest.options["library"]))
    devices = gpus()
    if devices and not 0 <= options.device < len(devices):
        raise UsageError(f"device {options.device}: this machine has {len(devices)} GPUs, numbered from 0.")
    gpu = devices[options.device] if devices else None
    mismatch = refusal(artifact, library, gpu)
    if mismatch is not None:
        raise ArtifactError(mismatch)
    fault = driver_fault(library, gpu, cuda_major(library.name))
    if fault is not None:
        raise BackendError(f"{artifact.path}: {fault}.", "deploy doctor")
    if not torch.cuda.is_available():
        raise BackendError("PyTorch, which allocates the engine's memory, cannot use the GPU.", "deploy doctor")
    if options.runtime_cache and library.name == "tensorrt":
        raise UsageError("runtime_cache needs tensorrt-rtx; engines of tensorrt contain their kernels.")
    return library


def _aligned(shape: Shape, dtype: torch.dtype, device: torch.device) -> _Buffer:
    """Allocate a tensor at an aligned address, which a tensor without elements has too."""
    size = math.prod(shape) * dtype.itemsize
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    start = -memory.data_ptr() % ALIGNMENT
    tensor = memory[start : start + size].view(dtype).reshape(shape)
    return _Buffer(tensor, memory.data_ptr() + start)


def _ranges(engine: Any, name: str) -> tuple[tuple[Shape, Shape, Shape], ...]:
    """Return an input's min, opt and max shape in every profile; an engine with static shapes may have no profile."""
    if engine.num_optimization_profiles == 0:
        fixed: Shape = tuple(engine.get_tensor_shape(name))
        return ((fixed, fixed, fixed),)
    ranges = []
    for index in range(engine.num_optimization_profiles):
        low, opt, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
        ranges.append((low, opt, high))
    return tuple(ranges)


def open(path: Path, **options: Any) -> TensorRTRunner:
    """Open an engine; the options are the fields of `TensorRTOptions`."""
    return TensorRTRunner(path, read_options(TensorRTOptions, options, "TensorRT"))
