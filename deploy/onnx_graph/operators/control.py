"""Branches, loops, and values that are sequences or optional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deploy.core.errors import ModelError
from deploy.onnx_graph.constants import dtype_of
from deploy.onnx_graph.node import OnnxNode, Values, operator

Tensor = torch.Tensor


@operator("If", scoped=True)
def branch(node: OnnxNode, scope: Values, condition: Tensor) -> tuple[Any, ...]:
    """Run one of two subgraphs."""
    chosen = node.attributes["then_branch" if bool(condition) else "else_branch"]
    return tuple(chosen.run({}, scope))


@operator("Loop", scoped=True)
def loop(
    node: OnnxNode, scope: Values, count: Tensor | None = None, condition: Tensor | None = None, *carried: Any
) -> tuple[Any, ...]:
    """Run a subgraph as often as a count says and while a condition holds; stack what it returns besides its state."""
    body = node.attributes["body"]
    state, going = list(carried), torch.tensor(True) if condition is None else condition
    collected: list[list[Tensor]] = [[] for _ in body.outputs[1 + len(state) :]]
    turn = 0
    while bool(going) and (count is None or turn < int(count)):
        values = dict(zip(body.inputs, [torch.tensor(turn), going, *state], strict=True))
        going, *results = body.run(values, scope)
        state = results[: len(state)]
        for items, item in zip(collected, results[len(state) :], strict=True):
            items.append(item)
        turn += 1
    types = body.output_types[1 + len(state) :]
    return (*state, *(_stacked(items, kind) for items, kind in zip(collected, types, strict=True)))


def _stacked(items: Sequence[Tensor], kind: Any) -> Tensor:
    """Stack what a loop collected; of none, the shape and type are those that the subgraph declares."""
    if items:
        return torch.stack(list(items))
    sizes = [size.dim_value for size in kind.tensor_type.shape.dim]
    return torch.zeros((0, *sizes), dtype=dtype_of(kind.tensor_type.elem_type))


@operator("Scan", scoped=True)
def scan(node: OnnxNode, scope: Values, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run a subgraph for each slice of its inputs.

    Raises:
        ModelError: the node is of operator set 8, which had a batch axis.
    """
    if node.version < 9:
        raise ModelError(f"the node {node.name!r} is Scan of operator set 8, which has no evaluation.")
    body, scanned = node.attributes["body"], node.attributes["num_scan_inputs"]
    held = len(inputs) - scanned
    made = len(body.outputs) - held
    axes, backward = (node.get(f"scan_input_{name}", (0,) * scanned) for name in ("axes", "directions"))
    slices = [
        (value.flip(axis) if reverse else value).unbind(axis)
        for value, axis, reverse in zip(inputs[held:], axes, backward, strict=True)
    ]
    state, collected = list(inputs[:held]), [list[Tensor]() for _ in range(made)]
    for parts in zip(*slices, strict=True):
        results = body.run(dict(zip(body.inputs, [*state, *parts], strict=True)), scope)
        state = results[:held]
        for items, item in zip(collected, results[held:], strict=True):
            items.append(item)
    axes, backward = (node.get(f"scan_output_{name}", (0,) * made) for name in ("axes", "directions"))
    stacked = [_stacked(items, kind) for items, kind in zip(collected, body.output_types[held:], strict=True)]
    results = [value.flip(0) if reverse else value for value, reverse in zip(stacked, backward, strict=True)]
    return (*state, *(value.movedim(0, axis) for value, axis in zip(results, axes, strict=True)))


@operator("SequenceConstruct")
def construct(_: OnnxNode, *inputs: Tensor) -> list[Tensor]:
    """Return a sequence of the inputs."""
    return list(inputs)


@operator("SequenceEmpty")
def empty(_: OnnxNode) -> list[Tensor]:
    """Return a sequence without elements."""
    return []


@operator("SequenceAt")
def at(_: OnnxNode, sequence: list[Tensor], position: Tensor) -> Tensor:
    """Return an element."""
    return sequence[int(position)]


@operator("SequenceInsert")
def insert(_: OnnxNode, sequence: list[Tensor], item: Tensor, position: Tensor | None = None) -> list[Tensor]:
    """Insert an element before a position, or at the end."""
    place = len(sequence) if position is None else int(position)
    return [*sequence[:place], item, *sequence[place:]]


@operator("SequenceErase")
def erase(_: OnnxNode, sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    """Remove an element, or the last one."""
    place = (-1 if position is None else int(position)) % len(sequence)
    return sequence[:place] + sequence[place + 1 :]


@operator("SequenceLength")
def length(_: OnnxNode, sequence: list[Tensor]) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(len(sequence))


@operator("SplitToSequence")
def split_to_sequence(node: OnnxNode, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    """Split along an axis into slices, or into parts of one size or of given sizes."""
    axis = node.get("axis", 0)
    if sizes is None:
        return list(torch.split(x, 1, axis) if node.get("keepdims", 1) else x.unbind(axis))
    return list(torch.split(x, sizes.tolist(), axis))


@operator("ConcatFromSequence")
def concat_from_sequence(node: OnnxNode, sequence: list[Tensor]) -> Tensor:
    """Join the elements along an axis that they have, or along a new one."""
    return (torch.stack if node.get("new_axis", 0) else torch.cat)(sequence, node.attributes["axis"])


@operator("SequenceMap", scoped=True)
def sequence_map(node: OnnxNode, scope: Values, first: list[Tensor], *others: list[Tensor] | Tensor) -> tuple[Any, ...]:
    """Run a subgraph for each element; other sequences give theirs, and tensors are the same for all."""
    body = node.attributes["body"]
    rows = [[first[index], *(_each(item, index) for item in others)] for index in range(len(first))]
    results = [body.run(dict(zip(body.inputs, row, strict=True)), scope) for row in rows]
    return tuple([row[index] for row in results] for index in range(len(body.outputs)))


def _each(value: list[Tensor] | Tensor, index: int) -> Tensor:
    return value[index] if isinstance(value, list) else value


@operator("Optional", "OptionalGetElement")
def optional(_: OnnxNode, value: Any = None) -> Any:
    """Return a value that is also its own optional."""
    return value


@operator("OptionalHasElement")
def has_element(_: OnnxNode, value: Any = None) -> Tensor:
    """Return whether there is a value."""
    return torch.tensor(value is not None)
