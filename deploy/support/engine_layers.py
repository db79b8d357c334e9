"""Precisions of an engine's layers, read from the inspector's JSON (TensorRT 10 and 11, TensorRT for RTX)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_TYPES = {
    "int8": "int8",
    "fp8": "fp8",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
}
"""Precision by a part of the inspector's description of a type; the first match counts."""

_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")
"""Keys that may describe a tensor's type: its own key since TensorRT 11, part of the format before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Numbers of an engine's layers and weights per precision.

    Attributes:
        layers: number of layers per precision: that of a layer's weights if it has some, else of its first input.
        weights: number of stored values per precision.
        unknown: number of layers of unknown precision; all layers if the engine was built without this detail.
    """

    layers: Mapping[str, int]
    weights: Mapping[str, int]
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def shares(text: str) -> Shares:
    """Count layers and weights per precision in the JSON of ``EngineInspector.get_engine_information``."""
    layers: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    unknown = 0
    kind: str | None
    for layer in json.loads(text).get("Layers", []):
        stored = _stored(layer) if isinstance(layer, dict) else None
        if stored is not None:
            kind, count = stored
            weights[kind] += count
        else:
            kind = _tensors(layer) if isinstance(layer, dict) else None
        if kind is None:
            unknown += 1
        else:
            layers[kind] += 1
    return Shares(layers=dict(layers), weights=dict(weights), unknown=unknown)


def _stored(layer: Mapping[str, Any]) -> tuple[str, int] | None:
    values = layer.get("Weights")
    if isinstance(values, dict) and values.get("Count"):
        kind = _kind(str(values.get("Type", "")))
        if kind is not None:
            return kind, int(values["Count"])
    return None


def _tensors(layer: Mapping[str, Any]) -> str | None:
    """Return the precision of a layer's first input or output that has one."""
    for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]:
        for key in _KEYS:
            kind = _kind(str(tensor.get(key, ""))) if isinstance(tensor, dict) else None
            if kind is not None:
                return kind
    return None


def _kind(text: str) -> str | None:
    return next((name for word, name in _TYPES.items() if word in text.lower()), None)
