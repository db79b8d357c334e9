"""Energy of an NVIDIA GPU, read through NVML (package ``nvidia-ml-py``)."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def _device() -> Any | None:
    """Return NVML and its first device; None without package, driver or GPU."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:
        return None


def joules() -> float | None:
    """Return the energy in joules that the first GPU has used since its driver was loaded; None if unknown."""
    found = _device()
    if found is None:
        return None
    nvml, handle = found
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000.0
    except Exception:  # the GPU is older than the counter
        return None
