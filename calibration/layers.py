"""Where the rounding hurts: the quantised graph's tensors beside the float graph's, layer by layer."""

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

from calibration._graph import initializers
from calibration._observe import plan
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


def layer_noise(model: onnx.ModelProto, quantised: onnx.ModelProto, feeds: Iterable[Feeds]) -> list[LayerNoise]:
    """Run both graphs without fusions and compare each layer's output; the worst first.

    Args:
        model: the float graph, as `calibration.prepare` returns it.
        quantised: made from it.
        feeds: batches of samples; only sums of squares are kept.
    """
    _, shared = plan(model)
    by_name = {node.name: node for node in model.graph.node}
    tensors = {name: shared.get(by_name[name].output[0], by_name[name].output[0]) for name in layers(model)}
    made = {name for node in quantised.graph.node for name in node.output}
    pairs = {tensor: tensor + _ROUNDED if tensor + _ROUNDED in made else tensor for tensor in tensors.values()}
    pairs = {tensor: other for tensor, other in pairs.items() if other in made}
    floats, rounded = _session(model, list(pairs)), _session(quantised, list(pairs.values()))
    signal, noise = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for batch in feeds:
        ours = _run(floats, batch, list(pairs))
        theirs = _run(rounded, batch, list(pairs.values()))
        for tensor, other in pairs.items():
            signal[tensor] += float(np.sum(np.square(ours[tensor], dtype=np.float64)))
            noise[tensor] += float(np.sum(np.square(ours[tensor] - theirs[other], dtype=np.float64)))
    found = [
        LayerNoise(
            layer=name, operator=by_name[name].op_type, tensor=tensor, sqnr_db=_decibels(signal[tensor], noise[tensor])
        )
        for name, tensor in tensors.items()
        if tensor in pairs
    ]
    return sorted(found, key=lambda item: item.sqnr_db)


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
