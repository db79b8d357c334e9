"""Every error this package raises on purpose.

    DeployError                     something the user can act on; exit code 1
    ├── UsageError                  the request itself is wrong; exit code 2
    │   ├── UnknownNameError        no such model, backend, format …; carries the nearest names
    │   └── InputSpecError          an ``--input`` or a shape that cannot be
    ├── MissingPackageError         an optional package is not installed; the hint is the pip line
    ├── ModelError                  the model could not be built or run
    │   └── WeightsError            a checkpoint is missing, broken, does not fit, or is not finite
    │       └── UnsafePickleError   a pickle that wants to run code; it was not run
    ├── DataError                   images, arrays or labels that cannot be used
    ├── ExportError                 no strategy could export the model
    ├── BackendError                a runtime refused or failed to run an artifact
    │   └── BackendCrashedError     the runtime's process died
    ├── ArtifactError               a file is not what it should be
    │   └── DigestError             a file differs from its manifest; exit code 3
    ├── ParityError                 what was made does not answer as the model does; exit code 3
    └── StorageError                the disk refused

Foreign exceptions are translated once, where they enter, with ``raise … from exc``.
"""

from __future__ import annotations

from collections.abc import Iterable


class DeployError(Exception):
    """Something went wrong that the user can act on.

    Args:
        message: what happened, in which file or tensor.
        hint: what to do about it, or None where the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DeployError):
    """The request itself is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not known, with the nearest ones that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str | None = None) -> None:
        import difflib  # here, since every command imports this file and few mistype

        near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
        asked = f" Did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{asked}", hint)
        self.suggestions = tuple(near)


class InputSpecError(UsageError):
    """An input specification or a shape that cannot be."""


class MissingPackageError(DeployError):
    """An optional package is not installed."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed.", f"pip install {install}")


class ModelError(DeployError):
    """The model could not be built or run."""


class WeightsError(ModelError):
    """A checkpoint is missing, broken, does not fit the model, or holds values that are not finite."""


class UnsafePickleError(WeightsError):
    """A pickle that wants to run code; it was refused and never run."""


class DataError(DeployError):
    """Images, arrays or labels that cannot be used."""


class ExportError(DeployError):
    """No strategy could export the model."""


class BackendError(DeployError):
    """A runtime refused or failed to run an artifact."""


class BackendCrashedError(BackendError):
    """The process of a runtime died while it opened or ran an artifact."""


class ArtifactError(DeployError):
    """A file is not what it should be."""


class DigestError(ArtifactError):
    """A file differs from its manifest."""

    exit_code = 3


class ParityError(DeployError):
    """What was made does not answer as the model does; it was not published."""

    exit_code = 3


class StorageError(DeployError):
    """The disk refused: no space, no permission, an I/O error."""
