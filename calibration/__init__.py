"""Calibration: what values flow through a graph, and where it is rounded to eight bits for each target.

The steps, each usable on its own: `prepare` a float graph, `collect` histograms over any iterable of feeds, choose the
ranges (`CalibrationTable.of`), `quantize` for a target.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.collecting import Collector, Observations, batch_size, collect
    from calibration.graph import opset, prepare
    from calibration.table import CalibrationTable
    from calibration.target import quantize

__all__ = ["CalibrationTable", "Collector", "Observations", "batch_size", "collect", "opset", "prepare", "quantize"]

_HOMES = {
    "CalibrationTable": "calibration.table",
    "Collector": "calibration.collecting",
    "Observations": "calibration.collecting",
    "batch_size": "calibration.collecting",
    "collect": "calibration.collecting",
    "opset": "calibration.graph",
    "prepare": "calibration.graph",
    "quantize": "calibration.target",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'calibration' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
