"""ONNX Runtime, on the provider that was asked for and no other."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from deploy.core.errors import BackendError, UnknownNameError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import Dim, TensorSpec
from deploy.support.profiling import Event, node_times

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_NUMPY = {"float": "float32", "double": "float64"}
_INTEGER = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantize")
"""How operators begin that compute in eight bits."""

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxRuntimeOptions:
    """How a session is opened.

    Attributes:
        provider: ``cpu``, ``cuda`` or ``tensorrt``; a session that got another one is an error.
        device: number of the GPU, where the provider is on one.
        provider_options: the provider's own, in ONNX Runtime's words: ``trt_max_workspace_size``.
        threads: threads within an operator; 0 leaves it to ONNX Runtime.
        optimization: ``all`` or ``none`` of ONNX Runtime's graph optimizations.
        spinning: idle threads keep their core busy for the next run: faster alone, ruinous beside other work.
        profile: where ONNX Runtime's profile begins its file name; empty for none.
        lean: keep one copy of the weights (no pre-packing): slower, for models near the size of the memory.
    """

    provider: str = "cpu"
    threads: int = 0
    optimization: str = "all"
    lean: bool = False
    spinning: bool = True
    device: int = 0
    provider_options: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""


class OnnxRuntimeRunner(Runner):
    """An ONNX file opened by ONNX Runtime.

    Raises:
        BackendError: the file is not a valid model, an operator is not supported, or the provider is not there.
        UnknownNameError: there is no such provider.
    """

    def __init__(self, path: Path, options: OnnxRuntimeOptions | None = None) -> None:
        options = options or OnnxRuntimeOptions()
        if options.provider not in PROVIDERS:
            raise UnknownNameError("provider", options.provider, PROVIDERS, f"known: {', '.join(PROVIDERS)}")
        wanted = PROVIDERS[options.provider]
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.graph_optimization_level = _LEVELS[options.optimization]
        settings.log_severity_level = 3
        if options.profile:
            settings.enable_profiling, settings.profile_file_prefix = True, options.profile
        if not options.spinning:
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.lean:
            settings.add_session_config_entry("session.disable_prepacking", "1")
            settings.enable_cpu_mem_arena = False
        try:
            with redirect_stdout(sys.stderr):  # where a provider is not there, ONNX Runtime prints
                self._session = ort.InferenceSession(str(path), settings, providers=_providers(options))
        except Exception as exc:
            raise BackendError(f"{path}: ONNX Runtime cannot open it: {_first_line(exc)}") from exc
        if self._session.get_providers()[0] != wanted:
            raise BackendError(
                f"ONNX Runtime cannot use {wanted} on this machine and would have run on "
                f"{self._session.get_providers()[0]} instead.",
                "deploy doctor tells what is missing",
            )
        self._device, self._number = ("cpu", 0) if options.provider == "cpu" else ("cuda", options.device)
        self._binding: Any = None
        self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item) for item in self._session.get_outputs())

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as exc:
            shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
            raise BackendError(f"ONNX Runtime failed on {shapes}: {_first_line(exc)}") from exc
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to where the session computes; see `Runner.bind`."""
        binding = self._session.io_binding()
        try:
            for name, value in feeds.items():
                array = np.ascontiguousarray(value)
                value = ort.OrtValue.ortvalue_from_numpy(array, self._device, self._number)
                binding.bind_ortvalue_input(name, value)
            for spec in self.outputs:
                binding.bind_output(spec.name, self._device, self._number)
        except Exception as exc:
            raise BackendError(f"ONNX Runtime does not take these inputs: {_first_line(exc)}") from exc
        self._binding = binding

    def launch(self) -> None:
        """Run what was bound; outputs stay where they were computed."""
        self._session.run_with_iobinding(self._binding)

    def synchronize(self) -> None:
        """Wait for the device; nothing to wait for on a CPU."""
        if self._device != "cpu":
            self._binding.synchronize_outputs()

    def fetch(self) -> Fetches:
        """Copy the outputs back."""
        values = self._binding.copy_outputs_to_cpu()
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}

    def end_profile(self) -> str:
        """End the profile; the name of the file it was written to."""
        name: str = self._session.end_profiling()
        return name

    def close(self) -> None:
        """Free the session."""
        self._session = self._binding = None


def _providers(options: OnnxRuntimeOptions) -> list[tuple[str, dict[str, str]]]:
    """The provider with its options; behind TensorRT stands CUDA for the operators that it does not take."""
    if options.provider == "cpu":
        return [(PROVIDERS["cpu"], dict(options.provider_options))]
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA libraries that lie in wheels: where PyTorch is not imported nobody has loaded them
    device = {"device_id": str(options.device)}
    cuda = {**device, "use_tf32": "0"}  # on by default, and no float32: ten bits of mantissa
    if options.provider == "cuda":
        return [(PROVIDERS["cuda"], {**cuda, **options.provider_options})]
    return [(PROVIDERS["tensorrt"], {**device, **options.provider_options}), (PROVIDERS["cuda"], cuda)]


def _first_line(exc: Exception) -> str:
    text = str(exc).strip()
    return text.splitlines()[0][:600] if text else type(exc).__name__


def _spec(item: Any) -> TensorSpec:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    shape: tuple[Dim, ...] = tuple(
        dim if isinstance(dim, int) else dim or f"{item.name}_dim{axis}" for axis, dim in enumerate(item.shape)
    )
    return TensorSpec(name=item.name, dtype=_NUMPY.get(kind, kind), shape=shape)


def open(path: Path, **options: Any) -> OnnxRuntimeRunner:
    """Open an ONNX file."""
    return OnnxRuntimeRunner(path, OnnxRuntimeOptions(**options))


def profile(path: Path, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time by node over so many calls, from ONNX Runtime's own profiler, whose unit is a microsecond.

    Returns:
        As `deploy.support.profiling.node_times`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with OnnxRuntimeRunner(path, OnnxRuntimeOptions(**options, profile=str(Path(folder) / "run"))) as runner:
            runner.bind(feeds)
            for _ in range(calls):
                runner.launch()
                runner.synchronize()
            trace = Path(runner.end_profile())
        events = json.loads(trace.read_text(encoding="utf-8"))
    nodes = [item for item in events if item.get("cat") == "Node" and item["name"].endswith("_kernel_time")]
    return node_times(map(_event, nodes), calls)


def _event(item: Mapping[str, Any]) -> Event:
    operator = item["args"]["op_name"]
    layer = item["name"].removeprefix("fused ").removesuffix("_kernel_time")
    return layer, operator, "int8" if operator.startswith(_INTEGER) else "float", 1000.0 * item["dur"]
