"""The floor under a latency: the roofline of this machine, from peak rates measured on it.

Roofline model: Williams, Waterman and Patterson, Communications of the ACM 52, 2009, p. 65. A call takes at least its
operations at peak arithmetic, and at least its bytes at peak memory bandwidth.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploy.core.backend import ONNX, RunSettings, backends
from deploy.core.environment import machine, versions
from deploy.core.errors import BackendError
from deploy.core.names import LIMITS
from deploy.core.progress import Progress
from deploy.core.regular import read_document
from deploy.core.store import Store, json_files, write_file
from deploy.support.onnx_child import OnnxChild

if TYPE_CHECKING:
    from deploy.bench.cells import PlannedCell
    from deploy.bench.records import CellRecord

BANDWIDTH = "deploy.bench.bandwidth"
"""Runner module that reads memory."""

BF16 = "bf16"
"""No peak rate of it is measured."""
SECONDS = 0.3
SIZES = tuple(2**power for power in (16, 18, 20, 22, 24, 26, 28))
"""Bytes of the arrays that are read: 64 KiB to 256 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineLimits:
    """Peak rates of a machine.

    Attributes:
        threads: threads used for the measurement.
        operations: operations per second by precision; a multiply-add counts as two.
        bandwidth: bytes per second by the size in bytes of the array read; small arrays fit in a cache.
        by: what reached each peak.
    """

    threads: int
    operations: Mapping[str, float]
    bandwidth: Mapping[int, float]
    by: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "bandwidth": {str(size): value for size, value in self.bandwidth.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MachineLimits:
        """Build it from the result of `to_dict`."""
        bandwidth = {int(size): float(value) for size, value in data["bandwidth"].items()}
        return cls(threads=data["threads"], operations=data["operations"], bandwidth=bandwidth, by=data["by"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Work of one call.

    Attributes:
        operations: by precision.
        bytes: bytes of weights, inputs and outputs, each counted once.
        unknown: number of operators of unknown cost, by type; the floor leaves them out.
    """

    operations: Mapping[str, int]
    bytes: int
    unknown: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """The shortest possible latency on this machine: operations at peak arithmetic, or bytes at peak bandwidth."""

    compute_ns: float
    memory_ns: float
    unknown: Mapping[str, int]

    @property
    def nanoseconds(self) -> float:
        """The larger of the two bounds."""
        return max(self.compute_ns, self.memory_ns)

    @property
    def bound(self) -> Literal["compute-bound", "memory-bound"]:
        """Which bound is the larger one."""
        return "compute-bound" if self.compute_ns >= self.memory_ns else "memory-bound"

    def to_dict(self, median_ns: float | None) -> dict[str, Any]:
        """Return plain values for JSON, with the attained share of the floor where the median latency is known."""
        return {
            "floor_ns": self.nanoseconds,
            "compute_ns": self.compute_ns,
            "memory_ns": self.memory_ns,
            "bound": self.bound,
            "attained": None if median_ns is None else self.nanoseconds / median_ns,
            "unknown": dict(self.unknown),
        }


def floor(work: Work, limits: MachineLimits) -> Floor:
    """Return the floor of a call.

    FP16 is assumed to be no slower than FP32, since a runtime may compute it in FP32. Data is assumed to be in the
    fastest memory level that holds it.
    """
    peaks = dict(limits.operations)
    peaks["fp16"] = max(peaks.get("fp16", 0.0), peaks["fp32"])
    compute = sum(count / peaks.get(precision, peaks["fp32"]) for precision, count in work.operations.items())
    level = max((size for size in limits.bandwidth if size <= work.bytes), default=0)
    bandwidth = max(value for size, value in limits.bandwidth.items() if size >= level)
    return Floor(compute_ns=1e9 * compute, memory_ns=1e9 * work.bytes / bandwidth, unknown=work.unknown)


def floor_of(record: CellRecord, limits: MachineLimits) -> Floor | None:
    """Return the floor of a recorded cell; None where its work, or the peak rate of its precision, is unknown."""
    work = record.about.get("work")
    return None if work is None or record.cell.precision == BF16 else floor(Work(**work), limits)


def work_of(plan: PlannedCell, store: Store) -> dict[str, Any]:
    """Return the work of one call for the cell's record: from its file, or from the float export for PyTorch.

    Returns:
        ``work`` (see `Work`) and ``parameters``; empty where no file tells.
    """
    path = plan.path if plan.path is not None and plan.path.suffix == ".onnx" else _float_export(plan, store)
    if path is None:
        return {}
    with OnnxChild() as child:
        found = child.costs(path, plan.cell.sizes)
    work = Work(operations=found.by_precision, bytes=found.minimum_bytes, unknown=found.unknown)
    return {"work": asdict(work), "parameters": found.parameters}


def _float_export(plan: PlannedCell, store: Store) -> Path | None:
    if plan.path is not None:  # the arithmetic of an engine differs from that of the float export
        return None
    for item in store.artifacts(plan.cell.slug):
        manifest = item.manifest
        if (manifest.format, manifest.precision, manifest.target) == (ONNX, "fp32", None):
            return item.path
    return None


def machine_limits(threads: int, store: Store, progress: Progress, *, again: bool = False) -> MachineLimits:
    """Return the peak rates of this machine; those of an earlier run where machine and versions are the same.

    Raises:
        BackendError: nothing could be measured.
    """
    key = {"machine": machine(), "versions": versions(), "threads": threads}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = store.root / LIMITS / f"{digest}.json"
    if path.exists() and not again:
        try:
            return MachineLimits.from_dict(json.loads(read_document(path))["limits"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            progress.note(f"{path}: damaged; measuring the peak rates of this machine again")
    with progress.stage("measuring the peak rates of this machine"):
        limits = _measure(threads)
    write_file(path, (json.dumps({**key, "limits": limits.to_dict()}, indent=1) + "\n").encode(), depth=1)
    return limits


def stored_limits(root: Path) -> list[tuple[Mapping[str, Any], MachineLimits]]:
    """Return all recorded peak rates with the description of their machine, newest first; damaged files are skipped."""
    found = []
    for path in sorted(json_files(root / LIMITS), key=_written, reverse=True):
        try:
            document = json.loads(read_document(path))
            found.append((document["machine"], MachineLimits.from_dict(document["limits"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process replaced the file
        return 0.0


def _measure(threads: int) -> MachineLimits:
    from deploy.support import peak_graphs  # imports onnx

    operations: dict[str, float] = {}
    by: dict[str, str] = {}
    engines = [item for item in backends().values() if item.default and item.installed and ONNX in item.formats]
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "int8"):
            for kind, shape in peak_graphs.INPUTS.items():
                path = Path(folder) / f"{kind}.{precision}.onnx"
                peak_graphs.write(path, kind, precision)
                feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
                for engine in engines:
                    options = engine.options(RunSettings(threads=threads))
                    seconds = _seconds(engine.runner, threads, path, feeds, options)
                    reached = peak_graphs.OPERATIONS[kind] / seconds
                    if reached > operations.get(precision, 0.0):
                        operations[precision] = reached
                        by[precision] = f"{kind} on {engine.name}"
    bandwidth = {
        size: size / _seconds(BANDWIDTH, threads, None, {}, {"threads": threads, "bytes": size}) for size in SIZES
    }
    return MachineLimits(threads=threads, operations=operations, bandwidth=bandwidth, by=by)


def _seconds(
    runner: str, threads: int, path: Path | None, feeds: dict[str, np.ndarray], options: dict[str, Any]
) -> float:
    """Return the 10th percentile of the latency: a peak is a fast call, not a typical one."""
    from deploy.bench.process import BenchProcess

    with BenchProcess(runner, threads) as process:
        process.open(feeds, path=path, model=None, options=options)
        process.warm(1.0)
        _, samples = process.time(SECONDS)
    if not len(samples):
        raise BackendError(f"{runner}: no call finished in {SECONDS} s.")
    return float(np.quantile(samples, 0.1)) / 1e9
