"""The score of a row of a report: top-1 accuracy, mAP or mIoU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELDS = ("top1", "top1_interval", "metric", "value", "interval", "images")
"""Fields of the accuracy of a row; those of a classifier have names of their own."""


def metric(accuracy: Mapping[str, Any]) -> str:
    """Return the name of a score."""
    return str(accuracy.get("metric", "top-1"))


def value(accuracy: Mapping[str, Any]) -> float:
    """Return a score as a share."""
    return float(accuracy["value"] if "metric" in accuracy else accuracy["top1"])


def interval(accuracy: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a score."""
    low, high = accuracy["interval"] if "metric" in accuracy else accuracy["top1_interval"]
    return float(low), float(high)
