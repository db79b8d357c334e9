"""``deploy serve --backend``: built-in backends, and a third party's, registered through an entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran
from tests.distribution import deploy, install
from tests.serving.conftest import Server, serving

BACKEND = '''
"""A backend that answers with the numbers of classes, whatever the weights."""

from deploy.core.backend import Backend


def options(settings):
    return {"threads": settings.threads}


BACKEND = Backend(
    name="NAME",
    title="Counting",
    runner="counting_runner",
    packages=("third-party",),
    modules=("MODULE",),
    install="third-party",
    targets=("counting",),
    options=options,
)
'''
RUNNER = '''
"""Opens files for the backend ``counting``."""

import numpy as np

from deploy.core.runner import Runner


class CountingRunner(Runner):
    inputs = outputs = ()

    def run(self, feeds):
        (images,) = feeds.values()
        return {"logits": np.tile(np.arange(10, dtype=np.float32), (len(images), 1))}


def open(path, *, threads):
    assert threads == 1 and path.is_file()
    return CountingRunner()
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site"
    folder.mkdir()
    sources = {
        "counting": BACKEND.replace("NAME", "counting").replace("MODULE", "counting_runner"),
        "counting_runner": RUNNER,
        "missing": BACKEND.replace("NAME", "missing").replace("MODULE", "not_installed_anywhere"),
    }
    return install(folder, sources, {"deploy.backends": {"counting": "counting", "missing": "missing"}})


def _infer(server: Server, name: str) -> Any:
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 1, 32, 32], "data": [0.0] * 2048}
    connection = HTTPConnection(server.address, timeout=60)
    connection.request("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]}))
    document = json.loads(connection.getresponse().read())
    connection.close()
    return document["outputs"][0]["data"]


def _platform(server: Server, name: str) -> Any:
    connection = HTTPConnection(server.address, timeout=60)
    connection.request("GET", f"/v2/models/{name}")
    platform = json.loads(connection.getresponse().read())["platform"]
    connection.close()
    return platform


def test_a_third_party_backend_serves_the_files_it_opens(served: Path, environment: dict[str, str]) -> None:
    """It opens float files and those quantized for itself: the INT8 file is for ONNX Runtime."""
    words = ("lenet5", "--backend", "counting", "--threads", 1, "--no-page")
    with serving(served, *words, environment=environment) as server:
        assert [item["name"] for item in server.info["models"]] == ["lenet5", "lenet5.fp32"]
        assert _platform(server, "lenet5") == "counting_onnx"
        assert _infer(server, "lenet5") == [*map(float, range(10))] * 2
        assert server.stop()[0] == 0


def test_without_backend_a_third_party_changes_nothing(served: Path, environment: dict[str, str]) -> None:
    with serving(served, "lenet5", "--no-page", environment=environment) as server:
        names = [item["name"] for item in server.info["models"]]
        assert names == ["lenet5", "lenet5.fp32", "lenet5.int8-onnxruntime"]
        assert {_platform(server, name) for name in names} == {"onnxruntime_onnx"}


def test_another_backend_of_this_repository(served: Path) -> None:
    pytest.importorskip("openvino")
    with serving(served, "lenet5", "--backend", "openvino", "--no-page") as server:
        assert [item["name"] for item in server.info["models"]] == ["lenet5", "lenet5.fp32"]
        assert _platform(server, "lenet5") == "openvino_onnx"
        assert len(_infer(server, "lenet5")) == 20


def test_a_backend_that_is_not_installed(served: Path, environment: dict[str, str]) -> None:
    done = deploy(environment, served, "serve", "lenet5", "--backend", "missing", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1 and error["kind"] == "MissingPackageError"
    assert "not_installed_anywhere" in error["message"] and error["hint"] == "pip install third-party"


def test_backends_that_cannot_serve(run: Callable[..., Ran], artifacts: Path, served: Path) -> None:
    for name in ("torch", "torch-compile"):
        ran = run("serve", "lenet5", "--backend", name)
        assert ran.code == 2 and name in ran.err and "onnxruntime" in ran.err
    unknown = run("serve", "lenet5", "--backend", "onnxruntim")
    assert unknown.code == 2 and "onnxruntime" in unknown.err
    pytest.importorskip("openvino")
    file = served / "lenet5" / "lenet5.int8-onnxruntime.onnx"
    other = run("serve", "--artifact", file, "--backend", "openvino")
    assert other.code == 1 and file.name in other.err
