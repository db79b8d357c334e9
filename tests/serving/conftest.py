"""A server in a process of its own, started from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the server is not installed: pip install 'deploy-toolkit[serve]'")


@dataclass(frozen=True)
class Server:
    """A running ``deploy serve``."""

    process: subprocess.Popen[str]
    info: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.info["url"]).removeprefix("http://")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Stop the server; return its exit code and its standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@contextmanager
def serving(artifacts: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run ``deploy serve`` on a free port until the block ends."""
    words = ["--artifacts", artifacts, "serve", *arguments, "--port", 0, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=None if environment is None else dict(environment),
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        lines = ""
        while (line := process.stdout.readline()) and line != "}\n":
            lines += line
        assert line, process.stderr.read()
        yield Server(process, json.loads(f"{lines}}}"))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def served(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts directory with LeNet-5 in float32, and in INT8 for ONNX Runtime."""
    import shutil

    from deploy.quantization.quantize import quantize

    root = tmp_path_factory.mktemp("served") / "artifacts"
    shutil.copytree(trained, root)
    (root / "lenet5" / "lenet5.fp16.onnx").unlink()
    (root / "lenet5" / "lenet5.fp16.onnx.json").unlink()
    quantize("lenet5", calib="digits", target="onnxruntime", artifacts=root)
    return root


@pytest.fixture(scope="module")
def server(served: Path) -> Iterator[Server]:
    """A server without a page, for tests that do not change it."""
    with serving(served, "lenet5", "--no-page") as running:
        yield running


Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def ask(server: Server) -> Ask:
    """Send one request on a connection of its own; return status, headers and body."""
    from http.client import HTTPConnection

    def call(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        connection = HTTPConnection(server.address, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    return call
