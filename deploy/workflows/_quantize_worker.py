"""The child of `deploy.workflows._quantize_child`: runs float graphs that may be anybody's, and counts what flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

import calibration
from calibration._wire import pack
from calibration.layers import NoiseMeter
from deploy.core.child import serve
from deploy.core.errors import ArtifactError, DataError
from deploy.core.runner import Fetches
from deploy.workflows._quantize_child import GRAPH, REFUSED


class Worker:
    """Answers one request after the other."""

    def __init__(self) -> None:
        self._graph = onnx.ModelProto()
        self._collector: calibration.Collector | None = None
        self._meter: NoiseMeter | None = None

    def answer(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        """Do what is asked; what is wrong with the file or the data is told as such."""
        try:
            found: tuple[dict[str, Any], Fetches] = getattr(self, f"_{request['do']}")(request, arrays)
        except (ArtifactError, DataError) as exc:
            return {REFUSED: [type(exc).__name__, exc.message, exc.hint]}, {}
        return found

    def _prepare(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        self._graph = calibration.prepare(Path(request["path"]))
        return {}, {GRAPH: np.frombuffer(self._graph.SerializeToString(), np.uint8)}

    def _collect(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        self._collector = calibration.Collector(self._graph, samples=request["samples"])
        return {}, {}

    def _observe(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        assert self._collector is not None
        self._collector.add(arrays)
        return {}, {}

    def _observed(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        assert self._collector is not None
        found = self._collector.finish()
        self._collector.close()
        self._collector = None
        return pack(found)

    def _compare(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        quantised = onnx.load_model_from_string(arrays[GRAPH].tobytes())
        self._meter = NoiseMeter(self._graph, quantised)
        return {}, {}

    def _measure(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        assert self._meter is not None
        self._meter.add(arrays)
        return {}, {}

    def _measured(self, request: dict[str, Any], arrays: Fetches) -> tuple[dict[str, Any], Fetches]:
        assert self._meter is not None
        found = self._meter.finish()
        self._meter = None
        return {"layers": [[item.layer, item.operator, item.tensor] for item in found]}, {
            "sqnr_db": np.asarray([item.sqnr_db for item in found], np.float64)
        }


if __name__ == "__main__":
    serve(Worker().answer)
