"""onnxscript's rewrite rules, without the time that they take on large graphs.

For a rule whose pattern ends in several nodes (two slices that become a split), onnxscript 0.7 lists all nodes of the
graph for every node of the graph before it looks at what the node is: the time grows with the square of their number.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from onnxscript import rewriter

if TYPE_CHECKING:
    import onnx_ir as ir


@functools.cache
def guard() -> None:
    """Try the rules whose pattern ends in several nodes only at nodes that can be the first of them."""
    for rule in getattr(rewriter, "_DEFAULT_REWRITE_RULES", ()):
        pattern = getattr(rule, "_target_pattern", None)
        if pattern is not None and not pattern.has_single_output_node:
            _guard(rule, pattern.output_nodes[0].op_identifier())


def _guard(rule: Any, first: tuple[str, str, str] | None) -> None:
    rewrite = rule.try_rewrite

    def try_rewrite(model: ir.Model, graph: ir.Graph | ir.Function, node: ir.Node, **options: Any) -> Any:
        if first is not None and node.op_identifier() != first:
            return None
        return rewrite(model, graph, node, **options)

    rule.try_rewrite = try_rewrite
