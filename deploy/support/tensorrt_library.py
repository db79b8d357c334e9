"""TensorRT and TensorRT for RTX behind one door: the same builder, parser and runtime, under two names.

TensorRT for RTX builds engines on a machine without a GPU and compiles them for the GPU they meet; TensorRT needs the
GPU that the engine is for.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from deploy.core.errors import BackendError, MissingPackageError, UsageError

RUNTIMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Names on the command line, and their modules."""

EXTRAS = {"tensorrt": "deploy-toolkit[tensorrt]", "tensorrt-rtx": "deploy-toolkit[rtx]"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """One of the two, imported.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        module: as ``import tensorrt`` would give it.
    """

    name: str
    module: ModuleType

    @property
    def version(self) -> str:
        """As the library says."""
        return str(self.module.__version__)


def open_library(name: str = "auto") -> Library:
    """Import a library.

    Args:
        name: ``tensorrt``, ``tensorrt-rtx``, or ``auto``: the former where it imports and a GPU is there, else the
            latter.

    Raises:
        UsageError: no such library.
        MissingPackageError: it is not installed.
        BackendError: it is installed and cannot be loaded.
    """
    if name == "auto":
        name = "tensorrt" if gpu_count() and _installed("tensorrt") else "tensorrt-rtx"
    if name not in RUNTIMES:
        raise UsageError(f"--runtime {name}: not one of auto, {', '.join(RUNTIMES)}.")
    try:
        return Library(name=name, module=importlib.import_module(RUNTIMES[name]))
    except ModuleNotFoundError as exc:
        where = "; its libraries come from NVIDIA's own index, https://pypi.nvidia.com" if name == "tensorrt" else ""
        raise MissingPackageError(RUNTIMES[name], "building an engine", f"'{EXTRAS[name]}'{where}") from exc
    except (ImportError, OSError) as exc:
        text = str(exc).splitlines()[0][:300]
        raise BackendError(f"{name} is installed and cannot be loaded: {text}", "deploy doctor") from exc


def _installed(name: str) -> bool:
    try:
        importlib.import_module(RUNTIMES[name])
    except (ImportError, OSError):
        return False
    return True


def gpu_count() -> int:
    """NVIDIA GPUs that the driver offers; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def make_logger(library: Library, hear: Any) -> Any:
    """A logger that hands every message to ``hear(severity, text)``; the first is ``error``, ``warning`` or less."""
    base = library.module.ILogger

    class Logger(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            hear(str(severity).rpartition(".")[2].lower(), message)

    return Logger()
