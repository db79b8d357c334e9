"""What else the machine did while something was timed, so that a disturbed row says so."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STOLEN = 0.01
"""Share of the processor time that another machine on the same host may take."""

OTHERS = 0.15
"""Cores that other processes of this machine may keep busy."""

SLOWER = 0.05
"""Share by which the clock frequency may have moved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Counters of the system, as far as it has them.

    Attributes:
        at: monotonic seconds.
        busy, stolen, total: ticks of all processors.
        own: processor seconds of this process and its threads.
        throttled: periods in which the control group ran out of its quota.
        hot: times a core was slowed for its heat.
        mhz: of the processors, the mean; None where the system does not tell.
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
    """Read the counters; those that the system does not have are 0."""
    ticks = [int(item) for item in _read("/proc/stat").partition("\n")[0].split()[1:9]] or [0] * 8
    user, nice, system, idle, iowait, irq, softirq, stolen = ticks
    busy = user + nice + system + irq + softirq
    spent = time.process_time()
    return Snapshot(
        at=time.monotonic(),
        busy=busy,
        stolen=stolen,
        total=busy + idle + iowait + stolen,
        own=spent,
        throttled=_throttled(),
        hot=sum(int(_text(path) or 0) for path in _CORES.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")),
        mhz=_frequency(),
    )


_CORES = Path("/sys/devices/system/cpu")


def between(first: Snapshot, second: Snapshot) -> dict[str, Any]:
    """What happened between two snapshots: shares, cores, and the flags that follow, in words."""
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
    """What of it may have moved a time: in words, by the name of what was counted."""
    told = {}
    if found["stolen"] > STOLEN:
        told["stolen"] = f"the host took {found['stolen']:.0%} of the processor time"
    if found["others"] > OTHERS:
        told["others"] = f"other processes kept {found['others']:.2f} cores busy"
    if found["throttled"]:
        told["throttled"] = f"the control group was out of its quota {found['throttled']} times"
    if found["hot"]:
        told["hot"] = f"a core was slowed for heat {found['hot']} times"
    if found["mhz"]:
        first, second = found["mhz"]
        if abs(second - first) > SLOWER * first:
            told["mhz"] = f"the clock went from {first} to {second} MHz"
    return told


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What holds for a whole run.

    Attributes:
        affinity: processors this process may use.
        quota: cores that the control group allows; None for all.
        governor: of the clock frequency; empty where the system does not tell.
        load: processes that wanted to run in the last minute, when it began; None where the system does not tell.
    """

    affinity: tuple[int, ...]
    quota: float | None
    governor: str
    load: float | None
    warnings: tuple[str, ...] = field(default=())


def conditions() -> Conditions:
    """Read what holds now."""
    affinity = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
    quota = _quota()
    governor = _text(_CORES / "cpu0/cpufreq/scaling_governor")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    warnings = []
    if governor and governor != "performance":
        warnings.append(f"the clock frequency is scaled by {governor!r}: times move with the load")
    if quota is not None and affinity and quota < len(affinity):
        warnings.append(f"the control group allows {quota:g} of {len(affinity)} cores: more threads than that wait")
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
    """Our control group (version 2)."""
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    return Path("/sys/fs/cgroup") / own.strip("/")


def _frequency() -> float | None:
    files = [_text(path) for path in _CORES.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found = [int(item) / 1000 for item in files if item.isdigit()]
    return sum(found) / len(found) if found else None


def _read(path: str) -> str:
    return _text(Path(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
