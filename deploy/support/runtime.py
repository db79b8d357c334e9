"""Which backend runs an artifact on this machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from deploy.core.backend import ONNX, Backend, RunSettings, backends, default_backend
from deploy.support.cuda_driver import gpus


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


def _runs_here(backend: Backend) -> bool:
    return backend.installed and ("cpu" in backend.devices or bool(gpus()))
