"""The errors that this package raises on purpose.

    DeployError                     an error the user can act on; exit code 1
    ├── UsageError                  the request is invalid; exit code 2
    │   ├── UnknownNameError        no such model, backend or format; has the most similar names
    │   └── InputSpecError          an invalid ``--input`` or shape
    ├── MissingPackageError         an optional package is not installed; the hint installs it
    ├── ModelError                  the model could not be built or run
    │   └── WeightsError            a checkpoint is missing, damaged, does not fit, or is not finite
    │       └── UnsafePickleError   a pickle that would run code; it was not loaded
    ├── DataError                   unusable images, arrays or labels
    ├── ExportError                 no strategy could export the model
    ├── BackendError                a runtime refused an artifact or failed to run it
    │   └── BackendCrashedError     the runtime's process died
    ├── ArtifactError               a file is missing, damaged or of the wrong kind
    │   └── DigestError             a file differs from its manifest; exit code 3
    ├── ParityError                 a result does not match the model's; exit code 3
    └── StorageError                a file or folder could not be written

Exceptions of other libraries are translated where they occur, with ``raise … from exc``.
"""

from __future__ import annotations

from collections.abc import Iterable


class DeployError(Exception):
    """An error the user can act on.

    Args:
        message: what happened, and in which file, tensor or option.
        hint: a command that helps, or one instruction; None where the message suffices.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DeployError):
    """The request is invalid."""

    exit_code = 2


class UnknownNameError(UsageError):
    """An unknown name.

    Args:
        kind: what the name stands for, ``backend``.
        name: the unknown name.
        known: all known names; the message suggests the most similar ones.
        hint: see `DeployError`.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str | None = None) -> None:
        import difflib  # here, since every command imports this module and few need it

        near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.5)
        question = f" Did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}.{question}", hint)
        self.suggestions = tuple(near)


class InputSpecError(UsageError):
    """An input specification or a shape is invalid."""


class MissingPackageError(DeployError):
    """An optional package is not installed.

    Args:
        package: its name.
        purpose: what needs it, ``signatures``.
        install: argument of ``pip install``.
    """

    def __init__(self, package: str, purpose: str, install: str) -> None:
        # brackets mean something to a shell
        quoted = f"'{install}'" if "[" in install and "'" not in install else install
        super().__init__(f"{purpose}: the package {package!r} is not installed.", f"pip install {quoted}")


class ModelError(DeployError):
    """The model could not be built or run."""


class WeightsError(ModelError):
    """A checkpoint is missing, damaged, does not fit the model, or contains values that are not finite."""


class UnsafePickleError(WeightsError):
    """A pickle would run code; it was not loaded."""


class DataError(DeployError):
    """Images, arrays or labels cannot be used."""


class ExportError(DeployError):
    """No strategy could export the model."""


class BackendError(DeployError):
    """A runtime refused an artifact or failed to run it."""


class BackendCrashedError(BackendError):
    """The process of a runtime died, or did not respond in time."""


class BackendMemoryError(BackendCrashedError):
    """The process of a runtime was refused memory."""


class ArtifactError(DeployError):
    """A file is missing, damaged or of the wrong kind."""


class DigestError(ArtifactError):
    """A file differs from its manifest."""

    exit_code = 3


class ParityError(DeployError):
    """A result does not match the model's; it was not published."""

    exit_code = 3


class StorageError(DeployError):
    """A file or folder could not be written: no space, no permission, an I/O error."""
