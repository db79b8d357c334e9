"""TensorRT engines on an NVIDIA GPU: memory and streams are PyTorch's; the manifest is asked before the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.backends.tensorrt.profiles import Binding, Shape, check_feeds, choose_profile, known_sizes, numpy_type
from deploy.core.artifact import Artifact
from deploy.core.errors import ArtifactError, BackendError, UsageError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.store import write_file
from deploy.support.cuda_driver import gpus
from deploy.support.engine_file import read_engine, refusal
from deploy.support.tensorrt_library import (
    Library,
    cuda_major,
    deserialize,
    driver_fault,
    make_logger,
    open_library,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRTOptions:
    """How an engine is run.

    Attributes:
        device: number of the GPU.
        graph: replay a captured CUDA graph instead of launching kernel by kernel; captured when shapes are bound.
        runtime_cache: a file with the kernels that TensorRT for RTX compiled for this GPU, read and written. It holds
            code, like an engine: use one that you wrote.
    """

    device: int = 0
    graph: bool = False
    runtime_cache: str | None = None


class TensorRtRunner(Runner):
    """An engine, opened; one context, one stream, one set of buffers.

    Args:
        path: the engine, its manifest beside it.
        options: see `TensorRTOptions`.

    Raises:
        ArtifactError: no manifest, or it was built by another library version, for another GPU or of another graph.
        DigestError: the engine is not what its manifest records.
        BackendError: there is no GPU, its driver is too old, or the library refuses the engine.
        UsageError: an option that the engine's library does not have.
    """

    def __init__(self, path: Path, options: TensorRTOptions | None = None) -> None:
        self._options = options or TensorRTOptions()
        artifact = read_engine(path)
        self._library = _fitting(artifact, self._options)
        self._path = path
        self._logger = make_logger(self._library, lambda severity, text: None)
        self._device = torch.device("cuda", self._options.device)
        self._cache: Any = None
        with self._on_gpu("opening"):
            self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._events = _event(), _event()
            self._engine: Any = deserialize(self._library, path.read_bytes(), str(path), self._logger)
            self._context = self._make_context(self._engine)
        self._inputs, self._outputs = self._bindings(self._engine)
        self.inputs, self.outputs = artifact.manifest.inputs, artifact.manifest.outputs
        self._hold_names()
        self._buffers: dict[str, torch.Tensor] = {}
        self._profile = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self.bind(feeds)
        self.launch()
        self.synchronize()
        return self.fetch()

    def bind(self, feeds: Feeds) -> None:
        """Copy the feeds to the GPU, and make room for the outputs; a captured graph is captured anew on new shapes.

        Raises:
            BackendError: feeds that the engine does not take, or too little memory.
        """
        shapes = check_feeds(self._inputs, feeds)
        profile = choose_profile(self._inputs, shapes)
        with self._on_gpu("binding"), torch.cuda.stream(self._stream):
            moved = self._choose(profile)
            for item in self._inputs:
                moved |= self._place(item, shapes[item.name])
                self._buffers[item.name].copy_(torch.from_numpy(np.ascontiguousarray(feeds[item.name])))
            unknown = self._context.infer_shapes()
            if unknown:
                raise BackendError(f"{self._path}: the engine does not know the shapes of {', '.join(unknown)}.")
            for item in self._outputs:
                shape = tuple(self._context.get_tensor_shape(item.name))
                moved |= self._place(item, known_sizes(item.name, shape))
            if moved and self._options.graph and self._library.name == "tensorrt":
                self._capture()

    def launch(self) -> None:
        """Start one run of what is bound, and return before it ends.

        Raises:
            BackendError: the engine refuses.
        """
        with self._on_gpu("running"), torch.cuda.stream(self._stream):
            self._events[0].record()
            if self._graph is None:
                self._enqueue()
            else:
                self._graph.replay()
            self._events[1].record()

    def synchronize(self) -> None:
        """Wait for everything that was launched.

        Raises:
            BackendError: it failed on the GPU.
        """
        with self._on_gpu("running"):
            self._stream.synchronize()

    def device_ns(self) -> int:
        """Time on the GPU of what was launched and waited for last, by CUDA events."""
        elapsed_ms: float = self._events[0].elapsed_time(self._events[1])
        return round(elapsed_ms * 1e6)

    def fetch(self) -> Fetches:
        """The outputs of the last run, copied to the CPU."""
        with self._on_gpu("reading"), torch.cuda.stream(self._stream):
            return {item.name: np.array(self._buffers[item.name].cpu().numpy()) for item in self._outputs}

    def close(self) -> None:
        """Write the runtime cache, and free the engine and its memory."""
        if self._cache is not None and self._options.runtime_cache:
            write_file(Path(self._options.runtime_cache), bytes(memoryview(self._cache.serialize())))
        self._cache = self._graph = self._context = self._engine = None
        self._buffers = {}

    def _make_context(self, engine: Any) -> Any:
        if self._library.name == "tensorrt":
            context = engine.create_execution_context()
        else:
            module, runtime_config = self._library.module, engine.create_runtime_config()
            if self._options.runtime_cache:
                runtime_cache = runtime_config.create_runtime_cache()
                file = Path(self._options.runtime_cache)
                if file.is_file() and not runtime_cache.deserialize(file.read_bytes()):
                    raise BackendError(f"{file}: {self._library.name} does not take this cache.", f"rm {file}")
                runtime_config.set_runtime_cache(runtime_cache)
                self._cache = runtime_cache
            eager = module.DynamicShapesKernelSpecializationStrategy.EAGER  # before a run, not at some time during it
            runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
            if self._options.graph:
                runtime_config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = engine.create_execution_context(runtime_config)
        if context is None:
            raise BackendError(f"{self._path}: the engine cannot be run here: {self._logger.last_error}")
        return context

    def _bindings(self, engine: Any) -> tuple[list[Binding], list[Binding]]:
        """What the engine takes, and what it gives."""
        module = self._library.module
        found: tuple[list[Binding], list[Binding]] = ([], [])
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            given = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            ranges = _ranges(engine, name) if given else ()
            found[0 if given else 1].append(
                Binding(
                    name=name,
                    dtype=numpy_type(engine.get_tensor_dtype(name).name, name),
                    ranges=ranges,
                    on_host=engine.get_tensor_location(name) == module.TensorLocation.HOST,
                )
            )
        return found

    def _hold_names(self) -> None:
        for told, found in ((self.inputs, self._inputs), (self.outputs, self._outputs)):
            if {spec.name for spec in told} != {item.name for item in found}:
                names = ", ".join(item.name for item in found)
                raise ArtifactError(f"{self._path}: its manifest names other tensors than the engine has: {names}.")

    def _choose(self, profile: int) -> bool:
        """Switch to a profile; True if another one was active."""
        if profile == self._profile:
            return False
        if not self._context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise BackendError(f"{self._path}: profile {profile} is refused: {self._logger.last_error}")
        self._profile = profile
        return True

    def _place(self, item: Binding, shape: Shape) -> bool:
        """Give a tensor a buffer of its shape; True if it is a new one."""
        held = self._buffers.get(item.name)
        fresh = held is None or tuple(held.shape) != shape
        if held is None or fresh:
            device = torch.device("cpu") if item.on_host else self._device
            held = self._buffers[item.name] = torch.empty(shape, dtype=getattr(torch, item.dtype), device=device)
        taken = self._context.set_tensor_address(item.name, held.data_ptr())
        if item.ranges:
            taken = self._context.set_input_shape(item.name, shape) and taken
        if not taken:
            raise BackendError(f"{self._path}: {item.name!r} is refused: {self._logger.last_error}")
        return fresh

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BackendError(f"{self._path}: the engine does not run: {self._logger.last_error}")

    def _capture(self) -> None:
        """Capture one run; a first one outside lets the library allocate what it must."""
        self._graph = None
        self._enqueue()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue()
        self._graph = graph

    @contextmanager
    def _on_gpu(self, doing: str) -> Iterator[None]:
        """With the engine's GPU current; what PyTorch and CUDA raise is translated."""
        try:
            with torch.cuda.device(self._device):
                yield
        except torch.cuda.OutOfMemoryError as exc:
            free = "smaller batches, or an engine with a smaller --batch"
            raise BackendError(f"{self._path}: too little GPU memory while {doing}.", free) from exc
        except RuntimeError as exc:
            text = str(exc).strip().splitlines()[0][:300]
            raise BackendError(f"{self._path}: CUDA failed while {doing}: {text}") from exc


def _fitting(artifact: Artifact, options: TensorRTOptions) -> Library:
    """The engine's own library, where engine, library, GPU and options fit each other."""
    library = open_library(str(artifact.manifest.options["library"]))
    found = gpus()
    if found and not 0 <= options.device < len(found):
        raise UsageError(f"device {options.device}: there are {len(found)} GPUs, counted from 0.")
    gpu = found[options.device] if found else None
    why = refusal(artifact, library.version, gpu)
    if why is not None:
        raise ArtifactError(why)
    fault = driver_fault(library, gpu, cuda_major(library.name))
    if fault is not None:
        raise BackendError(f"{artifact.path}: {fault}.", "deploy doctor")
    if not torch.cuda.is_available():
        raise BackendError("PyTorch, which holds the engine's memory, cannot use the GPU.", "deploy doctor")
    if options.runtime_cache and library.name == "tensorrt":
        raise UsageError("runtime_cache is for tensorrt-rtx: an engine of tensorrt holds its kernels itself.")
    return library


def _ranges(engine: Any, name: str) -> tuple[tuple[Shape, Shape, Shape], ...]:
    """An input's shapes in every profile; an engine with fixed shapes may have no profile."""
    if engine.num_optimization_profiles == 0:
        fixed: Shape = tuple(engine.get_tensor_shape(name))
        return ((fixed, fixed, fixed),)
    found = []
    for index in range(engine.num_optimization_profiles):
        low, opt, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
        found.append((low, opt, high))
    return tuple(found)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def open(path: Path, **options: Any) -> TensorRtRunner:
    """Open an engine."""
    return TensorRtRunner(path, TensorRTOptions(**options))
