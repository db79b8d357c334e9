"""Operations and memory traffic of a graph; `deploy.support.onnx_costs` counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Totals of a graph at one set of input sizes.

    Attributes:
        operations: arithmetic operations; a multiply-add is two.
        bytes: size of all operators' inputs and outputs.
        by_operator: operations per operator type.
        by_precision: operations per precision: ``int8`` (both operands are dequantized, which runtimes fuse),
            ``fp16``, ``fp32``; without the operations of Q and DQ nodes.
        minimum_bytes: size of weights, inputs and outputs, which must be moved even if everything is fused.
        unknown: number of nodes of unknown cost or shape, per operator.
        parameters: number of stored values of floating-point or 8-bit types (weights, quantized or not).
    """

    operations: int
    bytes: int
    by_operator: Mapping[str, int]
    by_precision: Mapping[str, int]
    minimum_bytes: int
    unknown: Mapping[str, int]
    parameters: int
