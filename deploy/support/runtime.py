"""Which backend runs an artifact on this machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from deploy.core.artifact import Artifact
from deploy.core.backend import ENGINE, ONNX, Backend, RunSettings, backends, default_backend
from deploy.core.errors import DeployError
from deploy.support.cuda_driver import gpus
from deploy.support.engine_file import engine_fault


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A backend, and whether it simulates the artifact's target, which cannot run here.

    It simulates a target without fusion, so that every Q/DQ pair rounds as written in the file.
    """

    backend: Backend
    simulated: bool = False

    @property
    def name(self) -> str:
        """Identifier for JSON."""
        return "simulated" if self.simulated else self.backend.name

    @property
    def title(self) -> str:
        """Display name."""
        return f"{self.backend.title} without fusion (simulated)" if self.simulated else self.backend.title

    def options(self, settings: RunSettings | None = None) -> dict[str, Any]:
        """Return options of the backend's runner; ``fusion`` is set by this runtime."""
        settings = settings or RunSettings()
        if self.simulated:
            settings = dataclasses.replace(settings, precision="fp32", cuda_graph=False, fusion=False)
        return self.backend.options(settings)


def simulated() -> Runtime:
    """Return the runtime that simulates a target which cannot run here."""
    return Runtime(backend=default_backend(ONNX), simulated=True)


def runtime_of(format: str, target: str | None) -> Runtime | None:
    """Return the runtime for files of a format, quantized for a target; None if none is installed."""
    fitting = [item for item in backends().values() if item.opens(format, target) and _runs_here(item)]
    fitting.sort(key=lambda item: format not in item.default_for)
    if fitting:
        return Runtime(backend=fitting[0])
    return simulated() if format == ONNX else None


def runtime_for(artifact: Artifact) -> tuple[Runtime | None, str]:
    """Return the runtime of a file on this machine; if there is none, None and the reason.

    An engine is also compared with the installed library and the GPU.
    """
    manifest = artifact.manifest
    runtime = runtime_of(manifest.format, manifest.target)
    if runtime is not None and manifest.format == ENGINE:
        try:
            fault = engine_fault(artifact)
        except DeployError as exc:
            fault = exc.message
        if fault is not None:
            return None, fault
    return runtime, f"no backend on this machine runs {manifest.target or manifest.format} files"


def _runs_here(backend: Backend) -> bool:
    return backend.installed and ("cpu" in backend.devices or bool(gpus()))
