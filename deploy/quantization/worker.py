"""The child of `deploy.quantization.child`: runs float graphs that may be anybody's, and counts what flows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

import calibration
from calibration.layers import NoiseMeter
from calibration.observations import pack
from deploy.core.child import serve
from deploy.core.errors import ArtifactError, DataError
from deploy.core.runner import Fetches
from deploy.quantization.child import GRAPH, REFUSED

Answered = tuple[dict[str, Any], Fetches]


class GraphWorker:
    """Answers one request after the other: a graph is prepared, then one thing at a time is made of batches."""

    def __init__(self) -> None:
        self._graph = onnx.ModelProto()
        self._running: calibration.Collector | NoiseMeter | None = None

    def answer(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        """Do what is asked; what is wrong with the file or the data is told as such."""
        try:
            found: Answered = getattr(self, f"_{request['do']}")(request, arrays)
        except (ArtifactError, DataError) as exc:
            return {REFUSED: [type(exc).__name__, exc.message, exc.hint]}, {}
        return found

    def _prepare(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        self._graph = calibration.prepare(Path(request["path"]))
        return {}, {GRAPH: np.frombuffer(self._graph.SerializeToString(), np.uint8)}

    def _collect(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        self._running = calibration.Collector(self._graph, samples=request["samples"])
        return {}, {}

    def _compare(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        self._running = NoiseMeter(self._graph, onnx.load_model_from_string(arrays[GRAPH].tobytes()))
        return {}, {}

    def _add(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        if self._running is not None:
            self._running.add(arrays)
        return {}, {}

    def _finish(self, request: dict[str, Any], arrays: Fetches) -> Answered:
        running, self._running = self._running, None
        if isinstance(running, calibration.Collector):
            found = running.finish()
            running.close()
            return pack(found)
        layers = running.finish() if running is not None else []
        named = [[item.layer, item.operator, item.tensor] for item in layers]
        return {"layers": named}, {"sqnr_db": np.asarray([item.sqnr_db for item in layers], np.float64)}


if __name__ == "__main__":
    serve(GraphWorker().answer)
