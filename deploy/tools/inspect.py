"""``deploy inspect``: describe an ONNX file without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from deploy.core.artifact import Artifact, sha256
from deploy.core.errors import UsageError
from deploy.core.plain import to_plain
from deploy.core.tensors import TensorSpec, symbols
from deploy.support import onnx_file
from deploy.support.lookup import manifest_beside
from deploy.support.onnx_costs import Costs, costs


@dataclass(frozen=True, kw_only=True, slots=True)
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with ``model`` and the verdict ``parity`` from the manifest."""
        plain = {key: value for key, value in to_plain(self).items() if key not in ("path", "artifact")}
        manifest = self.artifact.manifest if self.artifact else None
        return {
            "file": str(self.path),
            **plain,
            "model": manifest.model if manifest else None,
            "parity": manifest.parity["verdict"] if manifest and manifest.parity else None,
        }


def inspect(path: Path, *, batch: int = 1, sizes: Mapping[str, int] | None = None) -> InspectReport:
    """Describe an ONNX file without running it.

    Args:
        path: the file; the location of its external data is checked.
        batch: size of the first input's first dimension, if that is dynamic, for the costs.
        sizes: sizes of other dynamic dimensions; by default those the file was traced with, else 1.

    Raises:
        ArtifactError: the file is damaged.
        UsageError: another batch than the fixed one of the file.
    """
    model = onnx_file.load(path)
    artifact = manifest_beside(path)
    stored = list(onnx_file.stored_tensors(model))
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(
        onnx_file.tensor_spec(value, path, "?") for value in model.graph.input if value.name not in initializers
    )
    traced = dict(artifact.manifest.options.get("sizes", {})) if artifact else {}
    bound = {name: traced.get(name, 1) for name in symbols(inputs)}
    if inputs and inputs[0].shape and isinstance(inputs[0].shape[0], str):
        bound[inputs[0].shape[0]] = batch
    elif batch != 1 and (not inputs or inputs[0].shape[:1] != (batch,)):
        raise UsageError(f"--batch {batch}: the first dimension of {path.name} is fixed.")
    bound |= dict(sizes or {})
    totals = costs(path, bound)
    return InspectReport(
        path=path,
        sha256=sha256(path),
        bytes=sum(item.stat().st_size for item in [path, *onnx_file.external_files(model, path)]),
        opset=onnx_file.opset(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=inputs,
        outputs=tuple(onnx_file.tensor_spec(value, path, "?") for value in model.graph.output),
        operators=dict(Counter(node.op_type for node in onnx_file.all_nodes(model)).most_common()),
        parameters=totals.parameters,
        parameter_bytes=sum(
            math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            for tensor in stored
        ),
        sizes=bound,
        costs=totals,
        artifact=artifact,
    )
