"""Heads with switches for export, as the detection heads of ultralytics have them.

``export`` returns the decoded boxes only, ``dynamic`` computes the anchors in every call instead of keeping those of
the first image size, and ``format`` selects operators that the format has.
"""

from __future__ import annotations

from typing import Any

import torch

WHAT = "its switches for export are set"


def applies(module: torch.nn.Module) -> bool:
    """Return whether a module has the switch ``export``, which is off, and one of the others."""
    others = isinstance(getattr(module, "dynamic", None), bool) or isinstance(
        getattr(module, "format", 0), str | type(None)
    )
    return getattr(module, "export", None) is False and others


def apply(module: torch.nn.Module) -> None:
    """Set the switches that a module has."""
    values: dict[str, Any] = {"export": True, "dynamic": True, "format": "onnx"}
    for name, value in values.items():
        if hasattr(module, name):
            setattr(module, name, value)
