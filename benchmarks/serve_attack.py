"""Attack ``deploy serve`` while it answers requests whose answers are checked.

    python -m benchmarks.serve_attack [--artifacts DIR] [--seconds 300] [--requests 20000] [--connections 500]

The server (LeNet-5 and the demo page) runs on core 0, everything else on the other cores; all of it on the loopback
interface. Requests with known answers are spread over the duration, on 8 connections; ``/v2/health/live`` is asked on a
new connection every 50 ms. Beside them, attackers hold many connections, each with one of `attacks` at a time.
The same requests without attackers are the undisturbed run. Then the server gets SIGTERM while clients send requests as
fast as they can. A request is lost if it was sent and not answered; wrong if it was answered with other numbers than
ONNX Runtime computes in this process.

With ``--artifacts``, the first file of lenet5 there is served; otherwise one is trained. Writes
results/serve_attack.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import multiprocessing
import os
import queue
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import deploy_or_exit, write
from deploy.core.environment import usable_cores

PATH = "/v2/models/lenet5/infer"
POST = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
SHAPE = (1, 1, 32, 32)
HONEST, ATTACKERS = -15, -5
"""Niceness of the server and its honest clients, and of the attackers: other work on the machine is not measured."""
CLIENTS = 8
PERIOD_S = 0.05
"""Time between two questions for the server's health."""
IMAGE_PERIOD_S = 1.0
"""Time between two honest images for the demo page."""
RAMP = 1 / 60
"""Share of the duration in which the attackers start."""
LONGEST_S = 12.0
"""Time after which an attacker gives up a connection."""
TOLERANCE = 1e-5
"""Largest difference to the direct run; a batch of another size is summed in another order."""
TARGETS = {"wrong": 0, "lost": 0, "health_max_s": 0.1, "memory_ratio": 1.3, "stop_s": 5.0}

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def main() -> None:
    """Run without and with attackers, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = options.artifacts or Path(folder)
        if options.artifacts is None:
            deploy_or_exit("--artifacts", folder, "train", "zoo/lenet5", "--data", "digits", "--epochs", "10")
            deploy_or_exit("--artifacts", folder, "export", "lenet5")
        result = measure(artifacts, options.seconds, options.requests, options.connections)
    write("serve_attack", result)
    print(json.dumps({name: result[name] for name in ("attacked", "undisturbed", "stop", "met")}, indent=1))


def measure(artifacts: Path, seconds: float, requests: int, connections: int) -> dict[str, Any]:
    """Return the numbers of a run without and one with attackers, and of a stop under load."""
    undisturbed, _ = run(artifacts, seconds / 5, requests, 0)
    attacked, stop = run(artifacts, seconds, requests, connections)
    ratio = attacked["peak_memory_bytes"] / undisturbed["peak_memory_bytes"]
    met = {
        "wrong": attacked["wrong"] == 0,
        "lost": attacked["lost"] == 0 and attacked["answered"] == requests,
        "health_max_s": attacked["health_max_s"] <= TARGETS["health_max_s"],
        "memory_ratio": ratio <= TARGETS["memory_ratio"],
        "stop": stop["lost"] == 0 and stop["exit_code"] == 0 and stop["stop_s"] <= TARGETS["stop_s"],
    }
    return {
        "seconds": seconds,
        "requests": requests,
        "connections": connections,
        "targets": TARGETS,
        "undisturbed": undisturbed,
        "attacked": attacked,
        "memory_ratio": ratio,
        "stop": stop,
        "met": met,
    }


def run(artifacts: Path, seconds: float, requests: int, connections: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of a run with this many attackers, and of the stop at its end."""
    context = multiprocessing.get_context("spawn")
    with _serving(artifacts) as (server, port, file):
        results = context.Queue()
        over, ready = context.Event(), context.Event()
        workers = [
            context.Process(target=_ask_health, args=(port, over, results)),
            context.Process(target=_send_images, args=(port, over, results)),
        ]
        if connections:
            workers.append(
                context.Process(target=_attack, args=(port, connections, RAMP * seconds, ready, over, results))
            )
        for worker in workers:
            worker.start()
        if connections:
            ready.wait()
        checked = context.Process(target=_check_answers, args=(port, file, requests, seconds, results))
        checked.start()
        found: dict[str, Any] = {}
        while "answered" not in found:
            found |= _get(results, checked)
        found["peak_memory_bytes"] = _peak_bytes(server)
        stop = _stop_under_load(server, port)
        over.set()
        for _ in workers:
            found |= _get(results, *workers)
        for worker in (*workers, checked):
            worker.join()
    return found, stop


def _get(results: Any, *workers: Any) -> dict[str, Any]:
    while True:
        try:
            found: dict[str, Any] = results.get(timeout=5)
            return found
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a process of the benchmark failed") from None


@contextmanager
def _serving(artifacts: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    command = [
        *(sys.executable, "-m", "deploy.cli.main", "--artifacts", str(artifacts), "serve", "lenet5"),
        *("--port", "0", "--json", "--threads", "1"),
    ]
    cores = sorted(os.sched_getaffinity(0))
    if usable_cores() > 1:
        command = ["taskset", "-c", str(cores[0]), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        document = json.loads(text)
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            _prefer(HONEST, int(thread.name))
        if usable_cores() > 1:
            os.sched_setaffinity(0, set(cores[1:]))
        yield process, int(document["url"].rpartition(":")[2]), Path(document["models"][0]["file"])
    finally:
        os.sched_setaffinity(0, cores)
        process.kill()
        process.communicate()


def _peak_bytes(server: subprocess.Popen[str]) -> int:
    """Return the peak memory of the server and of its children, added."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="utf-8").split()
    texts = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in (server.pid, *children)]
    return sum(1024 * int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) for text in texts)


def _prefer(niceness: int, process: int = 0) -> bool:
    """Set a process's priority over other work on this machine, where that is allowed."""
    try:
        os.setpriority(os.PRIO_PROCESS, process, niceness)
    except PermissionError:
        return False
    return True


def _body(sample: NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "input", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": sample.nbytes},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + sample.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


# Honest clients, each in a process of its own.


def _check_answers(port: int, file: Path, requests: int, seconds: float, results: Any) -> None:
    """Send requests, evenly spread, and compare the answers with those of ONNX Runtime."""
    import onnxruntime

    _prefer(HONEST)
    samples = np.random.default_rng(0).normal(size=(requests, *SHAPE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    expected = [session.run(None, {"input": sample})[0] for sample in samples]
    found: Counter[str] = Counter()
    times_s: list[float] = []
    began = time.monotonic()

    def client(first: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(first, requests, CLIENTS):
            time.sleep(max(0.0, began + seconds * number / requests - time.monotonic()))
            sent = time.monotonic()
            try:
                connection.request("POST", PATH, *_body(samples[number]))
                response = connection.getresponse()
                content = response.read()
            except OSError as exc:
                found[f"lost: {type(exc).__name__}"] += 1
                connection.close()
                continue
            times_s.append(time.monotonic() - sent)
            if response.status != 200:
                found[f"lost: status {response.status}"] += 1
                continue
            logits = np.frombuffer(content[int(response.headers["inference-header-content-length"]) :], "<f4")
            right = logits.size == 10 and np.abs(logits - expected[number]).max() <= TOLERANCE
            found["right" if right else "wrong"] += 1

    _in_threads(client, CLIENTS)
    lost = {name: count for name, count in found.items() if name.startswith("lost")}
    results.put({
        "answered": found["right"] + found["wrong"], "wrong": found["wrong"], "lost": sum(lost.values()),
        "lost_by_reason": lost, "request_median_s": float(np.median(times_s)),
        "request_p99_s": float(np.percentile(times_s, 99)), "request_max_s": max(times_s),
    })  # fmt: skip


def _ask_health(port: int, over: Any, results: Any) -> None:
    """Ask for the server's health on new connections; measure too how late this process wakes up by itself."""
    preferred = _prefer(HONEST)
    times_s: list[float] = []
    late_s: list[float] = []
    failed: Counter[str] = Counter()
    stopped = False
    while not over.is_set():
        woke = time.monotonic()
        time.sleep(PERIOD_S)
        late_s.append(time.monotonic() - woke - PERIOD_S)
        sent = time.monotonic()
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/v2/health/live")
            status = connection.getresponse().status
            connection.close()
        except ConnectionRefusedError:
            stopped = True
        except OSError as exc:
            failed[type(exc).__name__] += 1
        else:
            times_s.append(time.monotonic() - sent)
            failed[str(status)] += status != 200
    results.put({
        "health_asked": len(times_s), "health_failed": {name: count for name, count in failed.items() if count},
        "health_max_s": max(times_s), "health_p99_s": float(np.percentile(times_s, 99)),
        "health_median_s": float(np.median(times_s)), "own_delay_max_s": max(late_s),
        "own_delay_p99_s": float(np.percentile(late_s, 99)), "health_refused_after_stop": stopped,
        "priority_raised": preferred,
    })  # fmt: skip


def _send_images(port: int, over: Any, results: Any) -> None:
    """Compare images as the demo page does."""
    image = io.BytesIO()
    pixels = np.random.default_rng(0).integers(256, size=(768, 1024, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "JPEG")
    found: Counter[str] = Counter()
    while not over.wait(IMAGE_PERIOD_S):
        with contextlib.suppress(ConnectionRefusedError):
            try:
                connection = HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/compare", image.getvalue())
                found[str(connection.getresponse().status)] += 1
                connection.close()
            except ConnectionRefusedError:
                raise
            except OSError as exc:
                found[type(exc).__name__] += 1
    results.put({"images": dict(found)})


def _stop_under_load(server: subprocess.Popen[str], port: int) -> dict[str, Any]:
    """Send SIGTERM while clients send as fast as they can, each until its connection is refused."""
    sample = np.zeros(SHAPE, np.float32)
    found: Counter[str] = Counter()

    def client(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                found["refused"] += 1
                return
            except OSError as exc:
                found[f"not connected: {type(exc).__name__}"] += 1
                return
            try:
                connection.request("POST", PATH, *_body(sample))
                response = connection.getresponse()
                response.read()
            except OSError as exc:
                found[f"lost: {type(exc).__name__}"] += 1
                return
            found[f"status {response.status}"] += 1

    clients = threading.Thread(target=_in_threads, args=(client, 4 * CLIENTS))
    clients.start()
    time.sleep(1)
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    try:
        code: int | None = server.wait(timeout=60)
    except subprocess.TimeoutExpired:
        code = None
    stop_s = time.monotonic() - began
    clients.join()
    lost = sum(count for name, count in found.items() if name not in ("refused", "status 200"))
    return {"stop_s": stop_s, "exit_code": code, "lost": lost, "clients": dict(found)}


def _in_threads(task: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=task, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Attackers. Each function sends on one connection until the server closes it or there is nothing more to send.


def _png(size: int) -> bytes:
    image = io.BytesIO()
    Image.new("L", (size, size)).save(image, "PNG", compress_level=9)
    return image.getvalue()


def _posted(body: bytes, path: str = PATH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _once(data: bytes) -> Attack:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await reader.read(4096)

    return attack


def _endless(start: bytes, more: bytes) -> Attack:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()

    return attack


def _slow(start: bytes, more: bytes) -> Attack:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()
            with contextlib.suppress(asyncio.TimeoutError):
                if not await asyncio.wait_for(reader.read(4096), 0.5):
                    return

    return attack


def _never_read(data: bytes) -> Attack:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(LONGEST_S)

    return attack


def _broken(data: bytes) -> Attack:
    async def attack(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # close by reset
        writer.transport.abort()

    return attack


def attacks() -> dict[str, Attack]:
    """Return all attacks by name."""
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    large = POST + b"Content-Length: 60000000\r\n\r\n"
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n"
    inputs = [{"name": str(number), "datatype": "FP32", "shape": [1], "data": []} for number in range(40_000)]
    few = json.dumps({"inputs": inputs[:5000]}).encode()
    tensor = {"name": "input", "datatype": "FP32", "shape": [32, *SHAPE[1:]], "data": ["x" * 100_000, *[0] * 32767]}
    return {
        "nothing": _slow(b"", b""),
        "slow headers": _slow(get, b"A: b\r\n"),
        "slow URL": _slow(b"GET /", b"a"),
        "slow body": _slow(POST + b"Content-Length: 100000\r\n\r\n", b" "),
        "stalled large body": _slow(large + b" " * (1 << 20), b""),
        "slow chunks": _slow(chunked, b"1\r\n \r\n"),
        "endless headers": _endless(get, b"A: b\r\n" * 1000),
        "endless header": _endless(get + b"A: ", b"a" * 65536),
        "endless URL": _endless(b"GET /", b"a" * 65536),
        "endless body": _endless(chunked, b"4000\r\n" + b" " * 16384 + b"\r\n"),
        "endless trailers": _endless(chunked + b"0\r\n", b"A: b\r\n" * 1000),
        "tiny chunks": _endless(chunked, b"1\r\n \r\n" * 1000),
        "40,000 names": _once(_posted(json.dumps({"inputs": inputs}).encode())),
        "5,000 names": _once(_posted(few)),
        "long name": _once(_posted(b'{"inputs": [{"name": "' + b"x" * 1_000_000 + b'"}]}')),
        "a million lists": _once(_posted(b"[" + b"[]," * 1_000_000 + b"[]]")),
        "long text among numbers": _once(_posted(json.dumps({"inputs": [tensor]}).encode())),
        "many labels": _once(_posted(b'{"inputs": [], "outputs": [' + b"{}," * 60_000 + b"{}]}")),
        "image of 400 megapixels": _once(_posted(_png(20_000), "/compare")),
        "image of 16 megapixels": _once(_posted(_png(4000), "/compare")),
        "no image": _once(_posted(b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"x" * 1000, "/compare")),
        "5,001 digits": _once(POST + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\n"),
        "rubbish": _once(bytes(range(256)) * 16),
        "other site": _once(_posted(few).replace(b"Host: localhost", b"Host: evil.example")),
        "pipelined": _once((get + b"\r\n") * 5000),
        "never read": _never_read(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000),
        "reset in a body": _broken(large + b" " * 100_000),
        "reset after a request": _broken(_posted(b"{}")),
    }


def _attack(port: int, connections: int, ramp_s: float, ready: Any, over: Any, results: Any) -> None:
    """Hold connections, each with one attack after another."""
    _prefer(ATTACKERS)
    kinds = attacks()
    ready.set()
    tried: Counter[str] = Counter()

    async def one(index: int) -> None:
        order = random.Random(index)
        await asyncio.sleep(ramp_s * index / connections)
        while not over.is_set():
            name = order.choice(list(kinds))
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.5)
                continue
            tried[name] += 1
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(kinds[name](reader, writer), LONGEST_S)
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1)
            await asyncio.sleep(order.random())

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(one(index)) for index in range(connections)]
        while not over.is_set():
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    results.put({"attacks": dict(sorted(tried.items()))})


if __name__ == "__main__":
    main()
