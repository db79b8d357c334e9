"""TensorRT and TensorRT for RTX behind one door: the same builder, parser and runtime, under two names.

TensorRT for RTX builds engines on a machine without a GPU and compiles them for the GPU they meet; TensorRT needs the
GPU that the engine is for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from deploy.core.errors import BackendError, MissingPackageError, UsageError
from deploy.support.cuda_driver import Gpu, gpus

RUNTIMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Names on the command line, and their modules."""

_RTX = "'deploy-toolkit[rtx]'"
_TENSORRT = "'deploy-toolkit[tensorrt]'   (its libraries come from NVIDIA's own index, https://pypi.nvidia.com)"
_INSTALL = {"tensorrt": _TENSORRT, "tensorrt-rtx": _RTX, "auto": f"{_RTX}   or: pip install {_TENSORRT}"}


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
    chosen = name
    if name == "auto":
        chosen = "tensorrt" if gpus() and _installed("tensorrt") else "tensorrt-rtx"
    if chosen not in RUNTIMES:
        raise UsageError(f"--runtime {name}: not one of auto, {', '.join(RUNTIMES)}.")
    try:
        return Library(name=chosen, module=importlib.import_module(RUNTIMES[chosen]))
    except ModuleNotFoundError as exc:
        raise MissingPackageError(RUNTIMES[chosen], f"--runtime {name}", _INSTALL[name]) from exc
    except (ImportError, OSError) as exc:
        text = str(exc).splitlines()[0][:300]
        raise BackendError(f"{chosen} is installed and cannot be loaded: {text}", "deploy doctor") from exc


def _installed(name: str) -> bool:
    try:
        importlib.import_module(RUNTIMES[name])
    except (ImportError, OSError):
        return False
    return True


def cuda_major(name: str) -> int | None:
    """The CUDA that the installed wheel of a library was made for; None where its wheels do not say."""
    for major in range(20, 10, -1):
        try:
            metadata.version(f"{name}-cu{major}-libs")
        except metadata.PackageNotFoundError:
            continue
        return major
    return None


def driver_fault(library: Library, found: Gpu | None, needed: int | None) -> str | None:
    """Why no engine can be opened with the driver that is there; None where it can.

    Args:
        library: what opens it.
        found: the GPU.
        needed: major version of the CUDA that the library was made for, `cuda_major`.
    """
    if found is None:
        return f"there is no NVIDIA GPU with a driver on this machine, and {library.name} opens engines on one only"
    if needed is not None and int(found.cuda.partition(".")[0]) < needed:
        return (
            f"the driver is too old: it speaks CUDA {found.cuda}, and {library.name} {library.version} was made for "
            f"CUDA {needed}; update the NVIDIA driver"
        )
    return None


def make_logger(library: Library, hear: Callable[[str, str], None]) -> Any:
    """A logger that hands every message to ``hear(severity, text)`` and keeps the last error.

    Severities are ``internal_error``, ``error``, ``warning``, ``info`` and ``verbose``.
    """
    base = library.module.ILogger

    class Logger(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.last_error = "it gives no reason"

        def log(self, severity: Any, message: str) -> None:
            kind = str(severity).rpartition(".")[2].lower()
            if kind in ("error", "internal_error"):
                self.last_error = message[:500]
            hear(kind, message)

    return Logger()


def deserialize(library: Library, data: bytes, name: str, logger: Any) -> Any:
    """Make an engine of its bytes, which must have been held against their digest: an engine is code.

    The driver must do (`driver_fault`), or the library may end the process.

    Args:
        library: the one that built it.
        data: the file's bytes.
        name: the file, for messages.
        logger: of `make_logger`; it must outlive the engine.

    Returns:
        The engine; it holds its runtime.

    Raises:
        BackendError: the library refuses the engine, with what it said.
    """
    try:
        engine = library.module.Runtime(logger).deserialize_cuda_engine(data)
    except (TypeError, RuntimeError) as exc:
        raise BackendError(f"{name}: {library.name} {library.version} does not open it: {exc}") from exc
    if engine is None:
        raise BackendError(f"{name}: {library.name} {library.version} does not open it: {logger.last_error}")
    return engine
