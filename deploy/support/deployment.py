"""The record of a choice: which file runs on which backend with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from deploy.core import records
from deploy.core.artifact import sha256
from deploy.core.errors import ArtifactError, DigestError, UsageError
from deploy.core.plain import from_plain, to_plain

SCHEMA = 1
KIND = "deployment"
VARIANT = "variant"
"""The option of a timed cell that names the variant of a choice."""
FIXING = {"sizes", "shapes"}
"""Options of runners that fix the sizes of the inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A choice that ``deploy optimize`` made.

    Attributes:
        model: full name of the model.
        file: name of the file in the model's folder; None where the backend runs the PyTorch model.
        sha256: digest of the file, or of the weights.
        variant: the backend's name for the options; empty for its usual ones.
        changed: options of the backend's runner that the variant sets.
        options: all options of the backend's runner.
        threads: threads within an operator.
        batch: batch size that was timed.
        evidence: the result of its parity check or of the quantization.
        speedup: time of PyTorch over the time of this: value, and ends of the interval; None without PyTorch.
    """

    model: str
    file: str | None
    sha256: str
    backend: str
    precision: str
    variant: str
    changed: Mapping[str, Any]
    options: Mapping[str, Any]
    threads: int
    batch: int
    device: str
    evidence: Mapping[str, Any]
    speedup: Mapping[str, float | None] | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str


def save(root: Path, slug: str, deployment: Deployment) -> Path:
    """Write the choice for a model; an earlier one is replaced.

    Raises:
        StorageError: the file cannot be written.
    """
    path = root / slug / records.DEPLOYMENT
    records.save(path, KIND, SCHEMA, {"deployment": to_plain(deployment)})
    return path


def load(path: Path) -> Deployment:
    """Read a choice.

    Raises:
        ArtifactError: the record is damaged, or is none of a choice.
        DigestError: the record was changed.
    """
    try:
        return from_plain(Deployment, records.load(path, KIND, SCHEMA)["deployment"])
    except (KeyError, ValueError) as exc:
        raise ArtifactError(f"{path}: {exc}.", "deploy optimize MODEL") from exc


def is_deployment(model: object) -> TypeGuard[str | Path]:
    """Return whether what is given as a model is the path of the record of a choice."""
    return isinstance(model, str | Path) and Path(model).name == records.DEPLOYMENT and Path(model).is_file()


def chosen_file(path: Path, deployment: Deployment) -> Path:
    """Return the file that was chosen, which lies beside the record.

    Raises:
        UsageError: PyTorch was chosen, which runs no file.
        DigestError: the file is another one than the one that was timed.
        ArtifactError: it does not exist.
    """
    if deployment.file is None:
        raise UsageError(
            f"{path}: the choice is {deployment.backend}, which runs the model and no file.",
            f"choose among files: deploy optimize {deployment.model} --backends onnxruntime,openvino",
        )
    file = path.with_name(deployment.file)
    if sha256(file) != deployment.sha256:
        raise DigestError(
            f"{file}: another file than the one that {path} chose.", f"choose again: deploy optimize {deployment.model}"
        )
    return file
