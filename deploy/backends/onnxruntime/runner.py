"""ONNX Runtime with exactly the requested execution provider."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime as ort

from deploy.core.errors import ArtifactError, BackendError, UnknownNameError
from deploy.core.options import read_options
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import Dim, TensorSpec
from deploy.support.profiling import Event, node_times
from deploy.support.runtime_errors import first_line, run_error

if TYPE_CHECKING:
    import onnx

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_TITLE = "ONNX Runtime"
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_NUMPY_TYPES = {"float": "float32", "double": "float64"}
_INT8_OPERATORS = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
"""Prefixes of the operators that compute in INT8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeOptions:
    """Options of an ONNX Runtime session.

    Attributes:
        provider: execution provider: ``cpu``, ``cuda`` or ``tensorrt``. Fallback to another one is an error. ONNX
            Runtime gives nodes that a provider does not support to the next one, see `OnnxRuntimeRunner.nodes`.
        device: index of the GPU, for providers that run on one.
        provider_options: options of the provider under ONNX Runtime's names, such as ``trt_max_workspace_size``. For
            ``tensorrt`` and dynamic shapes give ``trt_profile_min_shapes``, ``trt_profile_opt_shapes`` and
            ``trt_profile_max_shapes``: without them every shape out of the range so far builds a new engine.
        threads: threads within an operator; 0 leaves the choice to ONNX Runtime.
        optimization: level of graph optimization: ``all``, ``extended`` (without changes of the memory layout) or
            ``none``.
        sizes: sizes of symbolic dimensions by name; the session then takes no others.
        spinning: idle threads spin until the next run, which lowers latency and slows down other work on the cores.
        profile: file name prefix of ONNX Runtime's profile; empty for no profile.
        low_memory: keep one copy of the weights (no pre-packing) and no memory arena, at the cost of latency.
    """

    provider: str = "cpu"
    threads: int = 0
    optimization: Literal["all", "extended", "none"] = "all"
    sizes: Mapping[str, int] = field(default_factory=dict)
    low_memory: bool = False
    spinning: bool = True
    device: int = 0
    provider_options: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""


class OnnxRuntimeRunner(Runner):
    """An ONNX file opened by ONNX Runtime; ``graph`` is a changed copy of it to open instead.

    Raises:
        BackendError: the file is not a valid model, an operator is not supported, or the provider is not available.
    """

    def __init__(
        self, path: Path, options: OnnxRuntimeOptions | None = None, graph: onnx.ModelProto | None = None
    ) -> None:
        options = options or OnnxRuntimeOptions()
        if options.provider not in PROVIDERS:
            raise UnknownNameError("provider", options.provider, PROVIDERS, f"known: {', '.join(PROVIDERS)}")
        settings = _settings(options)
        if graph is not None:  # its external data lies beside the file
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        if options.provider == "tensorrt" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
            raise BackendError(
                f"{PROVIDERS['tensorrt']} computes in TF32, which only the environment switches off.",
                "set NVIDIA_TF32_OVERRIDE=0 before the process starts",
            )
        try:
            with redirect_stdout(sys.stderr):  # ONNX Runtime prints if a provider is not available
                source = str(path) if graph is None else graph.SerializeToString()
                # by default, a session whose provider fails runs again on the CPU, and says so on stdout only
                self._session = ort.InferenceSession(source, settings, providers=_providers(options), enable_fallback=0)
        except Exception as exc:
            raise _refusal(path, exc) from exc
        requested, actual = PROVIDERS[options.provider], self._session.get_providers()[0]
        if actual != requested:
            raise BackendError(
                f"ONNX Runtime cannot use {requested} on this machine; it would run on {actual} instead.",
                _provider_hint(options.provider),
            )
        self.nodes = _nodes(self._session)
        if self.nodes and requested not in self.nodes:
            raise BackendError(
                f"{path}: {requested} runs none of the graph's nodes; "
                f"{', '.join(f'{count} run on {name}' for name, count in self.nodes.items())}."
            )
        self.gpu = None if options.provider == "cpu" else options.device
        self._device, self._device_index = ("cpu", 0) if options.provider == "cpu" else ("cuda", options.device)
        self._binding: Any = None
        self._feeds: Feeds = {}
        self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item) for item in self._session.get_outputs())

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`. On a GPU, this is what `launch` runs."""
        if self._device != "cpu":
            self.bind(feeds)
            self.launch()
            self.synchronize()
            return self.fetch()
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as exc:
            raise run_error(_TITLE, feeds, first_line(exc, 600)) from exc
        return self._named(values)

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to the device of the session; see `Runner.bind`."""
        binding = self._session.io_binding()
        try:
            for name, value in feeds.items():
                array = np.asarray(value, order="C")
                binding.bind_ortvalue_input(
                    name, ort.OrtValue.ortvalue_from_numpy(array, self._device, self._device_index)
                )
            for spec in self.outputs:
                binding.bind_output(spec.name, self._device, self._device_index)
        except Exception as exc:
            raise run_error(_TITLE, feeds, first_line(exc, 600)) from exc
        self._binding, self._feeds = binding, feeds

    def launch(self) -> None:
        """Run on the bound inputs; outputs stay on the device."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as exc:
            raise run_error(_TITLE, self._feeds, first_line(exc, 600)) from exc

    def synchronize(self) -> None:
        """Wait for the GPU; a run on the CPU is complete when `launch` returns."""
        if self._device != "cpu":
            self._binding.synchronize_outputs()

    def fetch(self) -> Fetches:
        """Copy the outputs to the CPU; see `Runner.fetch`."""
        return self._named(self._binding.copy_outputs_to_cpu())

    def close(self) -> None:
        """Free the session."""
        self._session = self._binding = None

    def _named(self, values: list[Any]) -> Fetches:
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}


def open(path: Path, **options: Any) -> OnnxRuntimeRunner:
    """Open an ONNX file; the options are the fields of `OnnxRuntimeOptions`."""
    return OnnxRuntimeRunner(path, read_options(OnnxRuntimeOptions, options, _TITLE))


def profile(path: Path, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time every node with ONNX Runtime's profiler (resolution 1 µs); see `deploy.support.profiling.node_times`."""
    with tempfile.TemporaryDirectory() as folder:
        with open(path, **options, profile=str(Path(folder) / "run")) as runner:
            runner.bind(feeds)
            for _ in range(calls):
                runner.launch()
                runner.synchronize()
            trace = Path(runner._session.end_profiling())
        events = json.loads(trace.read_text(encoding="utf-8"))
    nodes = [item for item in events if item.get("cat") == "Node" and item["name"].endswith("_kernel_time")]
    return node_times(map(_event, nodes), calls)


def _refusal(path: Path, exc: Exception) -> BackendError:
    """Return the error for a file that ONNX Runtime does not open; it names all operators that nobody defines."""
    from deploy.support import onnx_file

    try:
        unknown = onnx_file.unknown_operators(onnx_file.load(path))
    except ArtifactError:
        unknown = []
    if not unknown:
        return BackendError(f"{path}: ONNX Runtime cannot open it: {first_line(exc, 600)}")
    return BackendError(
        f"{path}: ONNX Runtime does not have the operators {', '.join(unknown)}.",
        "export the model again with operators of the ONNX standard only",
    )


def _settings(options: OnnxRuntimeOptions) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `_nodes`
    settings.graph_optimization_level = _LEVELS[options.optimization]
    for name, size in options.sizes.items():
        settings.add_free_dimension_override_by_name(name, size)
    if options.profile:
        settings.enable_profiling, settings.profile_file_prefix = True, options.profile
    if not options.spinning:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.low_memory:
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = False
    return settings


def _providers(options: OnnxRuntimeOptions) -> list[tuple[str, dict[str, str]]]:
    """Return the provider with its options; TensorRT is followed by CUDA for the operators it does not support."""
    if options.provider == "cpu":
        return [(PROVIDERS["cpu"], dict(options.provider_options))]
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # loads CUDA libraries from Python wheels, which importing PyTorch would also do
    device = {"device_id": str(options.device)}
    cuda = {**device, "use_tf32": "0"}  # TF32 is the default and has a mantissa of ten bits only
    if options.provider == "cuda":
        return [(PROVIDERS["cuda"], {**cuda, **options.provider_options})]
    return [(PROVIDERS["tensorrt"], {**device, **options.provider_options}), (PROVIDERS["cuda"], cuda)]


def _nodes(session: Any) -> dict[str, int]:
    """Return the number of nodes of the optimized graph by provider; empty where ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    found: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        found[part.ep_name] += len(part.get_nodes())
    return dict(found)


def _provider_hint(provider: str) -> str:
    """Return what a provider needs; the TensorRT provider is linked with one version of TensorRT."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if provider != "tensorrt" or not library.is_file():
        return "deploy doctor"
    needed = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    return f"it needs TensorRT {needed[1].decode()} (libnvinfer)" if needed else "deploy doctor"


def _spec(item: Any) -> TensorSpec:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    shape: tuple[Dim, ...] = tuple(
        dim if isinstance(dim, int) else (dim or "").strip("?") or f"{item.name}_dim{axis}"  # two '?' may differ
        for axis, dim in enumerate(item.shape)
    )
    return TensorSpec(name=item.name, dtype=_NUMPY_TYPES.get(kind, kind), shape=shape)


def _event(item: Mapping[str, Any]) -> Event:
    operator = item["args"]["op_name"]
    layer = item["name"].removeprefix("fused ").removesuffix("_kernel_time")
    return layer, operator, "int8" if operator.startswith(_INT8_OPERATORS) else "float", 1000.0 * item["dur"]
