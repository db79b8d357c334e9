"""Runner of ONNX's reference implementation: numpy, node by node, no graph optimization; slow, and independent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from deploy.core.errors import BackendError, UsageError
from deploy.core.runner import Feeds, Fetches, Runner
from deploy.core.tensors import TensorSpec


class ReferenceRunner(Runner):
    """Runs an ONNX file node by node."""

    def __init__(self, path: Path) -> None:
        try:
            model = onnx.load(str(path))
            self._evaluator = ReferenceEvaluator(model)
        except Exception as exc:
            raise BackendError(f"{path}: ONNX's reference implementation cannot open it: {exc}") from exc
        self.inputs = tuple(_spec(value) for value in model.graph.input)
        self.outputs = tuple(_spec(value) for value in model.graph.output)

    def run(self, feeds: Feeds) -> Fetches:
        """Run once; see `Runner.run`."""
        try:
            values = self._evaluator.run(None, dict(feeds))
        except Exception as exc:
            raise BackendError(f"ONNX's reference implementation failed: {exc}") from exc
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = tuple(dim.dim_param or int(dim.dim_value) for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def open(path: Path, **options: Any) -> ReferenceRunner:
    """Open an ONNX file; there are no options."""
    if options:
        raise UsageError(f"onnx-reference has no option {next(iter(options))!r}.")
    return ReferenceRunner(path)
