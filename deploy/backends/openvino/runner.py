"""OpenVINO on a CPU, in the precision that the graph says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import Dim, TensorSpec
from deploy.support.openvino_library import openvino as ov
from deploy.support.profiling import Event, node_times


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoOptions:
    """How a model is compiled.

    Attributes:
        threads: of inference; 0 leaves it to OpenVINO.
        half: let OpenVINO compute float32 operators in half precision where it finds that faster.
        counters: time every node.
    """

    threads: int = 0
    half: bool = False
    counters: bool = False


class OpenVinoRunner(Runner):
    """An ONNX or OpenVINO file compiled for the CPU.

    Raises:
        BackendError: the file cannot be read or compiled.
    """

    def __init__(self, path: Path, options: OpenVinoOptions | None = None) -> None:
        options = options or OpenVinoOptions()
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if options.counters:
            settings["PERF_COUNT"] = True
        if not options.half:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            compiled = ov.Core().compile_model(str(path), "CPU", settings)
        except Exception as exc:
            raise BackendError(f"{path}: OpenVINO cannot open it: {_reason(exc)}") from exc
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            self._request.infer({name: np.ascontiguousarray(value) for name, value in feeds.items()})
        except Exception as exc:
            shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
            raise BackendError(f"OpenVINO failed on {shapes}: {_reason(exc)}") from exc
        return self.fetch()

    def bind(self, feeds: Feeds) -> None:
        """Give the request its input tensors; see `Runner.bind`."""
        try:
            for name, value in feeds.items():
                self._request.set_tensor(name, ov.Tensor(np.ascontiguousarray(value)))
        except Exception as exc:
            raise BackendError(f"OpenVINO does not take these inputs: {_reason(exc)}") from exc

    def launch(self) -> None:
        """Run what was bound."""
        self._request.infer()

    def counters(self) -> list[Event]:
        """Every node of the last run."""
        return [
            (
                item.node_name,
                item.node_type,
                "int8" if item.exec_type.lower().endswith(("_i8", "_u8")) else "float",
                item.real_time.total_seconds() * 1e9,
            )
            for item in self._request.profiling_info
        ]

    def fetch(self) -> Fetches:
        """Copy the outputs."""
        return {
            spec.name: np.array(self._request.get_output_tensor(index).data) for index, spec in enumerate(self.outputs)
        }

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None


def _reason(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:600] if lines else type(exc).__name__


def _spec(port: Any) -> TensorSpec:
    name = port.get_any_name()
    shape: tuple[Dim, ...] = tuple(
        dim.get_length() if dim.is_static else f"{name}_dim{axis}" for axis, dim in enumerate(port.partial_shape)
    )
    return TensorSpec(name=name, dtype=np.dtype(port.element_type.to_dtype()).name, shape=shape)


def open(path: Path, **options: Any) -> OpenVinoRunner:
    """Open an ONNX or OpenVINO file."""
    return OpenVinoRunner(path, OpenVinoOptions(**options))


def profile(path: Path, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time by node over so many calls, from OpenVINO's performance counters, whose unit is a microsecond.

    Returns:
        As `deploy.support.profiling.node_times`.
    """
    found: list[Event] = []
    with OpenVinoRunner(path, OpenVinoOptions(**options, counters=True)) as runner:
        runner.bind(feeds)
        for _ in range(calls):
            runner.launch()
            found += runner.counters()
    return node_times(found, calls)
