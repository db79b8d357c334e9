"""An ONNX file run node by node in PyTorch, rounded to half precision where its types say so.

See `deploy.onnx_graph.rounded`; float32 nodes compute in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.core.errors import DeployError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.onnx_graph.rounded import RoundedModule
from deploy.support import onnx_file
from deploy.support.onnx_decisions import watched
from deploy.support.runtime_errors import run_error

ROUNDED = "deploy.backends.torch.rounded"
"""This module, as `deploy.core.isolated.IsolatedRunner` takes it."""


class RoundedRunner(Runner):
    """Runs an ONNX file; outputs in half precision become float32."""

    def __init__(self, path: Path, *, watch: bool = False) -> None:
        """With ``watch``, the graph has the output `deploy.support.onnx_decisions.RANGES` in place of its own."""
        model = onnx_file.load(path)
        if watch:
            model, _ = watched(model)
        stored = {tensor.name for tensor in model.graph.initializer}
        self.inputs = tuple(
            onnx_file.tensor_spec(value, path) for value in model.graph.input if value.name not in stored
        )
        typed = [value for value in model.graph.output if value.type.tensor_type.elem_type]
        self.outputs = tuple(onnx_file.tensor_spec(value, path) for value in typed)
        self._module = RoundedModule(model, path.parent).eval()

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        tensors = [torch.from_numpy(np.array(feeds[spec.name], order="C")) for spec in self.inputs]
        try:
            with torch.inference_mode():
                results = self._module(*tensors)
        except DeployError:
            raise
        except Exception as exc:
            raise run_error("the graph, node by node", feeds, str(exc)) from exc
        return {
            name: (value.float() if value.dtype is torch.bfloat16 else value).numpy() for name, value in results.items()
        }

    def submit(self, feeds: Feeds) -> None:
        """Run when the result is asked for."""
        self._submitted = feeds

    def result(self) -> Fetches:
        """Return the outputs for the inputs that were submitted."""
        return self.run(self._submitted)


def open(path: Path, *, watch: bool = False, **options: Any) -> RoundedRunner:
    """Open an ONNX file; ``options`` of other backends have no effect."""
    return RoundedRunner(path, watch=watch)
