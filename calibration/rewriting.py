"""Rewriting of a prepared graph for quantization; the function stays the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from calibration.equalization import between_convolutions, equalize
from calibration.migration import measure
from calibration.smoothing import behind_norms, smooth
from deploy.core.runner import Feeds


def scalable(model: onnx.ModelProto) -> dict[str, int]:
    """Return the tensors of a prepared graph whose channels can be scaled, with the axis of the channels."""
    return {**dict.fromkeys(between_convolutions(model), 1), **dict.fromkeys(behind_norms(model), -1)}


def rewrite(model: onnx.ModelProto, batches: Iterable[Feeds]) -> dict[str, list[str]]:
    """Equalize and smooth a prepared graph in place.

    Args:
        model: a graph from `calibration.prepare`, with its weights.
        batches: calibration samples; not read if the graph has nothing to rewrite.

    Returns:
        The tensors whose channels were scaled, by the name of the method.
    """
    axes = scalable(model)
    if not axes:
        return {}
    sizes = measure(model, axes, batches)
    found = {"equalization": equalize(model, sizes), "SmoothQuant": smooth(model, sizes)}
    return {name: tensors for name, tensors in found.items() if tensors}
