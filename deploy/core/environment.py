"""Package versions and the machine, read without heavy imports."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "deploy-toolkit",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "numpy",
    "pillow",
)


def version(package: str) -> str | None:
    """Return the installed version of a distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of every installed package in `PACKAGES`, by name."""
    installed = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{name: text for name, text in installed.items() if text}}


def _cpu_info(*names: str) -> str:
    """Return the first entry of one of these names in the kernel's description of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith(names)), "")


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the physical memory in bytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


@cache
def cpu_features() -> frozenset[str]:
    """Return the processor's features by the kernel's names (``avx512_vnni``); empty where they are not reported."""
    return frozenset(_cpu_info("flags", "features").split())


def machine() -> dict[str, str | int | None]:
    """Describe this machine, without host or user name."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }


def now() -> str:
    """Return the time now, in UTC, to the microsecond (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
