"""The floor under a latency: what the machine could do at best, from peaks that were measured on it.

The roofline of Williams, Waterman and Patterson (Communications of the ACM 52, 2009, p. 65): no run is shorter than its
operations at the peak of arithmetic, nor than its bytes at the peak of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineLimits:
    """What was measured.

    Attributes:
        threads: it was measured with.
        operations: a second, by precision; a multiply-add is two.
        bandwidth: bytes a second, by the size in bytes of what is read again and again: small sets lie in a cache.
        by: what reached each peak.
    """

    threads: int
    operations: Mapping[str, float]
    bandwidth: Mapping[int, float]
    by: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "threads": self.threads,
            "operations": dict(self.operations),
            "bandwidth": {str(size): value for size, value in self.bandwidth.items()},
            "by": dict(self.by),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MachineLimits:
        """The inverse of `to_dict`."""
        bandwidth = {int(size): float(value) for size, value in data["bandwidth"].items()}
        return cls(threads=data["threads"], operations=data["operations"], bandwidth=bandwidth, by=data["by"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one call must do.

    Attributes:
        operations: by precision.
        bytes: weights, inputs and outputs once.
        unknown: operators whose cost is not known, with their number; they are not in the floor.
    """

    operations: Mapping[str, int]
    bytes: int
    unknown: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """The shortest a call could be on this machine.

    Attributes:
        nanoseconds: the larger of ``compute_ns`` and ``memory_ns``.
        unknown: operators that it leaves out.
    """

    compute_ns: float
    memory_ns: float
    unknown: Mapping[str, int]

    @property
    def nanoseconds(self) -> float:
        """Of the whole."""
        return max(self.compute_ns, self.memory_ns)

    @property
    def bound(self) -> Literal["compute-bound", "memory-bound"]:
        """Which of the two holds it up."""
        return "compute-bound" if self.compute_ns >= self.memory_ns else "memory-bound"

    def to_dict(self, median_ns: float | None) -> dict[str, Any]:
        """Plain values for JSON, with the share of the attainable that a measured median is."""
        return {
            "floor_ns": self.nanoseconds,
            "compute_ns": self.compute_ns,
            "memory_ns": self.memory_ns,
            "bound": self.bound,
            "attained": None if median_ns is None else self.nanoseconds / median_ns,
            "unknown": dict(self.unknown),
        }


def floor(work: Work, limits: MachineLimits) -> Floor:
    """The floor of a call.

    Half precision is taken to be no slower than single: a runtime may compute it so. What is read is taken to lie in
    the fastest memory that holds it.

    Args:
        work: of the call.
        limits: of the machine.
    """
    peaks = dict(limits.operations)
    peaks["fp16"] = max(peaks.get("fp16", 0.0), peaks["fp32"])
    compute = sum(count / peaks.get(precision, peaks["fp32"]) for precision, count in work.operations.items())
    holds = max((size for size in limits.bandwidth if size <= work.bytes), default=0)
    bandwidth = max(value for size, value in limits.bandwidth.items() if size >= holds)
    return Floor(compute_ns=1e9 * compute, memory_ns=1e9 * work.bytes / bandwidth, unknown=work.unknown)
