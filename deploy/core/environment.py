"""What a result was made with: package versions and the machine, read without importing anything heavy."""

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
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def versions() -> dict[str, str]:
    """Python's version and that of every package of the toolkit that is installed."""
    found = {package: version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **{name: text for name, text in found.items() if text}}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory in bytes, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


@cache
def cpu_features() -> frozenset[str]:
    """What the processor can do, in the kernel's words (``avx512_vnni``); empty where the kernel does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(found, "").split())


def machine() -> dict[str, str | int | None]:
    """The machine a result was made on; no host or user name."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }


def now() -> str:
    """The present, UTC, to the microsecond (ISO 8601)."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
