"""The Open Inference Protocol, version 2, with binary tensors: requests and responses as bytes.

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
from deploy.serving.refusal import Refusal

HEADER_LENGTH = "inference-header-content-length"
"""Names the header that says how many bytes of the body are JSON; tensors follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """An output that is asked for.

    Attributes:
        binary: as bytes behind the JSON.
        classes: so many of the largest, as ``value:index:label``; 0 for the tensor itself.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that can be run.

    Attributes:
        feeds: arrays by input name, dtypes and shapes as the model's.
    """

    id: str
    feeds: Feeds
    outputs: tuple[Wanted, ...]


def describe(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol's metadata tells it; -1 for a dimension that varies."""
    return {
        "name": spec.name,
        "datatype": DATATYPES[spec.dtype],
        "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
    }


def read_request(
    body: bytes, header_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Request:
    """Read the body of a request and hold it against the model.

    Args:
        body: JSON, with tensors behind it if ``header_length`` says so.
        header_length: the header of that name; None where the whole body is JSON.
        inputs: what the model takes.
        outputs: what it gives.

    Raises:
        Refusal: 400, with what is wrong.
    """
    text, binary = _divide(body, header_length)
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise Refusal(400, f"the request is not JSON: {exc}.") from exc
    if not isinstance(document, dict):
        raise Refusal(400, "the request is not a JSON object.")
    feeds = _feeds(_objects(document, "inputs"), binary, inputs)
    identity = document.get("id", "")
    if not isinstance(identity, str):
        raise Refusal(400, "'id' is not a string.")
    return Request(id=identity, feeds=feeds, outputs=_wanted(document, outputs))


def write_response(
    model: str, version: str, request: Request, fetches: Fetches, labels: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """The body of a response and its headers.

    Raises:
        Refusal: 406, an output that is not finite was asked for in JSON, which has no word for it.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for item in request.outputs:
        array = fetches[item.name]
        entry: dict[str, Any] = {"name": item.name}
        if item.classes:
            strings = _classified(array, item.classes, labels)
            entry |= {"datatype": "BYTES", "shape": list(strings.shape)}
            raw, data = _packed_strings(strings) if item.binary else b"", strings.ravel().tolist()
        else:
            entry |= {"datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
            raw, data = array.tobytes() if item.binary else b"", None
            if not item.binary:
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise Refusal(406, f"output {item.name!r} is not finite: JSON cannot say it, ask for binary data.")
                widened = array.astype(np.float32) if array.dtype == np.float16 else array
                data = np.ascontiguousarray(widened).ravel()
        if item.binary:
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = data
        described.append(entry)
    document = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        document["id"] = request.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not parts:
        return text, {"content-type": "application/json"}
    return b"".join([text, *parts]), {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _divide(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[len(body) :]
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 18:
        raise Refusal(400, f"{HEADER_LENGTH} is not a number of bytes.")
    length = int(header_length)
    if length > len(body):
        raise Refusal(400, f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes.")
    return view[:length], view[length:]


def _objects(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = document.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refusal(400, f"{name!r} is not a list of objects.")
    names = [item.get("name") for item in items]
    if not all(isinstance(item, str) for item in names):
        raise Refusal(400, f"an object of {name!r} has no name.")
    twice = next((item for item in names if names.count(item) > 1), None)
    if twice is not None:
        raise Refusal(400, f"{twice!r} is there twice in {name!r}.")
    return items


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("parameters", {})
    if not isinstance(found, dict):
        raise Refusal(400, "'parameters' is not an object.")
    return found


def _feeds(items: Sequence[Mapping[str, Any]], binary: memoryview, inputs: Sequence[TensorSpec]) -> Feeds:
    specs = {spec.name: spec for spec in inputs}
    unknown = next((item["name"] for item in items if item["name"] not in specs), None)
    if unknown is not None:
        raise Refusal(400, f"there is no input {unknown!r}; the model takes {', '.join(specs)}.")
    missing = next((name for name in specs if all(item["name"] != name for item in items)), None)
    if missing is not None:
        raise Refusal(400, f"input {missing!r} is missing.")
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
            raise Refusal(400, f"input {spec.name!r} has both 'data' and binary data.")
        feeds[spec.name] = _from_bytes(binary[start:], size, spec, shape)
        start += size
    if start != len(binary):
        raise Refusal(400, f"{len(binary)} bytes of binary data, of which the inputs account for {start}.")
    for spec in inputs:
        _within(feeds[spec.name], spec)
    return {spec.name: feeds[spec.name] for spec in inputs}


def _shape(item: Mapping[str, Any], spec: TensorSpec, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape, held against the model's; a named dimension has one size in the whole request."""
    wanted = DATATYPES[spec.dtype]
    if item.get("datatype") != wanted:
        raise Refusal(400, f"input {spec.name!r} is {wanted}, not {str(item.get('datatype'))[:40]}.")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(dim) is int and 0 < dim < 1 << 48 for dim in shape):
        raise Refusal(400, f"the shape of input {spec.name!r} is not a list of positive sizes.")
    fits = len(shape) == len(spec.shape) and all(
        have == (want if isinstance(want, int) else sizes.setdefault(want, have))
        for have, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise Refusal(400, f"input {spec.name!r} has shape {shape[:16]}; the model takes {spec}.")
    return tuple(shape)


def _from_bytes(binary: memoryview, size: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    want = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != want:
        raise Refusal(400, f"input {spec.name!r}: binary_data_size is not the {want} bytes of its shape.")
    if len(binary) < want:
        raise Refusal(400, f"input {spec.name!r}: {len(binary)} bytes are left of the {want} it should have.")
    if dtype == np.bool_:
        flags = np.frombuffer(binary[:want], np.uint8)
        if flags.max() > 1:
            raise Refusal(400, f"input {spec.name!r}: a BOOL is neither 0 nor 1.")
    return np.frombuffer(binary[:want], dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if not isinstance(data, list):
        raise Refusal(400, f"input {spec.name!r} has no list 'data'.")
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as exc:
        raise Refusal(400, f"input {spec.name!r}: 'data' is not a regular array of numbers.") from exc
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.dtype.kind not in allowed:
        raise Refusal(400, f"input {spec.name!r}: 'data' does not hold values of {DATATYPES[spec.dtype]}.")
    if array.size != math.prod(shape) or array.shape not in ((array.size,), shape):
        raise Refusal(400, f"input {spec.name!r}: 'data' has shape {list(array.shape)[:16]}, not {list(shape)}.")
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise Refusal(400, f"input {spec.name!r}: a value does not fit {DATATYPES[spec.dtype]}.")
    with np.errstate(over="ignore"):
        made = array.astype(dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(made).all():
        raise Refusal(400, f"input {spec.name!r}: a value does not fit {DATATYPES[spec.dtype]}.")
    return made


def _within(array: NDArray[Any], spec: TensorSpec) -> None:
    if spec.bounds is None:
        return
    low, high = spec.bounds
    most = array.max()
    if array.min() < low or most > high or (array.dtype.kind in "iu" and most == high):
        raise Refusal(400, f"input {spec.name!r}: a value is outside {low:g}..{high:g}.")


def _wanted(document: Mapping[str, Any], outputs: Sequence[TensorSpec]) -> tuple[Wanted, ...]:
    binary = _flag(_parameters(document), "binary_data_output", default=False)
    if document.get("outputs") is None:
        return tuple(Wanted(name=spec.name, binary=binary) for spec in outputs)
    names = [spec.name for spec in outputs]
    wanted = []
    for item in _objects(document, "outputs"):
        if item["name"] not in names:
            raise Refusal(400, f"there is no output {item['name']!r}; the model gives {', '.join(names)}.")
        parameters = _parameters(item)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes <= 1 << 20:
            raise Refusal(400, "'classification' is not a number of classes.")
        own = _flag(parameters, "binary_data", default=binary)
        wanted.append(Wanted(name=item["name"], binary=own, classes=classes))
    return tuple(wanted)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name!r} is neither true nor false.")
    return value


def _classified(array: NDArray[Any], classes: int, labels: Sequence[str]) -> NDArray[Any]:
    """``value:index:label`` of the largest values of every sample, the largest first."""
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


def _packed_strings(strings: NDArray[Any]) -> bytes:
    """Each string behind its length, four bytes, little-endian."""
    encoded = [item.encode() for item in strings.ravel()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in encoded)
