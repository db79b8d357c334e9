"""What the layers of a built engine compute in, read from the inspector's JSON (TensorRT 10 and 11, and for RTX)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

_WORDS = {
    "int8": "int8",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "half": "fp16",
    "fp16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
}
"""What the inspector's descriptions of a type hold, and its name here; the first that is found decides."""

_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format")
"""Where a tensor's type stands: of its own since TensorRT 11, within the format's description before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """An engine's layers and weights by what they are in.

    Attributes:
        layers: how many compute in which type: that of the weights where a layer has some, else of its first input.
        weights: how many values are stored in which type.
        unknown: layers of which the engine does not say it; all of them where it was built without that detail.
    """

    layers: Mapping[str, int]
    weights: Mapping[str, int]
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def shares(text: str) -> Shares:
    """Read what ``EngineInspector.get_engine_information`` gave as JSON.

    Raises:
        ValueError: it is no such JSON.
    """
    layers: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    unknown = 0
    for layer in json.loads(text).get("Layers", []):
        stored = list(_stored(layer)) if isinstance(layer, dict) else []
        for name, count in stored:
            weights[name] += count
        kind = stored[0][0] if stored else _first(layer) if isinstance(layer, dict) else None
        if kind is None:
            unknown += 1
        else:
            layers[kind] += 1
    return Shares(layers=dict(layers), weights=dict(weights), unknown=unknown)


def _stored(layer: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    values = layer.get("Weights")
    if isinstance(values, dict) and values.get("Count"):
        kind = _kind(str(values.get("Type", "")))
        if kind is not None:
            yield kind, int(values["Count"])


def _first(layer: Mapping[str, Any]) -> str | None:
    for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]:
        for key in _KEYS:
            kind = _kind(str(tensor.get(key, ""))) if isinstance(tensor, dict) else None
            if kind is not None:
                return kind
    return None


def _kind(text: str) -> str | None:
    return next((name for word, name in _WORDS.items() if word in text.lower()), None)
