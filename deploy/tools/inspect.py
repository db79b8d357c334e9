"""``deploy inspect``: describe an ONNX file without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.artifact import UNPROVEN, Artifact, sha256
from deploy.core.brief import brief
from deploy.core.plain import from_plain, to_plain
from deploy.core.tensors import TensorSpec
from deploy.models.given import text_of
from deploy.support.costs import Costs
from deploy.support.lookup import manifest_beside
from deploy.support.onnx_child import OnnxChild
from deploy.support.provenance import Stale, stale_file

_PLAIN = ("bytes", "opset", "producer", "operators", "parameters", "parameter_bytes", "sizes")
"""Fields of the report that are plain values."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class InspectReport:
    """What an ONNX file contains.

    Attributes:
        bytes: size of the file, with external data.
        opset: version of the standard operator set.
        producer: name and version of the program that wrote the file.
        inputs, outputs: a dynamic dimension without a name is ``?``.
        operators: number of nodes per operator.
        parameters: number of stored values of floating-point or 8-bit types (weights, quantized or not).
        parameter_bytes: size of all stored values.
        sizes: size of each dynamic dimension for ``costs``.
        artifact: the file with its manifest; None where it has none.
    """

    path: Path
    sha256: str
    bytes: int
    opset: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    sizes: Mapping[str, int]
    costs: Costs
    artifact: Artifact | None

    def __repr__(self) -> str:
        return brief(self, self.path, f"{self.parameters} parameters", f"opset {self.opset}")

    @property
    def stale(self) -> Stale | None:
        """Why the file is stale: made from other weights than the export beside it."""
        return stale_file(self.artifact) if self.artifact else None

    @property
    def verdict(self) -> str:
        """The verdict of the parity check; ``unproven`` without one."""
        return self.artifact.manifest.verdict if self.artifact else UNPROVEN

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with ``model`` from the manifest and the verdict ``parity``."""
        plain = {key: value for key, value in to_plain(self).items() if key not in ("path", "artifact")}
        manifest = self.artifact.manifest if self.artifact else None
        return {
            "file": str(self.path),
            **plain,
            "model": manifest.model if manifest else None,
            "parity": self.verdict,
            "stale": to_plain(self.stale),
        }


def inspect(path: str | Path | Artifact, *, batch: int = 1, sizes: Mapping[str, int] | None = None) -> InspectReport:
    """Describe an ONNX file without running it.

    Args:
        path: the file or artifact; the location of its external data is checked.
        batch: size of the first input's first dimension, if that is dynamic, for the costs.
        sizes: sizes of other dynamic dimensions; by default those the file was traced with, else 1.

    Raises:
        ArtifactError: the file is damaged or exceeds a limit.
        UsageError: another batch than the fixed one of the file.
    """
    path = Path(text_of(path))
    with OnnxChild() as child:
        artifact = manifest_beside(path)
        digest = sha256(path)
        traced = artifact.manifest.options.get("sizes", {}) if artifact else {}
        described = child.describe(path, batch=batch, sizes=dict(sizes or {}), traced=dict(traced))
    return InspectReport(
        path=path,
        sha256=digest,
        artifact=artifact,
        inputs=from_plain(tuple[TensorSpec, ...], described["inputs"]),
        outputs=from_plain(tuple[TensorSpec, ...], described["outputs"]),
        costs=from_plain(Costs, described["costs"]),
        **{name: described[name] for name in _PLAIN},
    )
