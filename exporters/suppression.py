"""Greedy suppression in ONNX: exporters write one node, which becomes a loop that every runtime takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import values

_BOOL, _FLOAT, _INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64
_DOMAIN, _NAME = "deploy", "Greedy"

_BOOLS = onnx.defs.OpSchema.FormalParameter
_SCHEMA = onnx.defs.OpSchema(
    _NAME,
    _DOMAIN,
    1,
    inputs=[_BOOLS("over", "tensor(bool)"), _BOOLS("valid", "tensor(bool)")],
    outputs=[_BOOLS("kept", "tensor(bool)")],
)


def greedy(over: Any, valid: Any) -> Any:
    """Translate `deploy.tasks.operators.greedy` to a node that `expand_greedy` replaces."""
    return values.Op(values.Opset(_DOMAIN, 1), _NAME, _SCHEMA)(over, valid)


def expand_greedy(model: ir.Model) -> None:
    """Replace the nodes of greedy suppression by loops with tensors of fixed size."""
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (_DOMAIN, _NAME)]
    for number, node in enumerate(nodes):
        over, valid = node.inputs
        assert over is not None and valid is not None
        tape = ir.tape.Tape()
        kept = _loop(tape, over, valid, f"greedy_{number}")
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, node.outputs, [kept])
    if nodes:
        del model.opset_imports[_DOMAIN]


def _loop(tape: ir.tape.Tape, over: ir.Value, valid: ir.Value, name: str) -> ir.Value:
    """Write the rule of `deploy.tasks.operators.greedy`, repeated until nothing changes."""
    removes = tape.op("Cast", [over], {"to": _FLOAT})
    body = _round(valid, removes, name)
    return tape.op("Loop", [None, _constant(tape, np.array(True)), valid], {"body": body})


def _round(valid: ir.Value, removes: ir.Value, name: str) -> ir.Graph:
    """Return one round: from which items are kept before it, [n, k], to which are kept after it."""
    turn = ir.Value(name=f"{name}_turn", shape=ir.Shape([]), type=ir.TensorType(_INT64))
    again = ir.Value(name=f"{name}_again", shape=ir.Shape([]), type=ir.TensorType(_BOOL))
    before = ir.Value(name=f"{name}_before", type=ir.TensorType(_BOOL))
    tape = ir.tape.Tape()
    axis = _constant(tape, np.array([1]))
    number = tape.op("MatMul", [tape.op("Unsqueeze", [tape.op("Cast", [before], {"to": _FLOAT}), axis]), removes])
    removed = tape.op("Cast", [tape.op("Squeeze", [number, axis])], {"to": _BOOL})
    after = tape.op("And", [valid, tape.op("Not", [removed])])
    changes = tape.op("Cast", [tape.op("Xor", [after, before])], {"to": _FLOAT})
    changed = tape.op("Cast", [tape.op("ReduceMax", [changes], {"keepdims": 0})], {"to": _BOOL})
    for index, node in enumerate(tape.nodes):  # names of a subgraph must differ from those around it
        node.name, node.outputs[0].name = f"{name}_node_{index}", f"{name}_value_{index}"
    after.type, changed.type, changed.shape = ir.TensorType(_BOOL), ir.TensorType(_BOOL), ir.Shape([])
    return ir.Graph([turn, again, before], [changed, after], nodes=tape.nodes, name=name)


def _constant(tape: ir.tape.Tape, value: np.ndarray[Any, Any]) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(value)})
