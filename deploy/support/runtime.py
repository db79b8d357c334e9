"""Which backend runs an artifact on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.core.backend import ONNX, Backend, RunSettings, backends, default_backend
from deploy.support.cuda_driver import gpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A backend, and whether it stands in for the artifact's target.

    Attributes:
        backend: the backend that runs the artifact.
        simulated: the target cannot run here; the graph is run without fusion, so every Q/DQ pair rounds as written.
    """

    backend: Backend
    simulated: bool = False

    @property
    def name(self) -> str:
        """Name for programs."""
        return "simulated" if self.simulated else self.backend.name

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.backend.title} without fusion (simulated)" if self.simulated else self.backend.title

    def options(self, settings: RunSettings | None = None) -> dict[str, Any]:
        """Return options of the backend's runner.

        Args:
            settings: how to run; ``fusion`` is set by this runtime.
        """
        asked = settings or RunSettings()
        if self.simulated:
            asked = RunSettings(
                device=asked.device,
                threads=asked.threads,
                low_memory=asked.low_memory,
                shared_cores=asked.shared_cores,
                fusion=False,
            )
        return self.backend.options(asked)


def simulated() -> Runtime:
    """Return the runtime that stands in for an ONNX target that cannot run here."""
    return Runtime(backend=default_backend(ONNX), simulated=True)


def runtime_of(format: str, target: str | None) -> Runtime | None:
    """Return what runs a file of this format, quantized for this target; None where nothing here does."""
    fitting = [item for item in backends().values() if item.opens(format, target) and _runs_here(item)]
    fitting.sort(key=lambda item: format not in item.default_for)
    if fitting:
        return Runtime(backend=fitting[0])
    return simulated() if format == ONNX else None


def _runs_here(backend: Backend) -> bool:
    return backend.installed and ("cpu" in backend.devices or bool(gpus()))
