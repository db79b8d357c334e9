"""ONNX to a TensorRT engine. Networks are strongly typed: the graph states every precision, not the builder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import BackendError, ExportError, UsageError
from deploy.support.tensorrt_library import Library, make_logger
from exporters.tensorrt_network import layer_counts, weight_bytes, weighted

Shape = tuple[int, ...]
OnMessage = Callable[[str, str], None]
"""Receives the severity and the text of a message."""
OnProgress = Callable[[int, int, str], bool]
"""Receives the number of completed and of all steps and the name of the phase; returns False to cancel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """The shapes of an input: minimum, optimum (for which the engine is tuned) and maximum."""

    min: Shape
    opt: Shape
    max: Shape


Profile = Mapping[str, ShapeRange]
"""An optimization profile: shape ranges by input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Options of the builder.

    Attributes:
        profiles: optimization profiles, with a range for every input that has symbolic dimensions.
        workspace_bytes: maximum scratch memory of a tactic; None for the library's default.
        level: builder optimization level, 0 to 5; None for the library's default.
        timing_cache: file with measured tactics, read and written; TensorRT only, since TensorRT for RTX measures none.
        compute_capabilities: GPUs for which TensorRT for RTX prepares the engine, such as ``8.6`` and ``12.0``.
    """

    profiles: Sequence[Profile] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A built engine.

    Attributes:
        layers: number of layers of the parsed network, by type.
        timing_cache: SHA-256 of the timing cache after the build; None if none is used.
    """

    library: str
    version: str
    bytes: int
    sha256: str
    layers: Mapping[str, int]
    weighted: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    timing_cache: str | None
    seconds: float


def build(
    source: Path,
    path: Path,
    library: Library,
    options: EngineOptions,
    *,
    on_message: OnMessage = lambda severity, text: None,
    on_progress: OnProgress = lambda done, total, text: True,
) -> Built:
    """Build an engine and write it.

    Raises:
        ExportError: the parser does not support an operator of the graph, or the builder failed.
        UsageError: a profile does not fit the graph, or a compute capability is unknown.
        BackendError: the library cannot start: there is no GPU, or the driver is too old.
    """
    start = time.perf_counter()
    logger = make_logger(library, on_message)
    builder = _start(library, logger)
    network = _parse(source, builder, library, logger)
    config = builder.create_builder_config()
    _configure(config, builder, network, library, options)
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(library, on_progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{source}: {library.name} {library.version} cannot build an engine: {logger.last_error}")
    data = memoryview(plan)
    path.write_bytes(data)
    cache = None
    if options.timing_cache is not None:
        cache = bytes(memoryview(config.get_timing_cache().serialize()))
        options.timing_cache.write_bytes(cache)
    return Built(
        library=library.name,
        version=library.version,
        bytes=data.nbytes,
        sha256=hashlib.sha256(data).hexdigest(),
        layers=layer_counts(network),
        weighted=weighted(network),
        weight_bytes=weight_bytes(network, library.module),
        timing_cache=None if cache is None else hashlib.sha256(cache).hexdigest(),
        seconds=time.perf_counter() - start,
    )


def _start(library: Library, logger: Any) -> Any:
    try:
        return library.module.Builder(logger)
    except (TypeError, RuntimeError) as exc:  # raised by the bindings for a null pointer
        hint = "deploy doctor; without a GPU: --runtime tensorrt-rtx"
        raise BackendError(f"{library.name} {library.version} cannot start: {logger.last_error}", hint) from exc


def _parse(source: Path, builder: Any, library: Library, logger: Any) -> Any:
    """Return the network of a file; its external data is read from its folder."""
    network, parser = _empty(builder, library, logger)
    if parser.parse_from_file(str(source)):
        return network
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    if any(fault.node_operator() == "Einsum" for fault in faults):
        from deploy.support import onnx_file  # imports ONNX, which other builds do without
        from exporters.einsum import to_lower_case

        model = onnx_file.load(source)
        if to_lower_case(model):
            network, parser = _empty(builder, library, logger)
            if parser.parse(model.SerializeToString(), str(source)):
                return network
            faults = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = []
    for fault in faults[:3]:
        node = fault.node_name() or f"node {fault.node()}"
        reasons.append(f"{fault.node_operator() or 'the graph'} ({node}): {fault.desc().strip()[:300]}")
    more = f" And {len(faults) - 3} more." if len(faults) > 3 else ""
    raise ExportError(f"{source}: {library.name} {library.version} does not support {'; '.join(reasons)}.{more}")


def _empty(builder: Any, library: Library, logger: Any) -> tuple[Any, Any]:
    """Return a network without layers, and a parser that adds those of a graph."""
    # the only kind of network in TensorRT 11 and in TensorRT for RTX, which do not have the flag
    flag = getattr(library.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    return network, library.module.OnnxParser(network, logger)


def _configure(config: Any, builder: Any, network: Any, library: Library, options: EngineOptions) -> None:
    module = library.module
    config.clear_flag(module.BuilderFlag.TF32)  # TF32 is the default and has a mantissa of ten bits only
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # for `deploy trt inspect`
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.level is not None:
        config.builder_optimization_level = options.level
    _set_compute_capabilities(config, library, options.compute_capabilities)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    for ranges in options.profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            if name not in inputs:
                raise UsageError(f"--shape {name}: no such input; the graph has {', '.join(sorted(inputs))}.")
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(profile) < 0:
            raise UsageError(f"the profile {dict(ranges)} does not fit the graph.")
    if options.timing_cache is not None:
        if library.name != "tensorrt":
            raise UsageError(f"--timing-cache needs tensorrt; {library.name} measures no tactics.")
        content = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            hint = "give a file that does not exist yet"
            raise UsageError(f"{options.timing_cache}: {library.name} refuses it as a timing cache.", hint)


def _set_compute_capabilities(config: Any, library: Library, capabilities: Sequence[str]) -> None:
    if not capabilities:
        return
    if not hasattr(config, "set_compute_capability"):
        raise UsageError(f"--compute-capability needs tensorrt-rtx; {library.name} builds for the GPU of this machine.")
    known = library.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for index, text in enumerate(capabilities):
        name = f"SM{text.replace('.', '')}"
        if name not in known:
            names = ", ".join(library.capabilities)
            raise UsageError(f"--compute-capability {text}: {library.name} {library.version} supports {names}.")
        if not config.set_compute_capability(known[name], index):
            raise UsageError(f"--compute-capability {text}: {library.name} {library.version} refuses it.")


def _monitor(library: Library, on_progress: OnProgress) -> Any:
    base = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc,valid-type]
        """Reports the steps of the outermost phase, with the name of the current inner phase."""

        def __init__(self) -> None:
            base.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}
            self.done = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, num_steps)
            self._report(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self.phases.get(phase_name, (phase_name, 1))[0] is None:
                self.done = step + 1
            return self._report(phase_name)

        def _report(self, phase_name: str) -> bool:
            total = next((steps for parent, steps in self.phases.values() if parent is None), 1)
            return on_progress(self.done, total, phase_name)

    return Monitor()
