"""The modules that an exporter recorded for the nodes of an ONNX file."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import onnx

from deploy.support import onnx_file

NEAR = 4
"""How many nodes a runtime fuses behind the one that it calls the result by: convolution, normalization, activation."""


def scope(node: onnx.NodeProto) -> str:
    """Return the module that a node belongs to, as the exporter recorded it; empty if it did not."""
    scopes = next((item.value for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"), "")
    if scopes:
        try:
            names = ast.literal_eval(scopes)
        except (ValueError, SyntaxError):
            names = []
        if isinstance(names, list) and len(names) > 1:
            return str(names[-2])
    traced = re.match(r"/(.+)/[^/]+$", node.name)  # the tracing exporter's /layer1/layer1.0/conv1/Conv
    return ".".join(traced[1].split("/")[-1:]) if traced else ""


def module_of_weight(stored: Sequence[str]) -> str:
    """Return the module that has the first weight among names of tensors: exporters name it ``layer1.0.conv1.weight``.

    It is empty without one. A weight in INT8 has the suffix ``_quantized``.
    """
    names = [name.removesuffix("_quantized") for name in stored]
    return next((name.removesuffix(".weight") for name in names if name.endswith(".weight")), "")


class LayerModules:
    """Finds the module of a layer that a runtime ran, by the runtime's name of it.

    Args:
        path: the file that ran; its external data is not read.
    """

    def __init__(self, path: Path) -> None:
        nodes = onnx_file.load(path).graph.node
        self._made_by = {name: node for node in nodes for name in node.output if name}
        self._named = {node.name: node for node in nodes if node.name}

    def of(self, layer: str, operator: str) -> str:
        """Return the module; empty where the file or the name does not tell.

        Args:
            layer: name of a node or of a result. Of a fused layer, runtimes keep the name of its last result.
            operator: its type, as the runtime calls it. A convolution that is called by the result of its activation
                belongs to the module of the convolution.
        """
        node = self._named.get(layer) or self._made_by.get(layer)
        if node is None:
            return ""
        before = node
        for _ in range(NEAR):
            if before.op_type in operator:
                return scope(before) or self._by_weight(before)
            if not before.input or before.input[0] not in self._made_by:
                break
            before = self._made_by[before.input[0]]
        return scope(node) or self._by_weight(node)

    def _by_weight(self, node: onnx.NodeProto) -> str:
        """Return the module whose weight a node has; INT8 files keep the names of weights, but not those of modules."""
        makers = [(name, self._made_by.get(name)) for name in node.input]
        return module_of_weight(
            [maker.input[0] if maker and maker.op_type == "DequantizeLinear" else name for name, maker in makers]
        )
