"""What a GPU has used, through NVML, where there is one and ``pynvml`` is installed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def _device() -> Any | None:
    """NVML and its first device."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # not installed, no driver, no device: there is nothing to read
        return None


def joules() -> float | None:
    """Energy of the first GPU since its driver was loaded; None where that cannot be read."""
    found = _device()
    if found is None:
        return None
    nvml, handle = found
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000.0
    except Exception:  # a GPU older than the counter
        return None
