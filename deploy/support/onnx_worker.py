"""The child's side of `deploy.support.onnx_child.OnnxChild`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message

from deploy.core.errors import ArtifactError, DeployError, UsageError
from deploy.core.limits import how_to_raise
from deploy.core.memory import limit_memory
from deploy.core.plain import to_plain
from deploy.core.remote import Reply
from deploy.core.runner import Feeds
from deploy.core.tensors import DATATYPES, symbols
from deploy.support import onnx_costs, onnx_file
from deploy.support.onnx_structure import check_structure

_SHARE = 0.125
"""Share of the memory limit for a process that reads a file and does not run it."""


class OnnxWorker:
    """Reads ONNX files within the limits of this process."""

    def examine(self, _: Feeds, path: str) -> Reply:
        """Read a file and every text in it."""
        with _reading(Path(path)) as file:
            _read(file)
        return {}, {}

    def outline(self, _: Feeds, path: str) -> Reply:
        """Return what `deploy.support.lone_file.open_artifact` needs of a file: files, inputs, outputs, precision."""
        with _reading(Path(path)) as file:
            model = _read(file)
            inputs, outputs = onnx_file.specs_of(model, file)
            for spec in (*inputs, *outputs):
                if spec.dtype not in DATATYPES:
                    raise ArtifactError(f"{file}: {spec.name!r} holds values of type {spec.dtype}, not numbers.")
            return to_plain(
                {
                    "files": [item.name for item in onnx_file.external_files(model, file)],
                    "inputs": inputs,
                    "outputs": outputs,
                    "precision": onnx_file.precision(model),
                }
            ), {}

    def validate(self, _: Feeds, path: str) -> Reply:
        """Check a file against the ONNX specification."""
        with _reading(Path(path)) as file:
            onnx_file.load(file)
            onnx_file.check(file)
        return {}, {}

    def costs(self, _: Feeds, path: str, sizes: dict[str, int]) -> Reply:
        """Count operations and bytes; see `deploy.support.onnx_costs.costs`."""
        with _reading(Path(path)) as file:
            return to_plain(onnx_costs.costs(file, sizes)), {}

    def describe(self, _: Feeds, path: str, batch: int, sizes: dict[str, int], traced: dict[str, int]) -> Reply:
        """Return the fields of `deploy.tools.inspect.InspectReport` that the graph decides."""
        with _reading(Path(path)) as file:
            return _describe(file, batch, sizes, traced), {}


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    limit_memory(path, _SHARE)
    try:
        yield path
    except DeployError:
        raise
    except MemoryError as exc:
        raise ArtifactError(f"{path}: too little memory to read it.", how_to_raise("onnx_memory_bytes")) from exc
    except Exception as exc:  # whatever a damaged file causes
        raise ArtifactError(f"{path}: damaged: {type(exc).__name__}: {exc}") from exc


def _read(path: Path) -> onnx.ModelProto:
    """Read a file, every text in it, and what reads what."""
    model = onnx_file.load(path)
    _check_texts(model, path)
    check_structure(model, path)
    return model


def _check_texts(message: Message, path: Path) -> None:
    """Refuse text that is not UTF-8, except comments; protobuf reads it as bytes, or not at all."""
    for field, value in message.ListFields():
        if field.message_type:
            for item in (value,) if isinstance(value, Message) else value:
                _check_texts(item, path)
        elif field.type == field.TYPE_STRING and field.name != "doc_string":
            for item in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(item, bytes):
                    raise ArtifactError(f"{path}: a text is not UTF-8: {item[:60]!r}.")


def _describe(path: Path, batch: int, sizes: dict[str, int], traced: dict[str, int]) -> dict[str, Any]:
    model = _read(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(
        onnx_file.tensor_spec(value, path, "?") for value in model.graph.input if value.name not in initializers
    )
    bound = {name: traced.get(name, 1) for name in symbols(inputs)}
    if inputs and inputs[0].shape and isinstance(inputs[0].shape[0], str):
        bound[inputs[0].shape[0]] = batch
    elif batch != 1 and (not inputs or inputs[0].shape[:1] != (batch,)):
        raise UsageError(f"--batch {batch}: the first dimension of {path.name} is fixed.")
    bound |= sizes
    described = {
        "bytes": sum(item.stat().st_size for item in [path, *onnx_file.external_files(model, path)]),
        "opset": onnx_file.opset(model),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": inputs,
        "outputs": tuple(onnx_file.tensor_spec(value, path, "?") for value in model.graph.output),
        "operators": dict(Counter(node.op_type for node in onnx_file.all_nodes(model)).most_common()),
        "parameter_bytes": sum(map(onnx_file.tensor_bytes, onnx_file.stored_tensors(model))),
        "sizes": bound,
    }
    totals = onnx_costs.count(model, path, bound)
    return dict(to_plain({**described, "parameters": totals.parameters, "costs": totals}))
