"""``deploy inspect``: what an ONNX file holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deploy.core.artifact import Artifact, sha256
from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec, symbols
from deploy.support import onnx_file
from deploy.support.onnx_costs import Costs, costs
from deploy.support.stored import manifest_beside


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectReport:
    """What `inspect` found.

    Attributes:
        operators: how many nodes of each operator.
        parameters: number of stored values of floating or 8-bit types (weights, quantized or not).
        costs: at ``sizes``.
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
        """Plain values for JSON."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("path", "artifact")}
        manifest = self.artifact.manifest if self.artifact else None
        return {
            "file": str(self.path),
            **plain,
            "model": manifest.model if manifest else None,
            "parity": manifest.parity["verdict"] if manifest and manifest.parity else None,
        }


def inspect(path: Path, *, batch: int = 1, sizes: Mapping[str, int] | None = None) -> InspectReport:
    """Read an ONNX file without running it.

    Args:
        path: the file; its external data is checked and not trusted.
        batch: size of the first dynamic dimension of the first input, for the costs.
        sizes: sizes of the other dynamic dimensions, default those it was traced with, else 1.

    Raises:
        ArtifactError: the file is damaged.
        UsageError: another batch than the fixed one of the file.
    """
    model = onnx_file.load(path)
    artifact = manifest_beside(path)
    stored = list(onnx_file.stored_tensors(model))
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(spec(value) for value in model.graph.input if value.name not in initializers)
    traced = dict(artifact.manifest.options.get("sizes", {})) if artifact else {}
    bound = {name: traced.get(name, 1) for name in symbols(inputs)}
    if inputs and inputs[0].shape and isinstance(inputs[0].shape[0], str):
        bound[inputs[0].shape[0]] = batch
    elif batch != 1 and (not inputs or inputs[0].shape[:1] != (batch,)):
        raise UsageError(f"--batch {batch}: the first dimension of {path.name} is fixed.")
    bound |= dict(sizes or {})
    counted = [(math.prod(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)) for tensor in stored]
    found = costs(path, bound)
    data = [path.parent / name for name in _external_files(stored)]
    return InspectReport(
        path=path,
        sha256=sha256(path),
        bytes=sum(item.stat().st_size for item in [path, *data]),
        opset=onnx_file.opset(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=inputs,
        outputs=tuple(spec(value) for value in model.graph.output),
        operators=dict(Counter(node.op_type for node in onnx_file.all_nodes(model)).most_common()),
        parameters=found.parameters,
        parameter_bytes=sum(count * dtype.itemsize for count, dtype in counted),
        sizes=bound,
        costs=found,
        artifact=artifact,
    )


def _external_files(stored: list[onnx.TensorProto]) -> set[str]:
    external = [tensor for tensor in stored if tensor.data_location == onnx.TensorProto.EXTERNAL]
    return {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}


def spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """A graph's input or output as a spec; unknown dimensions are named ``?``."""
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
