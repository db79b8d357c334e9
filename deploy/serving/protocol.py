"""The Open Inference Protocol, version 2, with binary tensors: parses requests and writes responses.

Sources: KServe, "Open Inference Protocol (V2)"; Triton's extensions for binary tensor data and classification.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import DATATYPES, TensorSpec

HEADER_LENGTH = "inference-header-content-length"
"""The header with the number of bytes of JSON in the body; binary tensors follow the JSON."""


class RequestError(Exception):
    """An error status for the client; ``retry_after_s`` is None if trying again does not help."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestedOutput:
    """An output that a request asks for, as bytes after the JSON if ``binary``.

    ``classes`` asks for that many of the largest values as ``value:index:label``; 0 for the tensor itself.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceRequest:
    """A valid request; its arrays have the dtypes and shapes of the model, and its outputs are in order."""

    id: str
    feeds: Feeds
    outputs: tuple[RequestedOutput, ...]


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor's metadata as the protocol defines it; dynamic dimensions are -1."""
    return {
        "name": spec.name,
        "datatype": DATATYPES[spec.dtype],
        "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
    }


def read_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferenceRequest:
    """Parse and check a body: JSON, followed by binary tensors if there is the header `HEADER_LENGTH`."""
    text, binary = _split(body, header_length)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise RequestError(400, f"the request is not valid JSON: {exc}.") from exc
    if not isinstance(document, dict):
        raise RequestError(400, "the request is not a JSON object.")
    feeds = _feeds(_objects(document, "inputs"), binary, inputs)
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise RequestError(400, "'id' is not a string.")
    return InferenceRequest(id=request_id, feeds=feeds, outputs=_requested_outputs(document, outputs))


def write_response(
    model: str, version: str, request: InferenceRequest, fetches: Fetches, labels: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a response.

    Raises:
        RequestError: status 406: JSON was requested for an output with NaN or infinity, which JSON cannot represent.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for item in request.outputs:
        array = fetches[item.name]
        shown = _top_classes(array, item.classes, labels) if item.classes else array
        datatype = "BYTES" if item.classes else DATATYPES[array.dtype.name]
        entry: dict[str, Any] = {"name": item.name, "datatype": datatype, "shape": list(shown.shape)}
        if item.binary:
            parts.append(_encode_strings(shown) if item.classes else array.tobytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        elif item.classes:
            entry["data"] = shown.ravel().tolist()
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise RequestError(406, f"output {item.name!r} has NaN or infinite values: request binary data.")
            widened = array.astype(np.float32) if array.dtype == np.float16 else array
            entry["data"] = np.ascontiguousarray(widened).ravel()
        described.append(entry)
    document = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        document["id"] = request.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return text, {"content-type": "application/json"}
    return b"".join([text, *parts]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[len(body) :]
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 18:
        raise RequestError(400, f"{HEADER_LENGTH} is not a number of bytes.")
    length = int(header_length)
    if length > len(body):
        raise RequestError(400, f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes.")
    return view[:length], view[length:]


def _objects(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = document.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RequestError(400, f"{name!r} is not a list of objects.")
    names = [item.get("name") for item in items]
    if not all(isinstance(item, str) for item in names):
        raise RequestError(400, f"an object in {name!r} has no name.")
    duplicate = next((item for item in names if names.count(item) > 1), None)
    if duplicate is not None:
        raise RequestError(400, f"{name!r} contains {duplicate!r} more than once.")
    return items


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, "'parameters' is not an object.")
    return parameters


def _feeds(items: Sequence[Mapping[str, Any]], binary: memoryview, inputs: Sequence[TensorSpec]) -> Feeds:
    specs = {spec.name: spec for spec in inputs}
    unknown = next((item["name"] for item in items if item["name"] not in specs), None)
    if unknown is not None:
        raise RequestError(400, f"unknown input {unknown!r}; the model's inputs are {', '.join(specs)}.")
    missing = next((name for name in specs if all(item["name"] != name for item in items)), None)
    if missing is not None:
        raise RequestError(400, f"input {missing!r} is missing.")
    feeds: dict[str, NDArray[Any]] = {}
    sizes: dict[str, int] = {}
    start = 0
    for item in items:
        spec = specs[item["name"]]
        shape = _shape(item, spec, sizes)
        size = _parameters(item).get("binary_data_size")
        if size is None:
            feeds[spec.name] = _from_json(item.get("data"), spec, shape)
            continue
        if "data" in item:
            raise RequestError(400, f"input {spec.name!r} has both 'data' and binary data.")
        feeds[spec.name] = _from_bytes(binary[start:], size, spec, shape)
        start += size
    if start != len(binary):
        raise RequestError(400, f"the request has {len(binary)} bytes of binary data, but the inputs use {start}.")
    for spec in inputs:
        _check_bounds(feeds[spec.name], spec)
    return {spec.name: feeds[spec.name] for spec in inputs}


def _shape(item: Mapping[str, Any], spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    """Return an input's shape after checking it; a symbolic dimension has the same size in the whole request."""
    datatype = DATATYPES[spec.dtype]
    if item.get("datatype") != datatype:
        raise RequestError(
            400, f"input {spec.name!r}: the datatype is {datatype}, not {str(item.get('datatype'))[:40]}."
        )
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(dim) is int and 0 < dim < 1 << 48 for dim in shape):
        raise RequestError(400, f"input {spec.name!r}: 'shape' is not a list of positive integers.")
    fits = len(shape) == len(spec.shape) and all(
        size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
        for size, dim in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise RequestError(400, f"input {spec.name!r} has shape {shape[:16]}; the model expects {spec}.")
    refused = spec.refused(shape)
    if refused:
        raise RequestError(400, f"input {spec.name!r}: {refused}.")
    return tuple(shape)


def _from_bytes(binary: memoryview, size: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    expected = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != expected:
        raise RequestError(400, f"input {spec.name!r}: binary_data_size must be {expected} bytes for its shape.")
    if len(binary) < expected:
        raise RequestError(400, f"input {spec.name!r}: {len(binary)} of {expected} bytes of binary data are there.")
    if dtype == np.bool_:
        flags = np.frombuffer(binary[:expected], np.uint8)
        if flags.max() > 1:
            raise RequestError(400, f"input {spec.name!r}: a BOOL value is not 0 or 1.")
    return np.frombuffer(binary[:expected], dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if not isinstance(data, list):
        raise RequestError(400, f"input {spec.name!r}: 'data' is not a list.")
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as exc:
        raise RequestError(400, f"input {spec.name!r}: 'data' is not a regular array of numbers.") from exc
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed:
        raise RequestError(400, f"input {spec.name!r}: 'data' contains values that are not {DATATYPES[spec.dtype]}.")
    if array.size != math.prod(shape) or array.shape not in ((array.size,), shape):
        raise RequestError(400, f"input {spec.name!r}: 'data' has shape {list(array.shape)[:16]}, not {list(shape)}.")
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise RequestError(400, f"input {spec.name!r}: a value is out of range for {DATATYPES[spec.dtype]}.")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise RequestError(400, f"input {spec.name!r}: a value is out of range for {DATATYPES[spec.dtype]}.")
    return converted


def _check_bounds(array: NDArray[Any], spec: TensorSpec) -> None:
    if spec.bounds is None:
        return
    low, high = spec.bounds
    largest = array.max()
    if array.min() < low or largest > high or (array.dtype.kind in "iu" and largest == high):
        raise RequestError(400, f"input {spec.name!r}: a value is outside {low:g}..{high:g}.")


def _requested_outputs(document: Mapping[str, Any], outputs: Sequence[TensorSpec]) -> tuple[RequestedOutput, ...]:
    binary = _flag(_parameters(document), "binary_data_output", default=False)
    if document.get("outputs") is None:
        return tuple(RequestedOutput(name=spec.name, binary=binary) for spec in outputs)
    names = [spec.name for spec in outputs]
    requested = []
    for item in _objects(document, "outputs"):
        if item["name"] not in names:
            raise RequestError(400, f"unknown output {item['name']!r}; the model's outputs are {', '.join(names)}.")
        parameters = _parameters(item)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes <= 1 << 20:
            raise RequestError(400, "'classification' is not a valid number of classes.")
        as_bytes = _flag(parameters, "binary_data", default=binary)
        requested.append(RequestedOutput(name=item["name"], binary=as_bytes, classes=classes))
    return tuple(requested)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(400, f"{name!r} is not true or false.")
    return value


def _top_classes(array: NDArray[Any], classes: int, labels: Sequence[str]) -> NDArray[Any]:
    """Return ``value:index:label`` for the largest values of every sample, the largest first."""
    rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :classes]
    named = len(labels) == rows.shape[1]
    return np.asarray(
        [
            [f"{row[index]:f}:{index}" + (f":{labels[index]}" if named else "") for index in indices]
            for row, indices in zip(rows, order, strict=True)
        ],
        dtype=object,
    )


def _encode_strings(strings: NDArray[Any]) -> bytes:
    """Encode each string as its length (four bytes, little-endian) followed by its bytes."""
    encoded = [item.encode() for item in strings.ravel()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in encoded)
