"""New parameters of layers, from which their INT8 parameters are made; float layers keep theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]

_PARAMETERS = (("weight", 1), ("bias", 2))
"""Parameters and the inputs of a layer that they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adjustment:
    """New float32 parameters of a layer; None for those of the graph."""

    weight: Array | None = None
    bias: Array | None = None


Adjustments = Mapping[str, Adjustment]
"""By the name of the layer."""


def apply(model: onnx.ModelProto, adjustments: Adjustments) -> None:
    """Give layers their new parameters, in place; the parameters get names of their own."""
    for node in model.graph.node:
        adjustment = adjustments.get(node.name)
        for kind, index in _PARAMETERS if adjustment is not None else ():
            value = getattr(adjustment, kind)
            if value is None:
                continue
            name = f"{node.output[0]}_adjusted_{kind}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
            if len(node.input) <= index:
                node.input.append(name)
            else:
                node.input[index] = name


def save(adjustments: Adjustments, path: Path) -> None:
    """Write adjustments to an ``.npz`` file."""
    arrays: dict[str, Any] = {}
    for index, (layer, item) in enumerate(adjustments.items()):
        arrays[f"{index}:layer"] = np.array(layer)
        arrays.update(
            {f"{index}:{kind}": value for kind, _ in _PARAMETERS if (value := getattr(item, kind)) is not None}
        )
    np.savez(path, **arrays)


def load(path: Path) -> dict[str, Adjustment]:
    """Read the file that `save` wrote."""
    with np.load(path) as arrays:
        return {
            str(arrays[name]): Adjustment(
                **{kind: arrays[key] for kind, _ in _PARAMETERS if (key := name.replace("layer", kind)) in arrays}
            )
            for name in arrays.files
            if name.endswith(":layer")
        }
