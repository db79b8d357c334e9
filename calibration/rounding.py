"""Rounding of weights by the error at the output of their layer, not by the error of each weight.

To the nearest integer is not the best rounding: the errors of the weights of one output channel can cancel each other
(Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020).
The expected squared error of a channel is ``e H e``, where ``e`` are the errors of its weights and ``H`` is the
covariance of the layer's inputs; the mean of the inputs is left to bias correction. Weights are rounded one after
another, those with the largest variance first, and the weights still to round make up for each error (Frantar,
Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022).
That takes one pass over the weights and no gradients. Scales stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.adjustment import Adjustment
from calibration.graph import attribute
from calibration.walk import Visit, along, open_session

Array = NDArray[Any]

MAX_INPUTS = 4608
"""Weights of an output channel up to which a layer is rounded this way: 3 × 3 × 512; the time grows with the cube."""

DAMPING = 0.01
"""Share of the mean variance that is added to every variance, as in GPTQ."""

_ROWS, _ROWS_PER_INPUT = (2048, 16384), 8
"""Bounds and number of positions from which a covariance is estimated."""

_BLOCK = 128
"""Weights that are rounded before the others make up for their errors."""


def round_weights(visit: Visit, model: onnx.ModelProto) -> None:
    """Round the weights of the visited layer, and run the layer with them."""
    layout = _Layout(visit)
    if visit.node.op_type not in ("Conv", "Gemm", "MatMul") or visit.weight.ndim < 2 or layout.inputs > MAX_INPUTS:
        return
    integers = _rounded(layout, _covariance(layout))
    weight = layout.restored(integers) * along(visit.scale, visit.axis, visit.weight.ndim).astype(np.float32)
    visit.adjustment = Adjustment(weight=weight.astype(np.float32))
    visit.actual = _run(visit, weight.astype(np.float32), model)


class _Layout:
    """Weights as (groups, outputs, inputs) and the inputs of a layer as rows of the same order."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.convolution = visit.node.op_type == "Conv"
        self.transposed = not self.convolution and not attribute(visit.node, "transB", 0)
        self.groups = attribute(visit.node, "group", 1) if self.convolution else 1
        shape = visit.weight.T.shape if self.transposed else visit.weight.shape
        self.outputs, self.inputs = shape[0] // self.groups, int(np.prod(shape[1:]))

    def grouped(self, values: Array) -> Array:
        return (values.T if self.transposed else values).reshape(self.groups, self.outputs, self.inputs)

    def restored(self, values: Array) -> Array:
        shape = self.visit.weight.shape
        return values.reshape(shape[::-1]).T if self.transposed else values.reshape(shape)

    def rows(self, value: Array, count: int, rng: np.random.Generator) -> Array:
        """Return the inputs of some positions of a batch, (groups, positions, inputs)."""
        if not self.convolution:
            flat = (value.T if attribute(self.visit.node, "transA", 0) else value).reshape(-1, self.inputs)
            rows: Array = flat[None, rng.choice(len(flat), min(count, len(flat)), replace=False)]
            return rows
        node, spatial = self.visit.node, self.visit.weight.ndim - 2
        kernel, pads = self.visit.weight.shape[2:], attribute(node, "pads", [0] * 2 * spatial)
        strides, dilations = attribute(node, "strides", [1] * spatial), attribute(node, "dilations", [1] * spatial)
        padded = np.pad(value, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
        extent = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        axes = tuple(range(2, 2 + spatial))
        windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=axes)
        steps = (slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))
        windows = np.moveaxis(windows[steps], 1, 1 + spatial)  # (N, *out, C, *kernel)
        sizes = windows.shape[: 1 + spatial]
        total = int(np.prod(sizes))
        chosen: Array = windows[np.unravel_index(rng.choice(total, min(count, total), replace=False), sizes)]
        grouped: Array = chosen.reshape(len(chosen), self.groups, self.inputs).transpose(1, 0, 2)
        return grouped


def _covariance(layout: _Layout) -> Array:
    """Return the covariance of the inputs of each group, (groups, inputs, inputs), float64."""
    rng = np.random.default_rng(0)
    batches = layout.visit.inputs
    count = int(np.clip(_ROWS_PER_INPUT * layout.inputs, *_ROWS)) // len(batches) + 1
    rows = np.concatenate([layout.rows(value, count, rng) for value in batches], axis=1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    covariance: Array = (rows.transpose(0, 2, 1) @ rows).astype(np.float64) / rows.shape[1]
    return covariance


def _rounded(layout: _Layout, covariance: Array) -> Array:
    """Return the integers, (groups, outputs, inputs).

    The largest weight of each channel stays as it is, since its scale is computed from it.
    """
    visit, size = layout.visit, layout.inputs
    variance = np.einsum("gkk->gk", covariance)
    damping = DAMPING * variance.mean(axis=1) + np.finfo(np.float32).tiny
    order = np.argsort(-variance, axis=1, kind="stable")
    group = np.arange(layout.groups)[:, None]
    damped = (covariance + damping[:, None, None] * np.eye(size))[group[:, :, None], order[:, :, None], order[:, None]]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    nearest = np.take_along_axis(layout.grouped(visit.integers).astype(np.float64), order[:, None], axis=2)
    scale = layout.grouped(np.broadcast_to(along(visit.scale, visit.axis, visit.weight.ndim), visit.weight.shape))
    step = scale[:, :, :1].astype(np.float64)
    weights = np.take_along_axis(layout.grouped(visit.weight).astype(np.float64), order[:, None], axis=2) / step
    largest = np.abs(nearest).max(axis=2, keepdims=True)
    fixed = np.abs(nearest) == largest
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.zeros((*weights.shape[:2], end - start))
        for index in range(start, end):
            value = np.clip(np.rint(weights[:, :, index]), -largest[:, :, 0], largest[:, :, 0])
            value = np.where(fixed[:, :, index], nearest[:, :, index], value)
            nearest[:, :, index] = value
            error = (weights[:, :, index] - value) / upper[:, index, index, None]
            weights[:, :, index:end] -= error[:, :, None] * upper[:, None, index, index:end]
            errors[:, :, index - start] = error
        weights[:, :, end:] -= errors @ upper[:, start:end, end:]
    return np.take_along_axis(nearest, np.argsort(order, axis=1)[:, None], axis=2)


def _run(visit: Visit, weight: Array, model: onnx.ModelProto) -> list[Array]:
    """Run the layer with another weight on the inputs of the quantized layer."""
    node = onnx.NodeProto()
    node.CopyFrom(visit.node)
    node.input[0], node.input[1] = "x", "weight"
    stored = [onnx.numpy_helper.from_array(weight, "weight")]
    if visit.bias is not None:
        node.input[2] = "bias"
        stored.append(onnx.numpy_helper.from_array(visit.bias, "bias"))
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [onnx.ValueInfoProto(name=node.output[0])],
        stored,
    )
    session = open_session(model, graph, fusion=True)
    return [session.run(None, {"x": value})[0] for value in visit.inputs]
