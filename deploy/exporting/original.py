"""The file that another one is checked against, run in the runtime of the check."""

from __future__ import annotations

from pathlib import Path

from deploy.core.backend import RunSettings
from deploy.core.errors import BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.model import Model
from deploy.core.runner import Feeds, Fetches


def original_path(model: Model) -> Path | None:
    """Return the ONNX file that a model is, as it is and no view of one; None for other models."""
    whole = model.is_onnx and not model.reference.get("options")
    return Path(str(model.reference["name"])) if whole else None


class OriginalFile:
    """Runs an ONNX file that is the model of a check; it is opened in a child process when it is first run."""

    def __init__(self, model: Model, path: Path, backend: str, settings: RunSettings) -> None:
        self._model, self._path, self._backend, self._settings = model, path, backend, settings
        self._runner: IsolatedRunner | None = None
        self._refused = False

    def run(self, feeds: Feeds) -> Fetches | None:
        """Return the outputs for inputs by the model's names; None where the runtime does not run the file."""
        if self._runner is None:
            self._runner = IsolatedRunner(self._backend)
            options = self._runner.backend.options(self._settings)
            try:
                self._runner.open(self._path, **options)
            except BackendError:
                self._refused = True
        if self._refused:
            return None
        names = {own.name: spec.name for own, spec in zip(self._model.inputs, self._runner.inputs, strict=True)}
        try:
            return self._runner.run({names[name]: value for name, value in feeds.items()})
        except BackendError:
            return None

    def close(self) -> None:
        """End the process."""
        if self._runner is not None:
            self._runner.close()
