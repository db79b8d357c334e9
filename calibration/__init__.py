"""Calibration and quantization of ONNX graphs to INT8.

The steps, each usable on its own: `prepare` a float32 graph, `collect` histograms of its activations over any iterable
of feeds, choose the ranges (`CalibrationTable.of`), `quantize` for a target.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.collector import Collector, batch_size, collect
    from calibration.graph import prepare
    from calibration.observations import Observations
    from calibration.table import CalibrationTable
    from calibration.target import Target, find_target, quantize
    from deploy.support.onnx_file import opset

__all__ = [
    "CalibrationTable",
    "Collector",
    "Observations",
    "Target",
    "batch_size",
    "collect",
    "find_target",
    "opset",
    "prepare",
    "quantize",
]

_MODULES = {
    "CalibrationTable": "calibration.table",
    "Collector": "calibration.collector",
    "Observations": "calibration.observations",
    "Target": "calibration.target",
    "batch_size": "calibration.collector",
    "collect": "calibration.collector",
    "find_target": "calibration.target",
    "opset": "deploy.support.onnx_file",
    "prepare": "calibration.graph",
    "quantize": "calibration.target",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'calibration' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
