"""ONNX to ONNX: changes to a graph that leave what it computes as it is. Each function changes the graph in place."""

from __future__ import annotations

import contextlib
import itertools
import logging
import logging.handlers
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common
from onnxscript.version_converter import convert_version

from deploy.core.errors import ExportError, UsageError
from deploy.core.extras import require
from deploy.support.onnx_file import SINGLE_FILE_LIMIT

MAX_FOLDED = 2**26
"""Number of elements of the largest tensor that is computed from constants and stored."""


def load(path: Path) -> ir.Model:
    """Read a file that was examined; external data is mapped into memory.

    A dimension of -1 or called ``?`` is one without a name: two of them need not be equal.
    """
    model = ir.load(path)
    for value in (*model.graph.inputs, *model.graph.outputs, *(item for node in model.graph for item in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([None if _is_unknown(dim) else dim for dim in value.shape])
    return model


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return dim < 0 if isinstance(dim, int) else not str(dim.value or "").strip("?")


def save(model: ir.Model, path: Path) -> None:
    """Write a file; weights that are external, or of 2 GB and more, go to ``<path>.data``."""
    stored = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    tensors = [tensor for tensor in stored if tensor is not None]
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    external = external or sum(tensor.nbytes for tensor in tensors) >= SINGLE_FILE_LIMIT
    data = path.with_name(f"{path.name}.data")
    ir.save(model, path, external_data=data.name if external else None)
    if external and not data.stat().st_size:  # all weights are small
        data.unlink()


def node_count(model: ir.Model) -> int:
    """Return the number of nodes, those of branches and functions included."""
    parts: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    return sum(len(list(ir.traversal.RecursiveGraphIterator(part))) for part in parts)


def cut(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Keep the nodes between some tensors, which become the inputs and outputs."""
    common.ShapeInferencePass()(model)
    try:
        model.graph = ir.convenience.extract(model.graph, inputs, outputs)
    except ValueError as exc:
        raise ExportError(f"the graph cannot be cut: {exc}") from exc
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]


def fold(model: ir.Model) -> None:
    """Compute what depends on constants only."""
    onnxscript.optimizer.fold_constants(model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
    onnxscript.optimizer.remove_unused_nodes(model)


def simplify(model: ir.Model) -> ir.Model:
    """Return the graph after onnxslim has folded constants, removed what has no effect, and fused nodes.

    Raises:
        MissingPackageError: onnxslim is not installed.
        ExportError: onnxslim fails, or the file is too large for it.
    """
    require("edit")
    import onnxslim

    stored = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in stored if tensor is not None) >= SINGLE_FILE_LIMIT:
        raise ExportError("onnxslim takes weights of less than 2 GB.", "use --fold in place of --simplify")
    ir.external_data.load_to_model(model)
    try:
        result: ir.Model = ir.from_proto(onnxslim.slim(ir.to_proto(model)))
    except Exception as exc:
        first = next(iter(str(exc).splitlines()), type(exc).__name__)
        raise ExportError(f"onnxslim cannot simplify the graph: {first}") from exc
    return result


def change_opset(model: ir.Model, opset: int) -> None:
    """Convert the standard operators to another operator set.

    Raises:
        ExportError: an operator has no equivalent there.
    """
    with _messages("onnxscript.version_converter") as messages:
        try:
            convert_version(model, opset, fallback=True)
        except Exception as exc:
            raise ExportError(f"the graph cannot be converted to opset {opset}: {_first(exc)}") from exc
    if model.graph.opset_imports.get("") != opset:
        causes = [_first(item.exc_info[1]) for item in messages if item.exc_info and item.exc_info[1]]
        reason = causes[0] if causes else "the converter left it as it is"
        raise ExportError(f"the graph cannot be converted to opset {opset}: {reason}")


def _first(exc: BaseException) -> str:
    line = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
    return line.rpartition("failed: ")[2]  # without the place in the library's source


@contextlib.contextmanager
def _messages(name: str) -> Iterator[list[logging.LogRecord]]:
    """Collect the messages of a logger and of those below it instead of printing them."""
    handler, logger = logging.handlers.BufferingHandler(1 << 20), logging.getLogger(name)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def rename(model: ir.Model, names: Mapping[str, str]) -> None:
    """Give inputs and outputs other names; two may change places.

    Raises:
        UsageError: there is no such input or output, or another tensor has the new name.
    """
    ends = {value.name: value for value in (*model.graph.inputs, *model.graph.outputs)}
    missing = [name for name in names if name not in ends]
    if missing:
        known = ", ".join(str(name) for name in ends)
        raise UsageError(f"{missing[0]}: the graph has no such input or output; it has {known}.")
    taken = set(ir.convenience.create_value_mapping(model.graph)) - set(names)
    new = list(names.values())
    clash = [name for name in new if name in taken or new.count(name) > 1]
    if clash:
        raise UsageError(f"two tensors would have the name {clash[0]!r}.")
    ir.convenience.rename_values([ends[name] for name in names], new)


def half_ends(model: ir.Model) -> int:
    """Take and return float16 in place of float32, between casts; return how many inputs and outputs changed."""
    graph, changed = model.graph, 0
    first = graph[0]
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype is ir.DataType.FLOAT:
            cast = _cast(value, ir.DataType.FLOAT16)
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]
            _take_name(cast.outputs[0], value)
            changed += 1
    for index, value in enumerate(list(graph.inputs)):
        if value.dtype is ir.DataType.FLOAT and value.name not in graph.initializers:
            given = ir.val(f"{value.name}_fp16", ir.DataType.FLOAT16, value.shape)
            cast = _cast(given, ir.DataType.FLOAT)
            value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
            graph.inputs[index] = given
            graph.insert_before(first, cast)
            name = value.name
            value.name = f"{name}_unused"
            given.name = name
            changed += 1
    return changed


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    result = ir.Value(name=f"{value.name}_{dtype.name.lower()}", shape=value.shape, type=ir.TensorType(dtype))
    name = f"{value.name}_to_{dtype.name.lower()}"
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=name)


def _take_name(new: ir.Value, old: ir.Value) -> None:
    name = old.name
    if not old.is_graph_input():
        old.name = f"{name}_fp32"
        new.name = name


def strip_names(model: ir.Model) -> str:
    """Remove the names of nodes and inner tensors, documentation and metadata; return what was renamed.

    Inputs and outputs keep their names.
    """
    ends = [*model.graph.inputs, *model.graph.outputs]
    kept = {value.name for value in ends}
    inner: dict[int, ir.Value] = {}
    for graph in model.graphs():
        values = [*graph.inputs, *graph.initializers.values(), *(item for node in graph for item in node.outputs)]
        inner |= {id(value): value for value in values if value.name and value.name not in kept}
    names = (name for number in itertools.count() if (name := f"t{number}") not in kept)
    ir.convenience.rename_values(list(inner.values()), list(itertools.islice(names, len(inner))))
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for number, node in enumerate(nodes):
        node.name = f"n{number}"
    common.ClearMetadataAndDocStringPass()(model)
    for item in (*inner.values(), *ends):
        item.metadata_props.clear()
        item.doc_string = None
    model.graph.name, model.doc_string, model.producer_name, model.producer_version = "graph", None, None, None
    model.metadata_props.clear()
    return f"{len(nodes)} nodes and {len(inner)} tensors"
