"""Exceptions of runtimes, turned into errors of this package."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.core.errors import BackendError, ModelError
from deploy.core.runner import Feeds
from deploy.core.tensors import TensorSpec
from deploy.support.user_code import told


def first_line(error: BaseException, max_length: int = 300) -> str:
    """Return the first line of an exception's message, cut if it is long; its class name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:max_length] if lines else type(error).__name__


def run_error(runtime: str, feeds: Feeds, reason: str) -> BackendError:
    """Return the error for a runtime that failed to run; its message states the shapes of the inputs."""
    shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
    return BackendError(f"{runtime} failed on {shapes or 'no inputs'}: {reason}")


def refused_inputs(model: str, inputs: Sequence[TensorSpec], exc: Exception) -> ModelError:
    """Return the error for a model that raised an exception on inputs of its own specification."""
    return ModelError(f"{model} does not run on {'; '.join(map(str, inputs))}: {told(exc)}")
