"""Calibration and quantization of ONNX graphs to INT8.

The steps, each usable on its own: `prepare` a float32 graph, `collect` histograms of its activations over any iterable
of feeds, choose the ranges (`CalibrationTable.of`), `quantize` for a target, `tune` the
quantized layers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.collector import Collector as Collector
    from calibration.collector import batch_size as batch_size
    from calibration.collector import collect as collect
    from calibration.graph import prepare as prepare
    from calibration.observations import Observations as Observations
    from calibration.table import CalibrationTable as CalibrationTable
    from calibration.target import Target as Target
    from calibration.target import find_target as find_target
    from calibration.target import quantize as quantize
    from calibration.tuning import tune as tune
    from deploy.support.onnx_file import opset as opset

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
    "tune": "calibration.tuning",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'calibration' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
