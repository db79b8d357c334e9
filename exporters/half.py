"""ONNX float32 to half precision, float16 or bfloat16, with float32 inputs and outputs.

Every node computes in half precision if the operator's schema allows it, unless it is named in ``keep``. Results that
are only moved (Reshape, Transpose, …) stay in the type they have. A value is cast once for each type in which nodes
read it. Constants that half precision cannot tell from 0, and nodes that ONNX Runtime crashes on, keep their node in
float32; constants beyond the range, such as the large negative ones of masks, become the largest finite value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from deploy.support.onnx_file import SINGLE_FILE_LIMIT, STANDARD, load

Array = NDArray[Any]

HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
DTYPES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
BF16_OPSET = 22
"""First ONNX opset whose convolutions and poolings take bfloat16."""

MOVES = frozenset(
    (
        *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Expand", "Tile"),
        *("Gather", "GatherElements", "GatherND", "Dropout", "DepthToSpace", "SpaceToDepth", "Shape", "Size"),
    )
)
"""Operators that only move values of their first input."""

TYPED = frozenset(
    ("Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan", "SequenceMap", "Optional")
)
"""Operators whose results have a type of their own; subgraphs stay in float32."""

WRONG = frozenset(("InstanceNormalization",))
"""Operators whose float16 kernel in ONNX Runtime's CUDA provider is wrong (`benchmarks/half_sums.py`)."""

SMALL = 16
"""Number of values up to which a tensor is a constant of a formula, each value of which counts."""

SCRATCH_LIMIT = 2**20
"""Bytes from which the weights of a scratch file are external: they are then read and written one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Halved:
    """What a conversion did; a node is named by its first result.

    Attributes:
        half: nodes that compute in half precision.
        given: nodes that were kept as asked.
        kept: other nodes that could not be converted, and why: ``no kernel``, ``wrong kernel``, ``underflow`` or
            ``crash``.
    """

    half: frozenset[str]
    given: frozenset[str]
    kept: dict[str, str]


def to_half(
    source: Path,
    path: Path,
    *,
    precision: str = "fp16",
    keep: Collection[str] = (),
    single_file_limit: int = SINGLE_FILE_LIMIT,
) -> Halved:
    """Write a file in half precision; inputs and outputs stay float32.

    The source may be ``path`` itself; from ``single_file_limit`` bytes, weights go to ``<path>.data``.

    Args:
        source: a float32 graph.
        path: the file to write.
        precision: ``fp16`` or ``bf16``; for ``bf16``, the graph is converted to opset 22 if it has an earlier one.
        keep: nodes that stay in float32, by the name of their first result.
        single_file_limit: see above.

    Raises:
        ArtifactError: the source is damaged, or its external data lies outside its folder.
        ExportError: the graph cannot be converted to the opset that bfloat16 needs.
    """
    load(source)  # checks the location of external data before it is read
    model = prepared(source, precision)
    if source == path:
        ir.external_data.load_to_model(model)
    halved = _Conversion(model, precision, frozenset(keep)).run()
    save(model, path, single_file_limit)
    return halved


def prepared(source: Path, precision: str = "fp16") -> ir.Model:
    """Read a graph: functions inlined, constants as weights, types inferred; every node has a first result with a name.

    Raises:
        ExportError: as `to_half`.
    """
    model = ir.load(source)
    if model.functions:
        common.InlinePass()(model)
    if precision == "bf16" and (model.graph.opset_imports.get("") or BF16_OPSET) < BF16_OPSET:
        from exporters.onnx_edits import change_opset  # imports onnxscript

        change_opset(model, BF16_OPSET)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ShapeInferencePass(strict_mode=False)(model)
    _infer_types(model.graph)
    _move_transposes(model.graph)
    return model


def _infer_types(graph: ir.Graph) -> None:
    """Give results without a type that of the inputs that the operator's schema ties them to."""
    version = graph.opset_imports.get("") or 1
    for node in graph:
        schema = _schema(node.op_type, "", version) if node.domain in STANDARD else None
        if schema is None or node.op_type in TYPED:
            continue
        kinds = _types(schema.inputs, len(node.inputs))
        known = {kind: value.type for kind, value in zip(kinds, node.inputs, strict=False) if value is not None}
        for value, kind in zip(node.outputs, _types(schema.outputs, len(node.outputs)), strict=False):
            if value.type is None:
                value.type = known.get(kind)


def write_prepared(source: Path, path: Path, precision: str) -> None:
    """Write a float32 graph as `prepared` returns it, for `to_half` and for what is asked about its nodes.

    From `SCRATCH_LIMIT` bytes, its weights go to ``<path>.data``.

    Raises:
        ArtifactError, ExportError: as `to_half`.
    """
    load(source)
    save(prepared(source, precision), path, SCRATCH_LIMIT)


def save(model: ir.Model, path: Path, single_file_limit: int = SINGLE_FILE_LIMIT) -> None:
    """Write a model; from ``single_file_limit`` bytes, weights go to ``<path>.data``."""
    stored = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    external = sum(tensor.nbytes for tensor in stored) >= single_file_limit
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    if not external:  # also what was beside the source
        ir.external_data.load_to_model(model)
    ir.save(model, path, external_data=data.name if external else None)


@dataclass(frozen=True, slots=True)
class _Slots:
    """Inputs and outputs of a node, by position, that are float32 and may be in half precision."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(slots=True)
class _Conversion:
    model: ir.Model
    precision: str
    keep: frozenset[str]
    _taken: set[str] = field(default_factory=set)
    _halved: set[ir.Value] = field(default_factory=set)
    _casts: dict[tuple[ir.Value, bool], ir.Value] = field(default_factory=dict)

    def run(self) -> Halved:
        graph = self.model.graph
        version = graph.opset_imports.get("") or graph.opset_imports.get("ai.onnx") or 1
        self._taken = {value.name or "" for value in _values(graph)}
        half, given, kept = set(), set(), {}
        for node in list(graph):
            name = key(node)
            slots, why = self._decided(node, version)
            if node.op_type in MOVES and node.domain in STANDARD:
                moved = node.inputs[0]
                if moved is None or not (moved in self._halved or self._half_constant(node, version)):
                    slots = None
            elif why == "asked":
                given.add(name)
            elif why:
                kept[name] = why
            elif slots is not None:
                half.add(name)
            if slots is None:
                self._as_float(node)
            else:
                self._as_half(node, slots)
        self._restore_outputs()
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]
        return Halved(half=frozenset(half), given=frozenset(given), kept=kept)

    def _decided(self, node: ir.Node, version: int) -> tuple[_Slots | None, str]:
        """Return what of a node may be in half precision, or None, and why nothing is."""
        slots = _slots(node, version, self.precision)
        if slots is None:
            return None, "no kernel" if _computes(node) else ""
        if key(node) in self.keep:
            return None, "asked"
        if self.precision == "fp16" and node.op_type in WRONG and node.domain in STANDARD:
            return None, "wrong kernel"
        if _transposes_before(node):
            return None, "crash"
        if any(self._vanishes(node.inputs[index]) for index in slots.inputs):
            return None, "underflow"
        return slots, ""

    def _half_constant(self, node: ir.Node, version: int) -> bool:
        """Return whether a node moves a constant and everything that reads it does so in half precision."""
        moved = node.inputs[0]
        return moved is not None and self._constant(moved) and self._read_in_half(node.outputs[0], version)

    def _read_in_half(self, value: ir.Value, version: int) -> bool:
        if value.is_graph_output():
            return False
        for use in value.uses():
            if use.node.op_type in MOVES and use.node.domain in STANDARD:
                if use.idx == 0 and not all(self._read_in_half(made, version) for made in use.node.outputs):
                    return False
                continue
            slots, _ = self._decided(use.node, version)
            inner = use.node.graph is not self.model.graph  # subgraphs stay in float32
            if inner or slots is None or use.idx not in slots.inputs:
                return False
        return True

    def _as_half(self, node: ir.Node, slots: _Slots) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None:
                self._read(node, index, value, half=index in slots.inputs)
        for index in slots.outputs:
            self._halve(node.outputs[index])

    def _as_float(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None:
                self._read(node, index, value, half=False)
        for inner in _inner_nodes(node):
            for index, value in enumerate(inner.inputs):
                if value is not None and value in self._halved:
                    self._read(inner, index, value, half=False)

    def _halve(self, value: ir.Value) -> None:
        value.type = ir.TensorType(HALVES[self.precision])
        self._halved.add(value)

    def _read(self, node: ir.Node, index: int, value: ir.Value, *, half: bool) -> None:
        """Let an input of a node be in half precision or not."""
        is_half = value in self._halved
        if is_half == half or not (is_half or value.dtype == ir.DataType.FLOAT):
            return
        if (value, half) not in self._casts:
            self._casts[value, half] = self._constant_cast(value) if self._constant(value) else self._cast(value, half)
        node.replace_input_with(index, self._casts[value, half])

    def _cast(self, value: ir.Value, half: bool) -> ir.Value:
        target = HALVES[self.precision] if half else ir.DataType.FLOAT
        name = self._name(f"{value.name}_{self.precision if half else 'fp32'}")
        cast = ir.node("Cast", [value], {"to": target}, name=f"{name}_cast")
        (result,) = cast.outputs
        result.name, result.shape = name, value.shape
        result.type = ir.TensorType(target)
        if half:
            self._halved.add(result)
        producer, graph = value.producer(), self.model.graph
        if producer is None:
            graph.insert_before(graph[0], [cast])
        else:
            cast.metadata_props.update(producer.metadata_props)
            graph.insert_after(producer, [cast])
        return result

    def _constant(self, value: ir.Value) -> bool:
        return value.const_value is not None and value.is_initializer() and not value.is_graph_input()

    def _constant_cast(self, value: ir.Value) -> ir.Value:
        """Add a weight in half precision."""
        assert value.const_value is not None
        name = self._name(f"{value.name}_{self.precision}")
        stored, dtype = value.const_value, HALVES[self.precision]

        def half() -> ir.Tensor[Array]:
            result = ir.Tensor(rounded_to(stored.numpy(), self.precision), dtype=dtype, name=name)
            if isinstance(stored, ir.ExternalTensor):
                stored.release()  # the pages of its file
            return result

        rounded = ir.LazyTensor(
            half,
            dtype=dtype,
            shape=ir.Shape(stored.shape.numpy()),
            name=name,
        )
        result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape, const_value=rounded)
        self.model.graph.register_initializer(result)
        self._halved.add(result)
        return result

    def _vanishes(self, value: ir.Value | None) -> bool:
        """Return whether rounding would turn a value of a small constant into 0."""
        if value is None or not self._constant(value) or value.const_value is None or value.const_value.size > SMALL:
            return False
        values = value.const_value.numpy()
        return bool(((rounded_to(values, self.precision) == 0) & (values != 0)).any())

    def _restore_outputs(self) -> None:
        """Cast the outputs of the graph to float32, under their names."""
        graph = self.model.graph
        for index, value in enumerate(list(graph.outputs)):
            if value not in self._halved:
                continue
            name = value.name
            if (value, False) not in self._casts:
                self._casts[value, False] = self._cast(value, half=False)
            result = self._casts[value, False]
            value.name = self._name(f"{name}_{self.precision}")
            result.name = name
            graph.outputs[index] = result

    def _name(self, base: str) -> str:
        name, turn = base, 1
        while name in self._taken:
            name, turn = f"{base}_{turn}", turn + 1
        self._taken.add(name)
        return name


def key(node: ir.Node) -> str:
    """Return the name of a node's first result, which is unique in a graph."""
    return next((value.name for value in node.outputs if value.name), "") or node.name or ""


def largest(precision: str) -> float:
    """Return the largest finite number of a precision."""
    return float(ml_dtypes.finfo(DTYPES[precision]).max)  # type: ignore[no-untyped-call]


def rounded_to(values: Array, precision: str) -> Array:
    """Round float32 values to float16 or bfloat16; finite values beyond the range become the largest finite one."""
    dtype = DTYPES[precision]
    limit = np.float32(largest(precision))
    clipped = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return np.asarray(clipped.astype(dtype))


@cache
def _schema(operator: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, version, domain)
    except onnx.defs.SchemaError:
        return None


def _slots(node: ir.Node, version: int, precision: str) -> _Slots | None:
    """Return which inputs and outputs may be in half precision; None if the node stays as it is."""
    schema = _schema(node.op_type, "", version) if node.domain in STANDARD else None
    if schema is None or node.op_type in TYPED:
        return None
    half = f"tensor({'float16' if precision == 'fp16' else 'bfloat16'})"
    allowing = {item.type_param_str for item in schema.type_constraints if half in item.allowed_type_strs}
    formal = _types(schema.inputs, len(node.inputs))
    inputs = [
        index
        for index, (value, kind) in enumerate(zip(node.inputs, formal, strict=False))
        if value is not None and value.dtype in (ir.DataType.FLOAT, HALVES[precision]) and kind in allowing
    ]
    bound = {formal[index] for index in inputs}
    made = _types(schema.outputs, len(node.outputs))
    outputs = [
        index
        for index, (value, kind) in enumerate(zip(node.outputs, made, strict=False))
        if value.dtype == ir.DataType.FLOAT and kind in bound
    ]
    return _Slots(tuple(inputs), tuple(outputs)) if inputs else None


def _types(formal: Sequence[Any], count: int) -> list[str]:
    """Return the type of each actual parameter; the last formal one may be repeated."""
    return [formal[min(index, len(formal) - 1)].type_str for index in range(count)] if formal else []


def _computes(node: ir.Node) -> bool:
    """Return whether a node reads or makes float32 values."""
    values = [*node.inputs, *node.outputs]
    return node.op_type not in TYPED and any(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def _inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        for graph in [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else []:
            yield from ir.traversal.RecursiveGraphIterator(graph)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs


def _transposes_before(node: ir.Node) -> list[ir.Node]:
    """Return the Transpose nodes that a MatMul reads and that move the first axis behind others.

    ONNX Runtime 1.31 fuses them and then crashes (SIGSEGV) when it opens the file, if they are in float16.
    """
    producers = [value.producer() for value in node.inputs if value is not None] if node.op_type == "MatMul" else []
    found = []
    for producer in producers:
        if producer is not None and producer.op_type == "Transpose" and "perm" in producer.attributes:
            perm = list(producer.attributes["perm"].as_ints())
            if len(perm) > 2 and 0 in perm[-2:] and perm[:-2] == list(range(1, len(perm) - 1)):
                found.append(producer)
    return found


def _move_transposes(graph: ir.Graph) -> None:
    """Move such a Transpose behind its MatMul where the result is the same: with a matrix, if the last axis stays."""
    for node in list(graph):
        for before in _transposes_before(node):
            perm, weight = list(before.attributes["perm"].as_ints()), node.inputs[1]
            result = node.outputs[0]
            matrix = weight is not None and weight.shape is not None and len(weight.shape) == 2
            if node.inputs[0] is not before.outputs[0] or perm[-1] != len(perm) - 1 or not matrix:
                continue
            product = ir.node("MatMul", [before.inputs[0], weight], name=node.name, metadata_props=node.metadata_props)
            moved = ir.node("Transpose", product.outputs, {"perm": perm}, name=f"{node.name}_transpose")
            product.outputs[0].name, product.outputs[0].type = f"{result.name}_product", result.type
            if result.shape is not None:
                product.outputs[0].shape = ir.Shape([result.shape[perm.index(axis)] for axis in range(len(perm))])
            ir.convenience.replace_nodes_and_values(graph, node, [node], [product, moved], [result], moved.outputs)
            if not before.outputs[0].uses() and not before.outputs[0].is_graph_output():
                graph.remove(before, safe=True)
