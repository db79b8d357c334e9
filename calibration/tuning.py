"""Adjustment of the layers of a quantized graph, by one walk over it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from calibration.adjustment import Adjustment
from calibration.bias_correction import correct
from calibration.rounding import round_weights
from calibration.walk import walk
from deploy.core.runner import Feeds


def tune(
    model: onnx.ModelProto, quantized: onnx.ModelProto, batches: Iterable[Feeds], *, rounding: bool = False
) -> dict[str, Adjustment]:
    """Return new parameters for the layers of a graph, whose quantized version then has a smaller error.

    Args:
        model: a graph from `calibration.prepare`, with its weights.
        quantized: the same from `calibration.quantize`.
        batches: samples; `calibration.walk.walk_samples` tells how many fit into memory.
        rounding: round weights by the error of their layer too, which takes longer.
    """
    adjustments = {}
    for visit in walk(model, quantized, batches):
        if rounding:
            round_weights(visit, model)
        correct(visit)
        if visit.adjustment is not None:
            adjustments[visit.node.name] = visit.adjustment
    return adjustments
