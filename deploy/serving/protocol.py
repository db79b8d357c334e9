"""The Open Inference Protocol, version 2, with binary tensors: parses requests and writes responses.

Sources: KServe, "Open Inference Protocol (V2)"; Triton's extensions for binary tensor data and classification.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from deploy.core.limits import limits
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import DATATYPES, TensorSpec

Body = bytes | mmap
"""A received body."""
MAX_DIMENSION = 1 << 48
"""Size that no dimension of a tensor reaches."""
STEP = 1 << 14
"""Values that are converted in one call, so that other threads can run between the calls."""
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
    text: Body, binary: memoryview, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferenceRequest:
    """Parse and check a request: its JSON, and its binary tensors."""
    text = text[:]
    _check_json(text)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise RequestError(400, f"the request is not valid JSON: {exc}.") from exc
    if not isinstance(document, dict):
        raise RequestError(400, "the request is not a JSON object.")
    feeds = _feeds(_objects(document, "inputs", inputs), binary, inputs)
    request_id = document.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > limits().serve_id_bytes:
        raise RequestError(400, f"'id' is not a string of at most {limits().serve_id_bytes} characters.")
    return InferenceRequest(id=request_id, feeds=feeds, outputs=_requested_outputs(document, outputs))


def write_response(
    model: str, version: str, request: InferenceRequest, fetches: Fetches, labels: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a response.

    Raises:
        RequestError: status 406: JSON was requested for an output with NaN or infinity, which JSON cannot represent;
            status 400: too many class labels were requested.
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


def split_body(body: Body, header_length: str | None) -> tuple[Body, memoryview]:
    """Return the JSON of a body and what follows it, which is nothing without the header `HEADER_LENGTH`."""
    view = memoryview(body)
    if header_length is None:
        return body, view[len(body) :]
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 18:
        raise RequestError(400, f"{HEADER_LENGTH} is not a number of bytes.")
    length = int(header_length)
    if length > len(body):
        raise RequestError(400, f"{HEADER_LENGTH} is {length}, but the body has {len(body)} bytes.")
    return body[:length], view[length:]


def _check_json(text: bytes) -> None:
    """Check the size of the document that JSON becomes before it is parsed."""
    if len(text) > limits().serve_json_bytes:
        raise RequestError(413, f"the JSON is larger than {limits().serve_json_bytes} bytes; binary tensors may be.")
    values = text.count(b",") + 16 * sum(map(text.count, (b"[", b"{", b":")))
    if values > limits().serve_json_values:
        raise RequestError(413, f"the JSON has more than {limits().serve_json_values} values; binary tensors may.")


def _objects(document: Mapping[str, Any], name: str, specs: Sequence[TensorSpec]) -> list[Mapping[str, Any]]:
    items = document.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RequestError(400, f"{name!r} is not a list of objects.")
    known = [spec.name for spec in specs]
    names = set[str]()
    for item in items:
        found = item.get("name")
        if not isinstance(found, str):
            raise RequestError(400, f"an object in {name!r} has no name.")
        if found not in known:
            raise RequestError(400, f"{found[:80]!r} in {name!r} is unknown; the model has {', '.join(known)}.")
        if found in names:
            raise RequestError(400, f"{name!r} contains {found!r} more than once.")
        names.add(found)
    return items


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, "'parameters' is not an object.")
    return parameters


def _feeds(items: Sequence[Mapping[str, Any]], binary: memoryview, inputs: Sequence[TensorSpec]) -> Feeds:
    specs = {spec.name: spec for spec in inputs}
    missing = next(iter(specs.keys() - {item["name"] for item in items}), None)
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
        raise RequestError(400, f"input {spec.name!r}: the datatype is not {datatype}.")
    shape = item.get("shape")
    if not isinstance(shape, list) or len(shape) != len(spec.shape):
        raise RequestError(400, f"input {spec.name!r}: 'shape' is not a list of {len(spec.shape)} integers.")
    if not all(type(dim) is int and 0 < dim < MAX_DIMENSION for dim in shape):
        raise RequestError(400, f"input {spec.name!r}: 'shape' is not a list of positive integers.")
    fits = all(
        size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
        for size, dim in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise RequestError(400, f"input {spec.name!r} has shape {shape}; the model expects {spec}.")
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
    """Convert a flat or nested list, after a check of its types: NumPy makes large arrays of long strings."""
    dtype = np.dtype(spec.dtype)
    values = _flat(data, shape)
    if values is None or len(values) != math.prod(shape):
        raise RequestError(400, f"input {spec.name!r}: 'data' is not a list of shape {list(shape)}, flat or nested.")
    array = np.empty(len(values), np.float64 if dtype.kind == "f" else dtype)
    types: dict[str, set[type]] = {"b": {bool}, "f": {int, float}}
    out_of_range = RequestError(400, f"input {spec.name!r}: a value is out of range for {DATATYPES[spec.dtype]}.")
    for start in range(0, len(values), STEP):
        part = values[start : start + STEP]
        if not types.get(dtype.kind, {int}).issuperset(map(type, part)):
            raise RequestError(
                400, f"input {spec.name!r}: 'data' contains values that are not {DATATYPES[spec.dtype]}."
            )
        if dtype.kind in "iu" and (min(part) < np.iinfo(dtype).min or max(part) > np.iinfo(dtype).max):
            raise out_of_range
        array[start : start + STEP] = part
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise out_of_range
    return converted


def _flat(data: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """Return the values of a list that is flat or nested as ``shape`` says; None if it is neither."""
    if not isinstance(data, list):
        return None
    values: list[Any] = data
    if not values or not isinstance(values[0], list):
        return values
    if not shape or len(values) != shape[0]:
        return None
    for size in shape[1:]:
        if not all(isinstance(item, list) and len(item) == size for item in values):
            return None
        values = list(itertools.chain.from_iterable(values))
    return values


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
    requested = []
    for item in _objects(document, "outputs", outputs):
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
    limit = limits().serve_labels
    if len(rows) * min(classes, rows.shape[1]) > limit:
        raise RequestError(400, f"'classification' asks for more than {limit} labels in one response.")
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
