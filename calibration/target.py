"""One door to all targets."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from calibration.table import CalibrationTable
from deploy.core import registry
from deploy.core.environment import cpu_features

TARGETS = "calibration.targets"


def quantize(
    model: onnx.ModelProto, table: CalibrationTable, target: str, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Write Q/DQ for a target into a graph.

    Args:
        model: a float32 graph, as `calibration.prepare` returns it.
        table: ranges of its activations.
        target: ``onnxruntime``, ``openvino``, ``tensorrt``, or a third party's.
        keep_float: names of nodes that are left as they are.

    Returns:
        A new graph; its tensors keep their names.

    Raises:
        UnknownNameError: no such target.
    """
    rules = registry.load(TARGETS, target, "target")
    made: onnx.ModelProto = rules.quantize(model, table.ranges(rules.GRID), frozenset(keep_float), cpu_features())
    return made
