"""onnxscript's rules on large graphs: none lists the whole graph for every node."""

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import pytest
from onnxscript import rewriter

from exporters import rewrite_rules

RULES = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if not rule._target_pattern.has_single_output_node]


class Unlisted(ir.Graph):
    """A graph that must not be listed."""

    def __iter__(self) -> Iterator[ir.Node]:
        raise AssertionError("the graph was listed")


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_of_several_nodes_is_tried_only_where_it_can_begin(rule: Any) -> None:
    rewrite_rules.guard()
    domain, operator, overload = rule._target_pattern.output_nodes[0].op_identifier()
    other = ir.node("Relu", [ir.val("x")])
    first = ir.Node(domain, operator, [ir.val("x")], overload=overload)
    graph = Unlisted([], [], nodes=[])
    model: Any = None
    assert rule.try_rewrite(model, graph, other) is None
    with pytest.raises(AssertionError, match="listed"):
        rule.try_rewrite(model, graph, first)
