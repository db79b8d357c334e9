"""A padding with zeros in front of a max pooling, written so that ONNX Runtime leaves it where it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def keep_zeros_before_max(model: ir.Model) -> None:
    """Pad with −0 instead of 0 in front of every ``MaxPool`` whose input may be negative.

    The graph computes the same. But ONNX Runtime (1.31.1, its optimization ``Pad_Fusion``) moves a padding with 0 into
    the pooling, where padding counts as −∞; it does not recognize −0.
    Stems of BiT, and others that pool before their first ReLU, were wrong.
    """
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        kind = _zeros(node) if node.op_type == "Pad" and node.domain in ("", "ai.onnx") else None
        if kind is None or not any(use.node.op_type == "MaxPool" for use in node.outputs[0].uses()):
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is not None and before.op_type == "Relu":
            continue
        name = f"{node.outputs[0].name}_minus_zero"
        minus_zero = ir.tensor(np.array(-0.0, kind.numpy()), name=name)
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape([]), const_value=minus_zero)
        assert node.graph is not None
        node.graph.insert_before(node, ir.node("Constant", [], {"value": minus_zero}, outputs=[value]))
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, value)


def _zeros(node: ir.Node) -> ir.DataType | None:
    """Return the type of the zeros that a node pads floats with; None if it pads with others."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        kind = node.inputs[0].dtype if node.inputs[0] is not None else None
    else:
        constant = ir.convenience.get_const_tensor(value)
        kind = constant.dtype if constant is not None and not np.any(constant.numpy()) else None
    return kind if kind in _FLOATS else None
