"""Valid and invalid requests to a real server."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import Ask, Server

INFER = "/v2/models/lenet5/infer"
ZEROS = np.zeros((1, 1, 32, 32), np.float32)


def _request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": ZEROS.ravel().tolist()}
    return {"inputs": [{**tensor, **changes}]}


def test_metadata_and_health(ask: Ask, server: Server) -> None:
    assert [item["name"] for item in server.info["models"]] == ["lenet5", "lenet5.fp32", "lenet5.int8-onnxruntime"]
    assert json.loads(ask("GET", "/v2")[2])["extensions"] == ["binary_tensor_data", "classification"]
    assert ask("GET", "/v2/health/live")[0] == ask("GET", "/v2/health/ready")[0] == 200
    assert ask("GET", "/v2/models/lenet5/ready")[0] == ask("GET", "/v2/models/lenet5/versions/1/ready")[0] == 200
    about = json.loads(ask("GET", "/v2/models/lenet5")[2])
    assert about["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 32, 32]}]
    assert about["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert about["parameters"]["parity"] == "pass"


def test_json_flat_and_nested_and_binary_give_the_same(ask: Ask) -> None:
    sample = np.random.default_rng(0).normal(size=(1, 1, 32, 32)).astype(np.float32)
    flat = ask("POST", INFER, json.dumps({"id": "7", **_request(data=sample.ravel().tolist())}))
    nested = ask("POST", INFER, json.dumps(_request(data=sample.tolist())))
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [1, 1, 32, 32],
                    "parameters": {"binary_data_size": sample.nbytes},
                }
            ],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    binary = ask("POST", INFER, head + sample.tobytes(), {"Inference-Header-Content-Length": str(len(head))})
    assert flat[0] == nested[0] == binary[0] == 200
    document = json.loads(flat[2])
    assert document["id"] == "7" and document["model_name"] == "lenet5" and document["model_version"] == "1"
    values = np.asarray(document["outputs"][0]["data"], np.float32)
    length = int(binary[1]["inference-header-content-length"])
    assert json.loads(binary[2][:length])["outputs"][0]["parameters"] == {"binary_data_size": 40}
    assert np.frombuffer(binary[2][length:], "<f4").tolist() == values.tolist()
    assert json.loads(nested[2])["outputs"][0]["data"] == document["outputs"][0]["data"]


def test_classes_by_name(ask: Ask) -> None:
    outputs = [{"name": "logits", "parameters": {"classification": 3}}]
    status, _, body = ask("POST", INFER, json.dumps({**_request(), "outputs": outputs}))
    (output,) = json.loads(body)["outputs"]
    assert status == 200 and output["datatype"] == "BYTES" and output["shape"] == [1, 3]
    values, indices, labels = zip(*(item.split(":") for item in output["data"]), strict=True)
    assert indices == labels and sorted(map(float, values), reverse=True) == list(map(float, values))


BAD: dict[str, tuple[Any, int]] = {
    "nothing": (b"", 400),
    "no json": (b"\x00\xff{", 400),
    "cut off": (json.dumps(_request())[:-9].encode(), 400),
    "a list": ([], 400),
    "nested too deep": (b"[" * 100_000, 400),
    "no inputs": ({}, 400),
    "inputs is no list": ({"inputs": 3}, 400),
    "input without a name": ({"inputs": [{}]}, 400),
    "unknown input": (_request(name="other"), 400),
    "input twice": ({"inputs": _request()["inputs"] * 2}, 400),
    "other type": (_request(datatype="FP64"), 400),
    "type is no text": (_request(datatype=["FP32"]), 400),
    "too few dimensions": (_request(shape=[1, 32, 32]), 400),
    "other size": (_request(shape=[1, 1, 32, 31]), 400),
    "negative size": (_request(shape=[-1, 1, 32, 32]), 400),
    "zero samples": (_request(shape=[0, 1, 32, 32], data=[]), 400),
    "size true": (_request(shape=[True, 1, 32, 32]), 400),
    "enormous size": (_request(shape=[1 << 62, 1, 32, 32]), 400),
    "more samples than a batch": (_request(shape=[33, 1, 32, 32], data=[0.0] * 33 * 1024), 400),
    "too few values": (_request(data=[0.0]), 400),
    "ragged": (_request(data=[[0.0], [0.0, 1.0]]), 400),
    "texts": (_request(data=["0"] * 1024), 400),
    "nulls": (_request(data=[None] * 1024), 400),
    "too large for float32": (_request(data=[1e39] * 1024), 400),
    "not a number": (json.dumps(_request(data=[float("nan")] * 1024)).encode(), 400),
    "binary that is not there": (_request(data=None, parameters={"binary_data_size": 4096}), 400),
    "both json and binary": (_request(parameters={"binary_data_size": 4096}), 400),
    "unknown output": ({**_request(), "outputs": [{"name": "x"}]}, 400),
    "classes that are no number": (
        {**_request(), "outputs": [{"name": "logits", "parameters": {"classification": "all"}}]},
        400,
    ),
    "id that is no text": ({**_request(), "id": {}}, 400),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_request_is_refused_with_a_reason(ask: Ask, name: str) -> None:
    body, wanted = BAD[name]
    status, _, content = ask("POST", INFER, body if isinstance(body, bytes) else json.dumps(body))
    assert status == wanted, content
    assert json.loads(content)["error"]
    assert ask("POST", INFER, json.dumps(_request()))[0] == 200, "and the server lives"


@pytest.mark.parametrize(
    ("method", "path", "headers", "wanted"),
    [
        ("GET", INFER, {}, 405),
        ("POST", "/v2/models/other/infer", {}, 404),
        ("POST", "/v2/models/lenet5/versions/2/infer", {}, 404),
        ("GET", "/v2/models/../../etc/passwd", {}, 404),
        ("POST", INFER, {"Content-Encoding": "gzip"}, 415),
        ("POST", INFER, {"Inference-Header-Content-Length": "-1"}, 400),
        ("POST", INFER, {"Inference-Header-Content-Length": "99999999"}, 400),
        ("POST", INFER, {"Host": "evil.example"}, 403),
    ],
)
def test_other_invalid_requests(ask: Ask, method: str, path: str, headers: dict[str, str], wanted: int) -> None:
    status, _, content = ask(method, path, json.dumps(_request()), headers)
    assert status == wanted and json.loads(content)["error"]


@pytest.mark.parametrize(
    "raw",
    [
        b"rubbish\r\n\r\n",
        b"POST /v2 HTTP/9.9\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
def test_invalid_http_is_refused(server: Server, ask: Ask, raw: bytes) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(raw)
        assert connection.recv(4096).split(b" ")[1].startswith(b"4")
    assert ask("GET", "/v2/health/ready")[0] == 200


def test_a_body_that_is_too_large_is_not_read(server: Server) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(4096)
