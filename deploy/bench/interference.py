"""Interference while something is timed: steal time, competing load, throttling, clock changes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_STEAL = 0.01
"""Share of processor time that the hypervisor may give to other virtual machines before a row is flagged."""

MAX_LOAD = 0.15
"""Cores that other processes may keep busy before a row is flagged."""

MAX_CLOCK_CHANGE = 0.05
"""Share by which the clock frequency may change before a row is flagged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Counters of the system; those it does not have are 0.

    Attributes:
        at: monotonic seconds.
        busy, stolen, total: ticks of all processors.
        own: processor seconds of this process and its threads.
        throttled: periods in which the control group used up its CPU quota.
        hot: number of times a core was throttled for heat.
        mhz: mean clock frequency of the processors; None if unknown.
    """

    at: float
    busy: int
    stolen: int
    total: int
    own: float
    throttled: int
    hot: int
    mhz: float | None


def snapshot() -> Snapshot:
    """Read the counters."""
    ticks = [int(item) for item in _text("/proc/stat").partition("\n")[0].split()[1:9]] or [0] * 8
    user, nice, system, idle, iowait, irq, softirq, stolen = ticks
    busy = user + nice + system + irq + softirq
    return Snapshot(
        at=time.monotonic(),
        busy=busy,
        stolen=stolen,
        total=busy + idle + iowait + stolen,
        own=time.process_time(),
        throttled=_throttled(),
        hot=sum(int(_text(path) or 0) for path in _CORES.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")),
        mhz=_frequency(),
    )


_CORES = Path("/sys/devices/system/cpu")


def between(first: Snapshot, second: Snapshot) -> dict[str, Any]:
    """Return the interference between two snapshots: shares, cores, and flags (see `flags`)."""
    total = second.total - first.total
    seconds = max(second.at - first.at, 1e-9)
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    stolen = (second.stolen - first.stolen) / total if total else 0.0
    others = max(0.0, ((second.busy - first.busy) / tick - (second.own - first.own)) / seconds) if total else 0.0
    found = {
        "seconds": round(seconds, 4),
        "stolen": round(stolen, 5),
        "others": round(others, 3),
        "throttled": second.throttled - first.throttled,
        "hot": second.hot - first.hot,
        "mhz": None if first.mhz is None or second.mhz is None else [round(first.mhz), round(second.mhz)],
    }
    return {**found, "flags": flags(found)}


def flags(found: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each kind of interference above its threshold."""
    result = {}
    if found["stolen"] > MAX_STEAL:
        result["stolen"] = f"the hypervisor took {found['stolen']:.0%} of the processor time"
    if found["others"] > MAX_LOAD:
        result["others"] = f"other processes kept {found['others']:.2f} cores busy"
    if found["throttled"]:
        result["throttled"] = f"the control group used up its CPU quota {found['throttled']} times"
    if found["hot"]:
        result["hot"] = f"a core was throttled for heat {found['hot']} times"
    if found["mhz"]:
        first, second = found["mhz"]
        if abs(second - first) > MAX_CLOCK_CHANGE * first:
            result["mhz"] = f"the clock frequency changed from {first} to {second} MHz"
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Conditions of a whole run, and those that make latencies less reproducible as warnings.

    Attributes:
        affinity: processors this process may use.
        quota: cores that the control group allows; None for all.
        governor: governor of the clock frequency; empty if unknown.
        load: 1-minute load average at the start; None if unknown.
    """

    affinity: tuple[int, ...]
    quota: float | None
    governor: str
    load: float | None
    warnings: tuple[str, ...] = field(default=())


def conditions() -> Conditions:
    """Read the present conditions."""
    affinity = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
    quota = _quota()
    governor = _text(_CORES / "cpu0/cpufreq/scaling_governor")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    warnings = []
    if governor and governor != "performance":
        warnings.append(f"the CPU governor is {governor!r}, so latencies vary with the load")
    if quota is not None and affinity and quota < len(affinity):
        warnings.append(
            f"the control group allows {quota:g} of {len(affinity)} cores; more threads than that are throttled"
        )
    return Conditions(affinity=affinity, quota=quota, governor=governor, load=load, warnings=tuple(warnings))


def _quota() -> float | None:
    limit, _, period = _text(_group() / "cpu.max").partition(" ")
    return int(limit) / int(period) if limit.isdigit() and period.isdigit() else None


def _throttled() -> int:
    for line in _text(_group() / "cpu.stat").splitlines():
        if line.startswith("nr_throttled "):
            return int(line.split()[1])
    return 0


def _group() -> Path:
    """Return the folder of this process's control group (version 2)."""
    own = next((line[3:] for line in _text("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    return Path("/sys/fs/cgroup") / own.strip("/")


def _frequency() -> float | None:
    files = [_text(path) for path in _CORES.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found = [int(item) / 1000 for item in files if item.isdigit()]
    return sum(found) / len(found) if found else None


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
