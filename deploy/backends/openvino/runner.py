"""OpenVINO on a CPU, in the precision that the graph states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy.core.errors import BackendError
from deploy.core.options import read_options
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import Dim, TensorSpec
from deploy.support.openvino_library import openvino as ov
from deploy.support.profiling import Event, node_times
from deploy.support.runtime_errors import run_error

_TITLE = "OpenVINO"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenVinoOptions:
    """Options of a compiled model.

    Attributes:
        threads: inference threads; 0 leaves the choice to OpenVINO.
        shapes: shapes of inputs by name; the compiled model then takes no others.
        half: allow OpenVINO to compute float32 operators in half precision where it finds that faster.
    """

    threads: int = 0
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    half: bool = False
    counters: bool = False


class OpenVinoRunner(Runner):
    """A file compiled for the CPU."""

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
            core = ov.Core()
            model = core.read_model(str(path))
            if options.shapes:
                model.reshape({name: list(shape) for name, shape in options.shapes.items()})
            # before it is compiled: afterwards an output also has the names of tensors that were folded into it
            names = [port.get_any_name() for port in model.outputs]
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as exc:
            raise BackendError(f"{path}: OpenVINO cannot open it: {_reason(exc)}") from exc
        self._request = compiled.create_infer_request()
        self._input_names = [port.get_names() for port in compiled.inputs]
        self._feeds: Feeds = {}
        self.inputs = tuple(_spec(port, port.get_any_name()) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, name) for port, name in zip(compiled.outputs, names, strict=True))

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        self._check_names(feeds)
        try:
            self._request.infer({name: _argument(value) for name, value in feeds.items()})
        except Exception as exc:
            raise run_error(_TITLE, feeds, _reason(exc)) from exc
        return self.fetch()

    def bind(self, feeds: Feeds) -> None:
        """Copy inputs to tensors of the request; see `Runner.bind`."""
        self._check_names(feeds)
        try:
            for name, value in feeds.items():
                self._request.set_tensor(name, ov.Tensor(np.asarray(value, order="C")))
        except Exception as exc:
            raise run_error(_TITLE, feeds, _reason(exc)) from exc
        self._feeds = feeds

    def launch(self) -> None:
        """Run on the bound inputs."""
        try:
            self._request.infer()
        except Exception as exc:
            raise run_error(_TITLE, self._feeds, _reason(exc)) from exc

    def fetch(self) -> Fetches:
        """Copy the outputs; see `Runner.fetch`."""
        return {
            spec.name: np.array(self._request.get_output_tensor(index).data) for index, spec in enumerate(self.outputs)
        }

    def counters(self) -> list[Event]:
        """Return the time of every node in the last run."""
        return [
            (
                item.node_name,
                item.node_type,
                "int8" if item.exec_type.lower().endswith(("_i8", "_u8")) else "float",
                item.real_time.total_seconds() * 1e9,
            )
            for item in self._request.profiling_info
        ]

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None

    def _check_names(self, feeds: Feeds) -> None:
        """Refuse a missing input, for which OpenVINO would use the tensor of an earlier run."""
        for spec, names in zip(self.inputs, self._input_names, strict=True):
            if names.isdisjoint(feeds):
                raise run_error(_TITLE, feeds, f"input {spec.name!r} is missing.")


def open(path: Path, **options: Any) -> OpenVinoRunner:
    """Open an ONNX or OpenVINO file; the options are the fields of `OpenVinoOptions`."""
    return OpenVinoRunner(path, read_options(OpenVinoOptions, options, _TITLE))


def profile(path: Path, feeds: Feeds, calls: int, **options: Any) -> list[dict[str, Any]]:
    """Time every node with OpenVINO's counters (resolution 1 µs); see `deploy.support.profiling.node_times`."""
    events: list[Event] = []
    with open(path, **options, counters=True) as runner:
        runner.bind(feeds)
        for _ in range(calls):
            runner.launch()
            events += runner.counters()
    return node_times(events, calls)


def _argument(value: Any) -> Any:
    """Return an argument of ``infer``, which reuses its own tensors for arrays and reshapes scalars unless wrapped."""
    array = np.asarray(value, order="C")
    return array if array.ndim else ov.Tensor(array)


def _reason(error: Exception) -> str:
    """Return the last line of OpenVINO's message, which says what is wrong; the first ones name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:600] if lines else type(error).__name__


def _spec(port: Any, name: str) -> TensorSpec:
    shape: tuple[Dim, ...] = tuple(
        dim.get_length() if dim.is_static else f"{name}_dim{axis}" for axis, dim in enumerate(port.partial_shape)
    )
    return TensorSpec(name=name, dtype=np.dtype(port.element_type.to_dtype()).name, shape=shape)
