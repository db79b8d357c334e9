"""TensorRT and TensorRT for RTX, which have the same API in two packages.

TensorRT for RTX builds engines without a GPU and compiles them for the GPU that runs them. TensorRT needs the GPU that
the engine is built for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from deploy.core.errors import BackendError, MissingPackageError, UsageError
from deploy.core.extras import installed
from deploy.support.cuda_driver import Gpu, gpus

RUNTIMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Modules by name on the command line."""

_RTX = "'deploy-toolkit[rtx]'"
_TENSORRT = "'deploy-toolkit[tensorrt]'   (its libraries come from NVIDIA's own index, https://pypi.nvidia.com)"
_INSTALL = {"tensorrt": _TENSORRT, "tensorrt-rtx": _RTX, "auto": f"{_RTX}   or: pip install {_TENSORRT}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """One of the two libraries, ``tensorrt`` or ``tensorrt-rtx``, imported."""

    name: str
    module: ModuleType

    @property
    def version(self) -> str:
        """Version that the library reports."""
        return str(self.module.__version__)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that TensorRT for RTX knows, ``8.6``; empty for TensorRT, which builds for one GPU."""
        known = getattr(self.module, "ComputeCapability", None)
        names = known.__members__ if known is not None else ()
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))


def find_library(name: str = "auto") -> str:
    """Return the name of the library that `open_library` imports, without importing it.

    Raises:
        UsageError: there is no such library.
        MissingPackageError: the library is not installed.
    """
    chosen = name
    if name == "auto":
        chosen = "tensorrt" if gpus() and installed(RUNTIMES["tensorrt"]) else "tensorrt-rtx"
    if chosen not in RUNTIMES:
        raise UsageError(f"--runtime {name}: choose one of auto, {', '.join(RUNTIMES)}.")
    if not installed(RUNTIMES[chosen]):
        raise MissingPackageError(RUNTIMES[chosen], f"--runtime {name}", _INSTALL[name])
    return chosen


def open_library(name: str = "auto") -> Library:
    """Import a library; ``auto`` is ``tensorrt`` if it can be imported and there is a GPU, else ``tensorrt-rtx``.

    Raises:
        UsageError: there is no such library.
        MissingPackageError: the library is not installed.
        BackendError: the library is installed but cannot be loaded.
    """
    chosen = find_library(name)
    if name == "auto" and chosen == "tensorrt" and not _loads(chosen):
        chosen = find_library("tensorrt-rtx")
    try:
        return Library(name=chosen, module=importlib.import_module(RUNTIMES[chosen]))
    except (ImportError, OSError) as exc:
        text = str(exc).splitlines()[0][:300]
        raise BackendError(f"{chosen}: installed, but cannot be loaded: {text}", "deploy doctor") from exc


def _loads(name: str) -> bool:
    try:
        importlib.import_module(RUNTIMES[name])
    except (ImportError, OSError):
        return False
    return True


def cuda_major(name: str) -> int | None:
    """Return the major CUDA version of a library's installed wheel; None where it is unknown."""
    for major in range(20, 10, -1):
        try:
            metadata.version(f"{name}-cu{major}-libs")
        except metadata.PackageNotFoundError:
            continue
        return major
    return None


def driver_fault(library: Library, gpu: Gpu | None, needed: int | None) -> str | None:
    """Return why the driver cannot run engines of a library; None if it can.

    Without ``needed``, the major CUDA version of the library (`cuda_major`), CUDA versions are not compared.
    """
    if gpu is None:
        return f"{library.name} needs an NVIDIA GPU with a driver; none was found"
    if needed is not None and int(gpu.cuda.partition(".")[0]) < needed:
        return (
            f"the NVIDIA driver supports CUDA {gpu.cuda}, but {library.name} {library.version} needs CUDA {needed}; "
            "update the driver"
        )
    return None


def make_logger(library: Library, listener: Callable[[str, str], None]) -> Any:
    """Return a logger for the library that keeps the last error in ``last_error``.

    The listener gets the severity (``internal_error``, ``error``, ``warning``, ``info`` or ``verbose``) and the text of
    every message.
    """
    base = library.module.ILogger

    class Logger(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            kind = str(severity).rpartition(".")[2].lower()
            if kind in ("error", "internal_error"):
                self.last_error = message[:500]
            listener(kind, message)

    return Logger()


def deserialize(library: Library, data: bytes, name: str, logger: Any) -> Any:
    """Deserialize an engine (``ICudaEngine``), which keeps its runtime alive; the logger must outlive the engine.

    An engine contains code: compare the file with its digest first. Check the driver first too (`driver_fault`): with
    an unsuitable one the library may end the process. TensorRT for RTX is asked whether the engine is valid here.

    Raises:
        BackendError: the library refused the engine; the message contains its reason.
    """
    try:
        runtime = library.module.Runtime(logger)
        if (invalid := _invalid(library, runtime, data)) is not None:
            reason = f"{invalid}; {logger.last_error}"
            raise BackendError(f"{name}: {library.name} {library.version} calls the engine invalid here: {reason}")
        engine = runtime.deserialize_cuda_engine(data)
    except (TypeError, RuntimeError) as exc:
        raise BackendError(f"{name}: {library.name} {library.version} cannot open the engine: {exc}") from exc
    if engine is None:
        raise BackendError(f"{name}: {library.name} {library.version} cannot open the engine: {logger.last_error}")
    return engine


def _invalid(library: Library, runtime: Any, data: bytes) -> str | None:
    """Return the names of the reasons for which an engine cannot run on this machine; None if it can."""
    if not hasattr(runtime, "get_engine_validity"):
        return None
    validity, reasons = runtime.get_engine_validity(data)
    if validity != library.module.EngineValidity.INVALID:
        return None
    known = library.module.EngineInvalidityDiagnostics.__members__
    return ", ".join(name for name, bit in known.items() if int(bit) & int(reasons)) or "no reason given"
