"""A graph opened by ONNX Runtime with inner tensors as outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from deploy.core.errors import BackendError
from deploy.core.runner import Feeds
from deploy.support.runtime_errors import first_line, run_error

Array = NDArray[Any]


class TensorSession:
    """Computes chosen tensors of a graph, without those that are its inputs; idle threads do not spin.

    Without fusion, every operator runs as it is written in the graph. ``folder`` holds the external data of the graph;
    ``low_memory`` keeps one copy of the weights.

    Raises:
        BackendError: ONNX Runtime cannot open the graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: Sequence[str],
        *,
        fusion: bool = True,
        folder: Path | None = None,
        low_memory: bool = False,
    ) -> None:
        inputs = {value.name for value in model.graph.input}
        self._names = [name for name in tensors if name not in inputs]
        extended = copy.deepcopy(model)
        outputs = {value.name for value in extended.graph.output}
        extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in outputs)
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if folder is not None:
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if low_memory:
            settings.add_session_config_entry("session.disable_prepacking", "1")
            settings.enable_cpu_mem_arena = False
        if not fusion:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(
                extended.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            raise BackendError(f"ONNX Runtime cannot open the graph: {first_line(exc)}") from exc

    def run(self, batch: Feeds) -> dict[str, Array]:
        """Run the graph and return the tensors by name."""
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(batch)), strict=True))
        except Exception as exc:
            raise run_error("ONNX Runtime", batch, first_line(exc)) from exc
