"""A calibration target: an accelerator with symmetric int8 arithmetic that adds in float16."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from calibration.grid import Grid, Range
from calibration.target import QdqRules, Target

if TYPE_CHECKING:
    import onnx

RULES = QdqRules(grid=Grid(symmetric=True), operators=("Conv", "Gemm"), outputs=False, bias=False)


def quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], features: Collection[str]
) -> onnx.ModelProto:
    """Return a copy of the graph with Q/DQ pairs before every convolution and linear layer."""
    from calibration.qdq import insert

    return insert(model, ranges, RULES, keep_float)


TARGET = Target(name="tiny-npu", title="Tiny NPU", grid=RULES.grid, quantize=quantize, half=True)
