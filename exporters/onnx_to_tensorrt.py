"""ONNX to a TensorRT engine. Networks are strongly typed: every precision is the graph's, the builder chooses none."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import BackendError, ExportError, UsageError
from deploy.support.tensorrt_library import Library, make_logger
from exporters.parsed import layer_counts, weight_bytes, weighted

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """The shapes that an input may have: the smallest, the one the engine is tuned for, the largest."""

    min: Shape
    opt: Shape
    max: Shape


Profile = Mapping[str, ShapeRange]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        profiles: shape ranges of the inputs that have symbolic dimensions; one engine can hold several.
        workspace_bytes: scratch memory that a tactic may take; None for the library's own limit.
        level: 0 to 5, how long the builder looks; None for the library's own.
        timing_cache: tactics measured before, read and written; for TensorRT, since TensorRT for RTX measures none.
        compute_capabilities: ``8.6``, ``12.0``: GPUs that an engine of TensorRT for RTX is prepared for.
    """

    profiles: Sequence[Profile] = ()
    workspace_bytes: int | None = None
    level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What the builder made.

    Attributes:
        sha256: of the engine, as the builder gave it.
        layers: of the parsed network, by type.
        weighted: convolutions and products with weights by what they compute in (`exporters.parsed.weighted`).
        weight_bytes: of the parsed network's weights, by type.
        timing_cache: SHA-256 of the cache after the build; None without one.
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
    hear: Callable[[str, str], None] = lambda severity, text: None,
    advance: Callable[[int, int, str], bool] = lambda done, total, text: True,
) -> Built:
    """Build an engine and write it.

    Args:
        source: the ONNX file.
        path: the engine; overwritten.
        library: what builds it.
        options: see `EngineOptions`.
        hear: given every message of the library with its severity.
        advance: given how far which phase is; False cancels the build.

    Raises:
        ExportError: the parser does not support the graph (the operator is named), or the builder failed.
        UsageError: a profile or a compute capability that cannot be.
        BackendError: the library does not start: no GPU, or a driver too old.
    """
    began = time.perf_counter()
    logger = make_logger(library, hear)
    builder = _start(library, logger)
    network = builder.create_network(_flags(library))
    _parse(source, network, library, logger)
    config = builder.create_builder_config()
    cache = _configure(config, builder, network, library, options)
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(library, advance)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{source}: {library.name} {library.version} cannot build an engine: {logger.last_error}")
    data = memoryview(plan)
    path.write_bytes(data)
    return Built(
        library=library.name,
        version=library.version,
        bytes=data.nbytes,
        sha256=hashlib.sha256(data).hexdigest(),
        layers=layer_counts(network),
        weighted=weighted(network),
        weight_bytes=weight_bytes(network, library.module),
        timing_cache=_keep(config, cache, options),
        seconds=time.perf_counter() - began,
    )


def _start(library: Library, logger: Any) -> Any:
    try:
        return library.module.Builder(logger)
    except (TypeError, RuntimeError) as exc:  # the bindings' word for a null pointer
        hint = "deploy doctor; without a GPU: --runtime tensorrt-rtx"
        raise BackendError(f"{library.name} {library.version} does not start: {logger.last_error}", hint) from exc


def _flags(library: Library) -> int:
    """Strongly typed; from TensorRT 11 on, and in TensorRT for RTX, networks are nothing else."""
    flag = getattr(library.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(source: Path, network: Any, library: Library, logger: Any) -> None:
    parser = library.module.OnnxParser(network, logger)
    if parser.parse_from_file(str(source)):
        return
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    told = []
    for fault in faults[:3]:
        node = fault.node_name() or f"node {fault.node()}"
        told.append(f"{fault.node_operator() or 'the graph'} ({node}): {fault.desc().strip()[:300]}")
    more = f" And {len(faults) - 3} more." if len(faults) > 3 else ""
    raise ExportError(f"{source}: {library.name} {library.version} does not support {'; '.join(told)}.{more}")


def _configure(config: Any, builder: Any, network: Any, library: Library, options: EngineOptions) -> Any:
    """Set limits, profiles and targets; returns the timing cache, if any."""
    module = library.module
    config.clear_flag(module.BuilderFlag.TF32)  # on by default, and no float32: ten bits of mantissa
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # what `deploy trt inspect` reads
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.level is not None:
        config.builder_optimization_level = options.level
    _target(config, library, options.compute_capabilities)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    for ranges in options.profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            if name not in inputs:
                raise UsageError(f"--shape {name}: the graph has no such input; it has: {', '.join(sorted(inputs))}.")
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(profile) < 0:
            raise UsageError(f"the profile {dict(ranges)} does not fit the graph.")
    if options.timing_cache is None:
        return None
    if library.name != "tensorrt":
        raise UsageError(f"{library.name} times nothing while it builds: --timing-cache is for tensorrt.")
    known = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, False)
    return cache


def _target(config: Any, library: Library, wanted: Sequence[str]) -> None:
    if not wanted:
        return
    if not hasattr(config, "set_compute_capability"):
        raise UsageError(f"{library.name} builds for the GPU that is there: --compute-capability is for tensorrt-rtx.")
    known = library.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(wanted)
    for index, text in enumerate(wanted):
        name = f"SM{text.replace('.', '')}"
        if name not in known:
            names = ", ".join(f"{item[2:-1]}.{item[-1]}" for item in known if item.startswith("SM"))
            raise UsageError(f"--compute-capability {text}: {library.name} {library.version} knows {names}.")
        config.set_compute_capability(known[name], index)


def _keep(config: Any, cache: Any, options: EngineOptions) -> str | None:
    if cache is None or options.timing_cache is None:
        return None
    data = bytes(memoryview(config.get_timing_cache().serialize()))
    options.timing_cache.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _monitor(library: Library, advance: Callable[[int, int, str], bool]) -> Any:
    base = library.module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc,valid-type]
        """The steps of the outermost phase are the progress; the phase within is its text."""

        def __init__(self) -> None:
            base.__init__(self)
            self.phases: dict[str, tuple[str | None, int]] = {}
            self.done = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, num_steps)
            self._tell(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self.phases.get(phase_name, (phase_name, 1))[0] is None:
                self.done = step + 1
            return self._tell(phase_name)

        def _tell(self, phase_name: str) -> bool:
            total = next((steps for parent, steps in self.phases.values() if parent is None), 1)
            return advance(self.done, total, phase_name)

    return Monitor()
