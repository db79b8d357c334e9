"""A graph in half precision, run as its types say: every result of a node is rounded to float16 or bfloat16.

Runtimes without half-precision kernels for a processor may leave out the conversions between nodes, as ONNX Runtime
does on x86: then nothing is rounded but weights, and nothing overflows. Here each node computes in float32 from
operands in half precision, sums included, and its results are rounded, as by kernels that accumulate in float32.
"""

from __future__ import annotations

from typing import Any

import torch

from deploy.onnx_graph.graph import OnnxModule, Step
from deploy.onnx_graph.node import Values

HALVES = (torch.float16, torch.bfloat16)

TYPED = frozenset(("Cast", "CastLike", "QuantizeLinear", "ConstantOfShape", "EyeLike"))
"""Operators whose results have a type of their own."""


class RoundedModule(OnnxModule):
    """A graph whose nodes in half precision compute in float32 and round their results."""

    def compute(self, step: Step, scope: Values, *inputs: Any) -> tuple[Any, ...]:
        """Return the results of one node."""
        if step.scoped or step.node.operator in TYPED or not any(map(_is_half, inputs)):
            return super().compute(step, scope, *inputs)
        floats = [value for value in inputs if isinstance(value, torch.Tensor) and value.is_floating_point()]
        wide = [value.float() if _is_half(value) else value for value in inputs]
        results = super().compute(step, scope, *wide)
        if floats[0].dtype not in HALVES:
            return results
        return tuple(
            value.to(floats[0].dtype) if isinstance(value, torch.Tensor) and value.dtype is torch.float32 else value
            for value in results
        )


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in HALVES
