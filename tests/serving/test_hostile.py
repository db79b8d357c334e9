"""What a stranger can send: each is refused quickly, within bounds, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.distribution import install
from tests.serving.conftest import Ask, Server, serving

INFER = "/v2/models/lenet5/infer"
TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": [0.0] * 1024}
BODY = json.dumps({"inputs": [TENSOR]}).encode()
POST = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
REQUEST = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LARGE = POST + b"Content-Length: 2000000\r\n\r\n"
LIMITS = {
    "CONNECTIONS": 12,
    "HEADER_S": 2,
    "STALL_S": 1,
    "BODY_S": 4,
    "BODIES_BYTES": 3 << 20,
    "IDLE_S": 3,
    "RESPONSE_S": 1,
    "IMAGE_PIXELS": 1 << 20,
}


def connect(server: Server) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def rest(connection: socket.socket) -> bytes:
    """Return all that the server sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def answer(server: Server, *parts: bytes) -> list[int]:
    """Send parts until the server closes the connection; return the statuses of its responses."""
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        return statuses(rest(connection))


def memory_bytes(server: Server, what: str = "VmRSS") -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(re.findall(rf"{what}:\s+(\d+)", text)[0])


@pytest.fixture(scope="module")
def strict(served: Path) -> Iterator[Server]:
    """A server with a page, whose limits are small so that a test can exceed them quickly."""
    environment = {**os.environ, **{f"DEPLOY_LIMIT_SERVE_{name}": str(value) for name, value in LIMITS.items()}}
    with serving(served, "lenet5", "--max-request-mb", 2, environment=environment) as running:
        yield running


FRAMING: dict[str, tuple[bytes, int]] = {
    "5,001 digits": (POST + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\n", 400),
    "5,001 nines": (POST + b"Content-Length: " + b"9" * 5001 + b"\r\n\r\n", 400),
    "negative": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "plus": (POST + b"Content-Length: +1\r\n\r\nx", 400),
    "hexadecimal": (POST + b"Content-Length: 0x10\r\n\r\n", 400),
    "no length": (POST + b"Content-Length:\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx", 400),
    "a list of lengths": (POST + b"Content-Length: 5, 5\r\n\r\nxxxxx", 400),
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "other coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "chunk size negative": (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
    "chunk size of 5,000 digits": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n", 400),
    "chunk without its end": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxxxx\r\n0\r\n\r\n", 400),
    "space before the colon": (b"GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "folded header": (GET + b"A: b\r\n c\r\n d", 400),
    "null in a header": (GET + b"A: \0\r\n\r\n", 400),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: evil.example\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "declared too large": (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
    "long URL": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "long query": (b"GET /v2?" + b"a=b&" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "long header": (GET + b"A: " + b"a" * 60_000 + b"\r\n\r\n", 431),
    "long name": (GET + b"a" * 60_000 + b": b\r\n\r\n", 431),
    "many headers": (GET + b"A: b\r\n" * 5000 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", FRAMING)
def test_a_malformed_request_is_refused_and_its_connection_closed(server: Server, ask: Ask, name: str) -> None:
    raw, status = FRAMING[name]
    assert answer(server, raw) == [status]
    assert ask("GET", "/v2/health/live")[0] == 200


ENDLESS: dict[str, tuple[bytes, bytes, set[int]]] = {
    "URL": (b"GET /", b"a" * 65536, {414, 431}),
    "header": (GET + b"A: ", b"a" * 65536, {431}),
    "name": (GET, b"a" * 65536, {431}),
    "headers": (GET, b"A: b\r\n" * 10_000, {431}),
    "empty lines": (b"", b"\r\n" * 30_000, set()),
    "extension of a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=", b"a" * 65536, {400}),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10_000, {431, 400}),
    "trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: ", b"a" * 65536, {400}),
    "tiny chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000, {400}),
    "body": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n", {413}),
    "body that nobody reads": (POST.replace(b"lenet5", b"x") + b"Transfer-Encoding: chunked\r\n\r\n",
                               b"10000\r\n" + b"x" * 65536 + b"\r\n", {404}),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_bounded(strict: Server, name: str) -> None:
    start, more, wanted = ENDLESS[name]
    before = memory_bytes(strict)
    with connect(strict) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(start)
            while sent < 300 << 20:
                connection.sendall(more)
                sent += len(more)
        assert set(statuses(rest(connection))) <= wanted
    assert sent < 300 << 20, "the server ended the connection"
    assert memory_bytes(strict) - before < 32 << 20


PIECEMEAL = {
    "nothing": (b"", b"", []),
    "slow headers": (GET, b"A: b\r\n", [408]),
    "slow URL": (b"GET /", b"a", [408]),
    "slow body": (POST + b"Content-Length: 100000\r\n\r\n", b" ", [408]),
    "slow chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", [408]),
    "no body": (POST + b"Content-Length: 100000\r\n\r\n", b"", [408]),
    "steady body": (POST + b"Content-Length: 2000000\r\n\r\n", b" " * 4096, [408]),
}


def test_slow_requests_end(strict: Server) -> None:
    """All at once; a client that sends a little ten times a second is not slow enough to end on inactivity alone."""

    def slow(name: str) -> list[int]:
        start, more, _ = PIECEMEAL[name]
        with connect(strict) as connection:
            connection.sendall(start)
            connection.setblocking(False)
            received, began = b"", time.monotonic()
            while time.monotonic() - began < 20:
                time.sleep(0.1)
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    connection.send(more)
                with contextlib.suppress(BlockingIOError):
                    try:
                        part = connection.recv(4096)
                    except ConnectionError:
                        part = b""
                    if not part:
                        return statuses(received)
                    received += part
            raise AssertionError(f"{name}: still open")

    with ThreadPoolExecutor(len(PIECEMEAL)) as pool:
        assert dict(zip(PIECEMEAL, pool.map(slow, PIECEMEAL), strict=True)) == {
            name: statuses for name, (_, _, statuses) in PIECEMEAL.items()
        }


@pytest.mark.parametrize(
    "start",
    [b"", b"GET /v2/he", LARGE, LARGE + b" " * 900_000],
    ids=["nothing", "headers", "body", "large body"],
)
def test_stalled_clients_do_not_take_the_place_of_others(strict: Server, start: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3 * LIMITS["CONNECTIONS"]):
            connection = stack.enter_context(connect(strict))
            with contextlib.suppress(ConnectionError):
                connection.sendall(start)
        for _ in range(5):
            assert answer(strict, POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY) == [200]


def test_responses_that_nobody_reads_do_not_stay(strict: Server) -> None:
    metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(strict) as connection, pytest.raises(ConnectionError):
        for _ in range(300):
            connection.sendall(metrics * 100)
            time.sleep(0.1)


def test_pipelined_requests_are_bounded_and_answered(server: Server) -> None:
    assert answer(server, REQUEST * 3 + POST + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}") == [200] * 3 + [400]
    found = answer(server, (GET + b"\r\n") * 5000)
    assert found[:-1] == [200] * (len(found) - 1) and found[-1] == 429 and 4 <= len(found) < 20
    assert answer(server, REQUEST + b"rubbish\r\n\r\n") == [200, 400], "what is complete is answered first"


def test_a_client_that_ends_its_side_gets_its_answer(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(REQUEST)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(rest(connection)) == [200]


def _document(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TENSOR, **changes}]}


JSON: dict[str, tuple[Any, int]] = {
    "40,000 names": ({"inputs": [{**TENSOR, "name": str(number), "data": []} for number in range(40_000)]}, 413),
    "5,000 names": ({"inputs": [{**TENSOR, "name": str(number), "data": []} for number in range(5_000)]}, 400),
    "40,000 objects": ({"inputs": [{"name": "input"}] * 40_000}, 400),
    "40,000 outputs": ({**_document(), "outputs": [{"name": str(number)} for number in range(40_000)]}, 400),
    "an output 40,000 times": ({**_document(), "outputs": [{"name": "logits"}] * 40_000}, 400),
    "long name": (_document(name="x" * 1_000_000), 400),
    "long id": ({**_document(), "id": "x" * 1_000_000}, 400),
    "long datatype": (_document(datatype=["FP32"] * 100_000), 400),
    "long shape": (_document(shape=[1] * 500_000), 400),
    "long text among numbers": (_document(data=["x" * 100_000, *[0] * 1023]), 400),
    "long text instead of numbers": (_document(shape=[32, 1, 32, 32], data=[*[0] * 32767, "x" * 1_000_000]), 400),
    "numbers nobody needs": (_document(data=[1] * 1_500_000), 400),
    "lists": (b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}", 413),
    "objects": (b'{"inputs": [' + b"{}," * 1_000_000 + b"{}]}", 413),
    "keys": (b"{" + b",".join(b'"%d":1' % number for number in range(200_000)) + b"}", 413),
    "nested lists": (_document(data=[[[[[]] * 32] * 32] * 32]), 400),
    "deep data": (b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": '
                  + b"[" * 900 + b"]" * 900 + b"}]}", 400),
    "huge numbers": (b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [' + b"9" * 100_000 + b"]}]}", 400),
    "huge size": (_document(data=None, parameters={"binary_data_size": 1 << 63}), 400),
    "much text": (b'{"inputs": "' + b"x" * (17 << 20) + b'"}', 413),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_json_of_a_hostile_size_or_shape(server: Server, ask: Ask, name: str) -> None:
    body, status = JSON[name]
    before = memory_bytes(server, "VmHWM")
    code, _, content = ask("POST", INFER, body if isinstance(body, bytes) else json.dumps(body))
    assert code == status and len(content) < 1000, content[:1000]
    assert memory_bytes(server, "VmHWM") - before < 200 << 20


def test_large_but_legal_requests(server: Server, ask: Ask) -> None:
    samples = np.zeros((32, 1, 32, 32), np.float32)
    spaces = b" " * (15 << 20)
    text = json.dumps(_document(shape=[32, 1, 32, 32], data=samples.tolist())).encode() + spaces
    assert ask("POST", INFER, text)[0] == 200
    tensor = {**TENSOR, "shape": samples.shape, "parameters": {"binary_data_size": samples.nbytes}}
    del tensor["data"]
    head = json.dumps({"inputs": [tensor], "id": "a" * 1000})
    length = {"Inference-Header-Content-Length": str(len(head))}
    assert ask("POST", INFER, head.encode() + samples.tobytes(), length)[0] == 200
    chunks = (text[start : start + 8192] for start in range(0, len(text), 8192))
    assert ask("POST", INFER, chunks)[0] == 200
    assert ask("GET", "/v2?" + "a" * 8000, headers={f"A{number}": "b" * 200 for number in range(90)})[0] == 200


ORIGINS = [
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:1"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:1"}, 403),
    ({"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "localhost@evil.example"}, 403),
    ({"Host": "LOCALHOST:9", "Origin": "http://localhost:9"}, 200),
    ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
    ({"Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "none"}, 200),
    ({}, 200),
]


@pytest.mark.parametrize(("headers", "status"), ORIGINS)
def test_pages_of_other_sites_are_refused(ask: Ask, headers: dict[str, str], status: int) -> None:
    assert ask("POST", INFER, BODY, headers)[0] == status


@pytest.mark.parametrize("path", ["/compare", "/v2/models/lenet5.fp32/infer", "/v2/models/lenet5/versions/1/infer"])
def test_every_request_that_computes_checks_its_origin(strict: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n"
    assert answer(strict, head.encode() + b"Origin: http://evil.example\r\n\r\n" + BODY) == [403]


def test_the_page_cannot_be_framed(strict: Server) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        headers = rest(connection).split(b"\r\n\r\n")[0].decode().lower()
    assert "frame-ancestors 'none'" in headers and "base-uri 'none'" in headers
    assert "x-frame-options: deny" in headers and "x-content-type-options: nosniff" in headers


def _png(width: int, height: int) -> bytes:
    """Return a gray image of zeros, whose size is declared and there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack = zlib.compressobj(9)
    rows = [pack.compress(bytes(width + 1)) for _ in range(height)]
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", b"".join([*rows, pack.flush()]))
        + chunk(b"IEND", b"")
    )


def _compare(server: Server, image: bytes) -> list[int]:
    head = f"POST /compare HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(image)}\r\n\r\n"
    return answer(server, head.encode() + image)


def test_images_that_decode_to_gigabytes_are_refused(strict: Server) -> None:
    image = io.BytesIO()
    Image.new("L", (1024, 1024)).save(image, "PNG")
    assert _compare(strict, image.getvalue()) == [200]
    before = memory_bytes(strict, "VmHWM")
    bitmap = struct.pack("<2sIHHIIiiHH", b"BM", 99, 0, 0, 54, 40, 1 << 30, 1, 1, 24)
    bombs = [_png(12_000, 12_000), _png(1 << 20, 2), bitmap]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda bomb: _compare(strict, bomb), bombs * 4))
    assert all(status in ([413], [400], [429]) for status in found), found
    assert _compare(strict, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n") == [400]
    assert memory_bytes(strict, "VmHWM") - before < 32 << 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: _compare(strict, image.getvalue()), range(8))) == [[200]] * 8


def _start(served: Path, *arguments: object) -> subprocess.Popen[str]:
    words = ["--artifacts", served, "serve", "lenet5", "--no-page", *arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_servers_on_one_port(served: Path) -> None:
    """Both start at the same time; one serves, the other ends with an error."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = [_start(served, "--port", port) for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        while all(server.poll() is None for server in servers) and time.monotonic() < deadline:
            time.sleep(0.05)
        first, second = sorted(servers, key=lambda server: server.returncode is None)
        _, err = first.communicate(timeout=1)
        assert first.returncode == 2 and "--port 0" in err
        assert second.stdout is not None and "serving on" in second.stdout.readline()
    finally:
        for server in servers:
            server.kill()
            server.communicate()


def test_a_stop_answers_what_was_accepted_and_refuses_the_rest(served: Path) -> None:
    with serving(served, "lenet5", "--no-page") as server:
        answered, lost = [0], list[str]()
        running = threading.Event()

        def client() -> None:
            """Send requests, on one connection as long as the server keeps it; stop when connections are refused."""
            connection = HTTPConnection(server.address, timeout=60)
            while True:
                try:
                    if connection.sock is None:
                        connection.connect()
                except ConnectionRefusedError:
                    return
                try:
                    connection.request("POST", INFER, BODY)
                    response = connection.getresponse()
                    response.read()
                except OSError as exc:
                    lost.append(repr(exc))
                    return
                if response.status != 200:
                    lost.append(str(response.status))
                answered[0] += 1
                if answered[0] > 200:
                    running.set()

        threads = [threading.Thread(target=client) for _ in range(16)]
        for thread in threads:
            thread.start()
        assert running.wait(60)
        code, err = server.stop()
        for thread in threads:
            thread.join()
    assert code == 0 and lost == [] and f"{answered[0]} requests answered, 0 refused" in err


def test_what_is_half_sent_does_not_hold_up_a_stop(served: Path) -> None:
    halves = [POST + b"Content-Length: 100000\r\n\r\nxx", POST, b"GET /v2/he", b""]
    with serving(served, "lenet5", "--no-page") as server, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in halves]
        for connection, half in zip(connections, halves, strict=True):
            connection.sendall(half)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        found = [statuses(rest(connection)) for connection in connections]
        _, err = server.process.communicate(timeout=15)
    assert found == [[503], [503], [503], []] and server.process.returncode == 0 and "stopped: 0" in err


def test_a_runner_that_never_ends_does_not_hold_up_a_stop(served: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    sources = {
        "sleepy": """
from deploy.core.backend import Backend

BACKEND = Backend(
    name="sleepy", title="Sleepy", runner="sleepy_runner", packages=("sleepy",), modules=("sleepy_runner",),
    install="sleepy", targets=("sleepy",), options=lambda settings: {},
)
""",
        "sleepy_runner": """
import time
import numpy as np
from deploy.core.runner import Runner

class SleepyRunner(Runner):
    inputs = outputs = ()

    def run(self, feeds):
        time.sleep(1000 * float(feeds["input"].max()))
        return {"logits": np.zeros((len(feeds["input"]), 10), np.float32)}

def open(path):
    return SleepyRunner()
""",
    }
    environment = install(folder, sources, {"deploy.backends": {"sleepy": "sleepy"}})
    with serving(served, "lenet5", "--backend", "sleepy", "--no-page", environment=environment) as server:
        body = BODY.replace(b"0.0", b"1.0")
        with connect(server) as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert statuses(rest(connection)) == [503]
        server.process.communicate(timeout=15)
    assert server.process.returncode == 0
