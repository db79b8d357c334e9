"""What a deployment must keep: accuracy, latency, size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deploy.bench.cells import PlannedCell

MAX_DROP = 0.5
"""Percentage points of top-1 accuracy, mAP or mIoU that INT8 may lose by default, where the data shows them."""

MIN_SQNR = 30.0
"""Lowest signal-to-quantization-noise ratio of INT8 by default, in dB, where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploymentBounds:
    """Bounds on a deployment; None is no bound.

    Attributes:
        max_drop: largest drop of top-1 accuracy, mAP or mIoU by INT8, in percentage points.
        min_sqnr: lowest signal-to-quantization-noise ratio of INT8, in dB.
        max_latency_ms: longest latency of a call, in milliseconds; the whole interval must be below.
        max_bytes: largest size of the files.
    """

    max_drop: float | None = None
    min_sqnr: float | None = None
    max_latency_ms: float | None = None
    max_bytes: int | None = None

    def broken_by(self, plan: PlannedCell) -> str:
        """Return why a candidate is left out before it is timed; empty if it is not."""
        size = int(plan.about.get("bytes") or 0)
        if self.max_bytes is not None and size > self.max_bytes:
            return f"{size:,} bytes, above {self.max_bytes:,}"
        if plan.cell.precision == "int8" and self.min_sqnr is not None:
            lowest = min(_ratios(plan), default=None)
            if lowest is not None and lowest < self.min_sqnr:
                return f"SQNR {lowest:.1f} dB, below {self.min_sqnr:g}"
        return ""


def _ratios(plan: PlannedCell) -> Iterator[float]:
    for item in (plan.evidence or {}).get("outputs", ()):
        if item.get("sqnr_db") is not None:
            yield float(item["sqnr_db"])
