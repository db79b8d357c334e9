"""Operators that have no function here, in terms of those that have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import onnx
from onnx.inliner import inline_selected_functions

from deploy.onnx_graph.node import DOMAINS, known
from deploy.support import onnx_file


def expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without calls of its own functions and of operators that ONNX defines in terms of known ones.

    A model without such calls is returned itself, since a copy would hold its weights once more.
    """
    if not model.functions and not without_function(model):
        return model
    version = next((item.version for item in model.opset_import if item.domain in DOMAINS), 1)
    with ExitStack() as stack:
        for graph in _graphs(model.graph):
            stack.enter_context(_explicit(graph, version))
        return inline_selected_functions(model, known(), exclude=True, inline_schema_functions=True)


def without_function(model: onnx.ModelProto) -> dict[str, str]:
    """Return the operators that have no function here, each with the name of a node."""
    functions = set(known())
    found: dict[str, str] = {}
    for node in onnx_file.all_nodes(model):
        domain = "" if node.domain in DOMAINS else node.domain
        if (domain, node.op_type) not in functions:
            found.setdefault(f"{domain}.{node.op_type}".removeprefix("."), node.name or node.output[0])
    return found


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Return a graph and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


@contextmanager
def _explicit(graph: onnx.GraphProto, version: int) -> Iterator[None]:
    """Write down what a definition may depend on, but the inliner does not know: types of weights, and defaults."""
    functions, values = set(known()), len(graph.value_info)
    graph.value_info.extend(
        onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in graph.initializer
    )
    changed = []
    for node in graph.node:
        if node.domain in DOMAINS and ("", node.op_type) not in functions and onnx.defs.has(node.op_type):
            given = {item.name for item in node.attribute}
            schema = onnx.defs.get_schema(node.op_type, version)
            defaults = [item.default_value for name, item in schema.attributes.items() if name not in given]
            changed.append((node, len(node.attribute)))
            node.attribute.extend(item for item in defaults if item.name)
    try:
        yield
    finally:
        del graph.value_info[values:]
        for node, count in changed:
            del node.attribute[count:]
