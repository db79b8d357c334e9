"""Triton's own client, many clients at a time, full queues, and signals."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.conftest import Ask, Server, serving

http = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
REQUESTS, CLIENTS = 10_000, 8


def _inputs(samples: Any, *, binary: bool = True) -> list[Any]:
    tensor = http.InferInput("input", samples.shape, "FP32")
    tensor.set_data_from_numpy(samples, binary_data=binary)
    return [tensor]


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_own_client(server: Server, binary: bool) -> None:
    client = http.InferenceServerClient(server.address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("lenet5")
    assert client.get_model_metadata("lenet5")["platform"] == "onnxruntime_onnx"
    samples = np.random.default_rng(1).normal(size=(3, 1, 32, 32)).astype(np.float32)
    wanted = [http.InferRequestedOutput("logits", binary_data=binary)]
    found = client.infer("lenet5", _inputs(samples, binary=binary), outputs=wanted, request_id="a")
    assert found.as_numpy("logits").shape == (3, 10) and found.get_response()["id"] == "a"
    with pytest.raises(http.InferenceServerException, match="'x'") as refused:
        client.infer("lenet5", [http.InferInput("x", [1], "FP32").set_data_from_numpy(np.zeros(1, np.float32))])
    assert refused.value.status() == "400"


def test_ten_thousand_requests_each_get_their_own_answer(server: Server, served: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(served / "lenet5" / "lenet5.fp32.onnx"))
    samples = np.random.default_rng(0).normal(size=(REQUESTS, 1, 32, 32)).astype(np.float32)
    expected = np.concatenate([session.run(None, {"input": part})[0] for part in np.split(samples, 100)])
    distance = np.partition(np.abs(expected[:200, None] - expected[None, :200]).max(-1) + 9 * np.eye(200), 1)[:, 0]
    assert distance.min() > 1e-4, "answers to two requests can be told apart"
    wrong: list[int] = []

    def client(first: int) -> None:
        own = http.InferenceServerClient(server.address)
        for number in range(first, REQUESTS, CLIENTS):
            logits = own.infer("lenet5", _inputs(samples[number : number + 1])).as_numpy("logits")
            if not np.allclose(logits[0], expected[number], atol=1e-5):
                wrong.append(number)
        own.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    assert wrong == []


def test_requests_are_put_together(ask: Ask, server: Server) -> None:
    text = ask("GET", "/metrics")[2].decode()
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    batches = float(numbers['deploy_batch_samples_count{model="lenet5.fp32"}'])
    samples = float(numbers['deploy_samples_total{model="lenet5.fp32"}'])
    assert samples >= REQUESTS and 0 < batches < samples
    assert float(numbers['deploy_requests_total{model="lenet5.fp32",status="200"}']) >= REQUESTS


def test_a_full_queue_refuses_and_every_queued_request_is_answered(served: Path) -> None:
    body = json.dumps(
        {"inputs": [{"name": "input", "datatype": "FP32", "shape": [4, 1, 32, 32], "data": [0.0] * 4096}]}
    )
    with serving(served, "lenet5", "--no-page", "--queue", 4, "--max-batch", 64, "--max-delay-ms", 500) as server:
        seen: list[tuple[int, str | None]] = []

        def client() -> None:
            connection = HTTPConnection(server.address, timeout=60)
            for _ in range(20):
                connection.request("POST", "/v2/models/lenet5/infer", body)
                response = connection.getresponse()
                response.read()
                seen.append((response.status, response.getheader("retry-after")))
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in seen} == {200, 429} and len(seen) == 160
        assert all(after == "1" for status, after in seen if status == 429)
        code, err = server.stop()
    answered = sum(status == 200 for status, _ in seen)
    assert code == 0 and f"stopped: {answered} requests answered, {160 - answered} refused" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_after_requests_in_progress(served: Path, number: int) -> None:
    """The request would wait 20 s for others; the signal ends the wait, and the request is answered."""
    with serving(served, "lenet5", "--no-page", "--max-delay-ms", 20_000, "--timeout-ms", 60_000) as server:
        status: list[int] = []

        def client() -> None:
            connection = HTTPConnection(server.address, timeout=60)
            tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 32, 32], "data": [0.0] * 1024}
            connection.request("POST", "/v2/models/lenet5/infer", json.dumps({"inputs": [tensor]}))
            response = connection.getresponse()
            response.read()
            status.append(response.status)
            connection.close()

        thread = threading.Thread(target=client)
        thread.start()
        watcher = HTTPConnection(server.address, timeout=60)
        waiting = ""
        while 'deploy_queue_samples{model="lenet5.fp32"} 1.0' not in waiting:
            watcher.request("GET", "/metrics")
            waiting = watcher.getresponse().read().decode()
        watcher.close()
        code, _ = server.stop(number)
        thread.join()
    assert code == 0 and status == [200]
