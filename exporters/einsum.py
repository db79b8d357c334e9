"""Equations of Einsum in lower case: TensorRT's parser refuses upper-case labels."""

from __future__ import annotations

import string

import onnx

from deploy.support.onnx_file import all_nodes


def lower_case(equation: str) -> str:
    """Return the equation with lower-case labels; unchanged if it has none other, or more than 26.

    The labels keep their order, which decides the axes of an output that the equation does not name. Runtimes disagree
    on that order where both cases occur, so that such an equation stays as it is.
    """
    labels = sorted({character for character in equation if character in string.ascii_letters})
    upper = [label for label in labels if label.isupper()]
    ambiguous = "->" not in equation and len(upper) < len(labels)
    if not upper or ambiguous or len(labels) > len(string.ascii_lowercase):
        return equation
    return equation.translate({ord(old): new for old, new in zip(labels, string.ascii_lowercase, strict=False)})


def to_lower_case(model: onnx.ModelProto) -> bool:
    """Rewrite the equations of a graph in place; return whether one has changed."""
    changed = False
    for node in all_nodes(model):
        for attribute in node.attribute if node.op_type == "Einsum" else ():
            if attribute.name == "equation":
                before = attribute.s.decode()
                attribute.s = lower_case(before).encode()
                changed |= attribute.s.decode() != before
    return changed
