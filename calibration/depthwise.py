"""Activations of depthwise convolutions with a range for each channel, for runtimes that compute them in INT8.

An output channel of a depthwise convolution reads one input channel, so that its accumulator needs one scale whatever
the other channels use; a small channel is then not rounded to the steps of the largest. NNCF quantizes these inputs for
OpenVINO in this way (Kozlov, Lazarevich, Shamporov, Lyalyushkin, Gorbachev, "Neural Network Compression Framework for
Fast Model Inference", 2020).
"""

from __future__ import annotations

import numpy as np
import onnx

from calibration.graph import attribute
from calibration.grid import Grid
from calibration.table import CalibrationTable


def channel_scales(model: onnx.ModelProto, table: CalibrationTable, grid: Grid) -> None:
    """Give the inputs of depthwise convolutions in a quantized graph a scale for each channel, in place.

    The range of a channel is what the channel uses of the range of its tensor.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    ranges = table.ranges(grid)
    for node in list(graph.node):
        dequantize = producers.get(node.input[0]) if node.op_type == "Conv" else None
        quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
        if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        tensor = quantize.input[0]
        channels = table.channels.get(tensor)
        if channels is None or attribute(node, "group", 1) != len(channels.low):
            continue
        low, high = ranges[tensor]
        spans = [
            grid.around(max(low, least), min(high, most))
            for least, most in zip(channels.low, channels.high, strict=True)
        ]
        widths = np.array([(end - start) / grid.steps for start, end in spans])
        scale = np.where(widths > 0.0, widths, (high - low) / grid.steps or 1.0).astype(np.float32)
        zero = np.rint(-np.array([start for start, _ in spans]) / scale) * (not grid.symmetric)
        stem = f"{node.input[0]}_channels"
        if f"{stem}_q" not in producers:
            kind = np.int8 if grid.symmetric else np.uint8
            graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{stem}_scale"))
            graph.initializer.append(onnx.numpy_helper.from_array(zero.astype(kind), f"{stem}_zero_point"))
            parameters = [f"{stem}_scale", f"{stem}_zero_point"]
            pair = [
                onnx.helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{stem}_q"], f"{stem}_q", axis=1),
                onnx.helper.make_node("DequantizeLinear", [f"{stem}_q", *parameters], [stem], stem, axis=1),
            ]
            position = [item.name for item in graph.node].index(quantize.name)
            for offset, item in enumerate(pair):
                graph.node.insert(position + offset, item)
            producers[f"{stem}_q"] = pair[0]
        node.input[0] = stem
    _drop_unread(model)


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove Q/DQ pairs that no node reads any more."""
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in model.graph.node for name in node.input}
        read |= {value.name for value in model.graph.output}
        for node in [node for node in model.graph.node if node.op_type == kind and node.output[0] not in read]:
            model.graph.node.remove(node)
