"""Where the rounding hurts: the quantized graph's tensors beside the float graph's, layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.graph import initializers
from calibration.observe import plan
from calibration.sensitivity import layers
from deploy.core.runner import Feeds

Array = NDArray[Any]

_ROUNDED = "_DequantizeLinear_Output"
"""What ONNX Runtime's quantizer appends to a tensor's name for its rounded version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNoise:
    """One layer's output, with all the rounding before it.

    Attributes:
        layer: name of the node; ``operator`` its type; ``tensor`` its output, or what its activation makes of it.
        sqnr_db: signal to noise in dB, the signal being the tensor itself.
    """

    layer: str
    operator: str
    tensor: str
    sqnr_db: float


class NoiseMeter:
    """Runs both graphs without fusions and compares each layer's output, batch by batch; only sums are kept.

    Args:
        model: the float graph, as `calibration.prepare` returns it.
        quantized: made from it.
    """

    def __init__(self, model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        _, shared = plan(model)
        self._by_name = {node.name: node for node in model.graph.node}
        outputs = {name: self._by_name[name].output[0] for name in layers(model)}
        self._tensors = {name: shared.get(output, output) for name, output in outputs.items()}
        made = {name for node in quantized.graph.node for name in node.output}
        pairs = {item: item + _ROUNDED if item + _ROUNDED in made else item for item in self._tensors.values()}
        self._pairs = {tensor: other for tensor, other in pairs.items() if other in made}
        self._floats = _session(model, list(self._pairs))
        self._rounded = _session(quantized, list(self._pairs.values()))
        self._signal, self._noise = dict.fromkeys(self._pairs, 0.0), dict.fromkeys(self._pairs, 0.0)

    def add(self, batch: Feeds) -> None:
        """Compare on one batch."""
        ours = _run(self._floats, batch, list(self._pairs))
        theirs = _run(self._rounded, batch, list(self._pairs.values()))
        for tensor, other in self._pairs.items():
            self._signal[tensor] += float(np.sum(np.square(ours[tensor], dtype=np.float64)))
            self._noise[tensor] += float(np.sum(np.square(ours[tensor] - theirs[other], dtype=np.float64)))

    def finish(self) -> list[LayerNoise]:
        """Every layer's noise, the worst first."""
        found = [
            LayerNoise(
                layer=name,
                operator=self._by_name[name].op_type,
                tensor=tensor,
                sqnr_db=_decibels(self._signal[tensor], self._noise[tensor]),
            )
            for name, tensor in self._tensors.items()
            if tensor in self._pairs
        ]
        return sorted(found, key=lambda item: item.sqnr_db)


def layer_noise(model: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Iterable[Feeds]) -> list[LayerNoise]:
    """Every layer's noise over batches of samples, in this process; see `NoiseMeter`."""
    meter = NoiseMeter(model, quantized)
    for batch in feeds:
        meter.add(batch)
    return meter.finish()


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf


def _session(model: onnx.ModelProto, wanted: list[str]) -> ort.InferenceSession:
    opened = copy.deepcopy(model)
    given = {value.name for value in opened.graph.output} | set(initializers(opened))
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(opened.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, batch: Mapping[str, Array], wanted: list[str]) -> dict[str, Array]:
    return dict(zip(wanted, session.run(wanted, dict(batch)), strict=True))
