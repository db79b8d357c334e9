"""What runs an artifact on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.support.cuda_driver import gpus

ONNX = "onnx"
ENGINE = "engine"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A backend with its options, under a name for programs and in words for people."""

    name: str
    backend: str
    words: str
    options: Mapping[str, Any] = field(default_factory=dict)


ONNX_RUNTIME = Runtime(name="onnxruntime", backend="onnxruntime", words="ONNX Runtime")
OPENVINO = Runtime(name="openvino", backend="openvino", words="OpenVINO")
TENSORRT = Runtime(name="tensorrt", backend="tensorrt", words="TensorRT")
SIMULATED = Runtime(
    name="simulated",
    backend="onnxruntime",
    words="ONNX Runtime without fusions, as a prediction",
    options={"optimization": "none"},
)
"""For targets that cannot run here: every Q/DQ is computed as it is written, which is what the target fuses."""


def runtime_of(format: str, target: str | None) -> Runtime | None:
    """What runs a file of this format, made for this target; None where nothing here does."""
    if format == ENGINE:
        return TENSORRT if gpus() else None
    if format != ONNX:
        return None
    if target in (None, "onnxruntime"):
        return ONNX_RUNTIME
    if target == "openvino" and importlib.util.find_spec("openvino"):
        return OPENVINO
    return SIMULATED
