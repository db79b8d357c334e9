"""From records to rows with statistics, speedups and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deploy.bench.limits import Floor
from deploy.bench.records import CellRecord
from deploy.bench.repetition import flags_of
from deploy.bench.statistics import Interval, LatencyStats, plain_interval, ratio, summarize


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """A cell with its statistics.

    Attributes:
        speedup: over the baseline at the same model and batch, from paired repetitions; None without a baseline.
        floor: shortest possible latency on this machine; None if it was not measured.
    """

    record: CellRecord
    speedup: Interval | None = None
    floor: Floor | None = None

    @cached_property
    def stats(self) -> LatencyStats | None:
        """Statistics; None if nothing could be timed."""
        timed = self.record.timed
        return summarize([item.samples for item in timed]) if timed else None

    @property
    def throughput(self) -> float | None:
        """Samples per second: from the mean latency, or the rate that the scenario achieved."""
        achieved = self.detail("achieved_per_s")
        if achieved is not None:
            return self.record.cell.batch * achieved
        return None if self.stats is None else 1e9 * self.record.cell.batch / self.stats.mean

    @property
    def flags(self) -> dict[str, str]:
        """Interference by kind, with the number of processes it was seen in."""
        seen: dict[str, list[str]] = {}
        for item in self.record.timed:
            for kind, text in flags_of(item).items():
                seen.setdefault(kind, []).append(text)
        total = len(self.record.timed)
        return {kind: f"{max(texts)} (in {len(texts)} of {total} processes)" for kind, texts in sorted(seen.items())}

    def detail(self, name: str) -> float | None:
        """Return the median over processes of a number in the details: ``load_ns``, ``first_ns``, ``peak_bytes``."""
        values = [item.details[name] for item in self.record.timed if item.details.get(name) is not None]
        return float(np.median(values)) if values else None

    def _copies(self) -> dict[str, float] | None:
        """Return medians over processes of binding inputs and fetching outputs, which are not part of the latency."""
        found = [item.details["copies"] for item in self.record.timed if "copies" in item.details]
        names = ("bind_ns", "fetch_ns")
        return {name: float(np.median([item[name] for item in found])) for name in names} if found else None

    def _joules(self) -> float | None:
        """Return the GPU's energy per call in joules; None if unknown."""
        readings = [(item.details.get("joules"), item.details.get("calls")) for item in self.record.timed]
        used = [energy / calls for energy, calls in readings if energy is not None and calls]
        return float(np.median(used)) if used else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; times in nanoseconds, unknown ends of intervals None."""
        stats = self.stats
        cell = asdict(self.record.cell)
        return {
            **cell,
            "key": self.record.cell.key,
            "status": "failed" if self.record.failure else "timed",
            "failure": self.record.failure or None,
            "evidence": dict(self.record.evidence),
            **{name: value for name, value in self.record.about.items() if name not in CONTEXT},
            "latency": _plain(stats),
            "throughput": self.throughput,
            "speedup": plain_interval(self.speedup),
            **{name: self.detail(name) for name in ("import_ns", "load_ns", "first_ns", "peak_bytes", "device_ns")},
            "copies_ns": self._copies(),
            "joules_per_call": self._joules(),
            "scenario_details": [_scenario(item.details) for item in self.record.timed],
            "flags": self.flags,
            "limit": None if self.floor is None else self.floor.to_dict(None if stats is None else stats.median.value),
        }


SCENARIO_DETAILS = (
    "rate_per_s",
    "achieved_per_s",
    "saturation_per_s",
    "requests",
    "late",
    "queue_most",
    "p99_ns",
    "bound_held",
    "trials",
    "loadgen",
    "log",
)


def _scenario(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: details[name] for name in SCENARIO_DETAILS if name in details}


CONTEXT = ("machine", "versions", "conditions", "work", "given", "sizes")
"""Fields of a record that a report of many rows gives once."""


def _plain(stats: LatencyStats | None) -> dict[str, Any] | None:
    if stats is None:
        return None
    return {
        "processes": stats.processes,
        "samples": stats.samples,
        "min_ns": stats.minimum,
        "median_ns": plain_interval(stats.median),
        "mean_ns": stats.mean,
        **{f"{name}_ns": value for name, value in stats.quantiles.items()},
    }


def medians(record: CellRecord) -> dict[int, float]:
    """Return the median in nanoseconds of every timed repetition, by its number."""
    return {item.number: float(np.median(item.samples)) for item in record.timed}


def rows_of(records: Sequence[CellRecord], baseline: str, floors: Mapping[str, Floor]) -> list[LatencyRow]:
    """Return rows with their speedup over the baseline backend in float32; ``floors`` are by the key of the cell."""
    bases = {
        _group(record): record
        for record in records
        if record.cell.backend == baseline and record.cell.precision == "fp32"
    }
    return [
        LatencyRow(record=item, speedup=_speedup(bases.get(_group(item)), item), floor=floors.get(item.cell.key))
        for item in records
    ]


def _group(record: CellRecord) -> tuple[Any, ...]:
    cell = record.cell
    where = tuple(sorted(cell.machine.items()))
    return cell.model, cell.batch, tuple(cell.sizes.items()), cell.threads, cell.device, cell.scenario, where


def _speedup(base: CellRecord | None, record: CellRecord) -> Interval | None:
    if base is None or base is record:
        return None
    ours, theirs = medians(record), medians(base)
    both = sorted(set(ours) & set(theirs))
    return ratio([ours[number] for number in both], [theirs[number] for number in both]) if both else None
