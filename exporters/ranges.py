"""The sizes that torch.export assumed: from the ranges and the conditions that an ExportedProgram records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from deploy.core.tensors import SizeRange, TensorSpec

MAX_MULTIPLE = 64
"""Largest divisor of a size that is looked for."""


def exported_ranges(
    program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> list[SizeRange]:
    """Return the ranges of the symbolic dimensions that the program limits.

    The program followed the branches that the traced ``sizes`` take, such as ``if height % 8``. It records what they
    imply: ranges (``VR[8, int_oo]``), and conditions (``Eq(Mod(s, 8), 0)``), which are evaluated here at other sizes of
    one dimension at a time. PyTorch assumes that a size is at least 2; of a first dimension, which usually counts
    samples, this is not taken as a limit.
    """
    expressions = _expressions(program, inputs)
    conditions = _conditions(program)
    traced: dict[Any, int] = {
        item: sizes[dim] // int(expression.coeff(item)) for dim, (item, expression) in expressions.items()
    }
    leading = {spec.shape[0] for spec in inputs if spec.shape}
    ranges = []
    for dim, (symbol, expression) in expressions.items():
        own = [item for item in conditions if symbol in item.free_symbols and item.free_symbols <= set(traced)]

        def holds(value: int, symbol: Any = symbol, own: Sequence[Any] = own) -> bool:
            return all(bool(item.xreplace({**traced, symbol: value})) for item in own)

        factor, value = int(expression.coeff(symbol)), traced[symbol]
        step = _step(holds, value)
        bounds = program.range_constraints.get(symbol)
        low, high = (0, None) if bounds is None else (int(bounds.lower), _finite(bounds.upper))
        first = -(-max(low, 1) // step) * step
        least = next((size for size in range(first, value, step) if holds(size)), value) * factor
        ranges.append(
            SizeRange(
                dim=dim,
                min=1 if least == 2 and dim in leading else least,
                max=None if high is None else high * factor,
                multiple=step * factor,
            )
        )
    return [item for item in ranges if item.limited]


def _step(holds: Callable[[int], bool], value: int) -> int:
    """Return the smallest number by which a size can change."""
    found = next((step for step in range(1, MAX_MULTIPLE + 1) if holds(value + step) or holds(value - step)), 1)
    return found if value % found == 0 else 1


def _finite(upper: Any) -> int | None:
    return int(upper) if getattr(upper, "is_Integer", False) and upper < 2**40 else None


def _expressions(program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec]) -> dict[str, tuple[Any, Any]]:
    """Return the program's symbol and its expression, such as ``s53`` and ``8*s53``, for each symbolic dimension."""
    given = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in given]
    found = {}
    for node, spec in zip(nodes, inputs, strict=False):
        for dim, size in zip(spec.shape, getattr(node.meta.get("val"), "shape", ()), strict=False):
            if isinstance(dim, str) and isinstance(size, torch.SymInt) and len(size.node.expr.free_symbols) == 1:
                found[dim] = (next(iter(size.node.expr.free_symbols)), size.node.expr)
    return found


def _conditions(program: torch.export.ExportedProgram) -> list[Any]:
    """Return the conditions on sizes that the program assumes and the graph does not check, as sympy expressions."""
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(size, torch.SymInt) and size.node.shape_env is not None:
                asserts = size.node.shape_env.deferred_runtime_asserts.values()
                return [item.expr for several in asserts for item in several]
    return []
