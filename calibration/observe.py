"""Which tensors of a graph must be looked at, and whose range the others share."""

from __future__ import annotations

import onnx

from calibration.graph import SAME_VALUES, consumers, initializers, types

CUTTING = ("Relu", "Clip")
"""Activations that an eight-bit target merges into what comes before: only what they let through is represented."""


def plan(model: onnx.ModelProto) -> tuple[list[str], dict[str, str]]:
    """Divide the graph's float activations.

    Returns:
        The tensors to observe, in execution order; and for each other tensor the one whose range is its own, because
        it holds the same values or because all that reads it is an activation that cuts it off.
    """
    stored, kinds, readers = initializers(model), types(model), consumers(model)
    outputs = {value.name for value in model.graph.output}

    def is_float(name: str) -> bool:
        kind = kinds.get(name)
        return kind is not None and kind.elem_type == onnx.TensorProto.FLOAT and name not in stored

    observed = [value.name for value in model.graph.input if is_float(value.name)]
    shared: dict[str, str] = {}
    for node in model.graph.node:
        for name in filter(is_float, node.output):
            if node.op_type in SAME_VALUES and is_float(node.input[0]):
                shared[name] = node.input[0]
                continue
            reading = readers.get(name, [])
            if len(reading) == 1 and reading[0].op_type in CUTTING and name not in outputs:
                shared[name] = reading[0].output[0]
            else:
                observed.append(name)
    return observed, {name: _root(name, shared) for name in shared}


def _root(name: str, shared: dict[str, str]) -> str:
    while name in shared:
        name = shared[name]
    return name
