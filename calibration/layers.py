"""Quantization noise layer by layer: tensors of the quantized graph compared with those of the float graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from calibration.graph import is_large, tensors_to_observe, weighted_layers
from calibration.session import TensorSession
from deploy.core.runner import Feeds
from deploy.support.onnx_modules import module_of_weight

_DEQUANTIZED = "_DequantizeLinear_Output"
"""Suffix with which ONNX Runtime's quantizer names the dequantized version of a tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNoise:
    """Noise of one layer's output, or of the activation behind it, including the noise of all layers before it.

    Attributes:
        layer: name of the node.
        module: the model's module that has its weight; empty if the file does not tell.
    """

    layer: str
    operator: str
    tensor: str
    sqnr_db: float
    module: str = ""

    @property
    def label(self) -> str:
        """The module if it is known, and the node."""
        return f"{self.module} ({self.layer})" if self.module else self.layer


class NoiseMeter:
    """Runs both graphs without fusion and compares every layer's output, batch by batch.

    ``folder`` and ``quantized_folder`` hold their external data.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        quantized: onnx.ModelProto,
        *,
        folder: Path | None = None,
        quantized_folder: Path | None = None,
    ) -> None:
        _, shared = tensors_to_observe(model)
        nodes = {node.name: node for node in model.graph.node}
        layers = [nodes[name] for name in weighted_layers(model)]
        outputs = {name for node in quantized.graph.node for name in node.output}
        self._layers = [(node, shared.get(node.output[0], node.output[0])) for node in layers]
        self._quantized_names: dict[str, str] = {}
        for _, tensor in self._layers:
            dequantized = tensor + _DEQUANTIZED
            name = dequantized if dequantized in outputs else tensor
            if name in outputs:
                self._quantized_names[tensor] = name
        low_memory = is_large(model)
        self._float_session = TensorSession(
            model, list(self._quantized_names), fusion=False, folder=folder, low_memory=low_memory
        )
        self._quantized_session = TensorSession(
            quantized,
            list(self._quantized_names.values()),
            fusion=False,
            folder=quantized_folder,
            low_memory=low_memory,
        )
        self._signal = dict.fromkeys(self._quantized_names, 0.0)
        self._noise = dict.fromkeys(self._quantized_names, 0.0)

    def add(self, batch: Feeds) -> None:
        """Compare the graphs on one batch."""
        expected, actual = self._float_session.run(batch), self._quantized_session.run(batch)
        for tensor, name in self._quantized_names.items():
            signal = expected.pop(tensor)
            self._signal[tensor] += float(np.sum(np.square(signal, dtype=np.float64)))
            self._noise[tensor] += float(np.sum(np.square(signal - actual[name], dtype=np.float64)))

    def finish(self) -> list[LayerNoise]:
        """Return the noise of every layer, the noisiest first."""
        noise = [
            LayerNoise(
                layer=node.name,
                operator=node.op_type,
                tensor=tensor,
                module=module_of_weight(node.input),
                sqnr_db=_decibels(self._signal[tensor], self._noise[tensor]),
            )
            for node, tensor in self._layers
            if tensor in self._quantized_names
        ]
        return sorted(noise, key=lambda item: item.sqnr_db)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf
