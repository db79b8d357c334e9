"""What is served, what is refused, and the demo page in a real browser."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.data.collection import open_dataset
from deploy.support.deployment import load, save
from tests.conftest import Ran
from tests.serving.conftest import serving


def test_untrained_weights_are_refused(run: Callable[..., Ran], store: Path) -> None:
    assert run("export", "lenet5", "--weights", "none").code == 0
    ran = run("serve", "lenet5")
    assert ran.code == 1 and "untrained" in ran.err and "--allow-untrained" in ran.err
    with serving(store, "lenet5", "--allow-untrained", "--no-page") as server:
        code, err = server.stop()
    assert code == 0 and "WARNING" in err and "lenet5.fp32.onnx" in err


def test_a_model_that_takes_no_pictures_has_no_page(run: Callable[..., Ran], nets: Path, store: Path) -> None:
    assert run("export", f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6").code == 0
    with serving(store, "nets-two") as server:
        assert not server.info["page"]
        code, err = server.stop()
    assert code == 0 and "note: " in err


def test_an_assumed_preprocessing_is_reported(run: Callable[..., Ran], nets: Path, store: Path) -> None:
    assert run("export", f"{nets}:small", "--input", "x:batch,3,8,8").code == 0
    with serving(store, "nets-small") as server:
        assert server.info["page"]
        _, err = server.stop()
    assert "WARNING" in err and "8 x 8" in err


def test_a_changed_file_is_not_served(run: Callable[..., Ran], served: Path, store: Path) -> None:
    import shutil

    shutil.copytree(served, store)
    path = store / "lenet5" / "lenet5.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ran = run("serve", "lenet5")
    assert ran.code == 3 and "lenet5.fp32.onnx" in ran.err


def test_mistakes(run: Callable[..., Ran], served: Path, store: Path) -> None:
    import shutil

    assert "deploy export lenet5" in run("serve", "lenet5").err
    shutil.copytree(served, store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("serve", "lenet5", "--port", taken.getsockname()[1])
    assert ran.code == 2 and "--port 0" in ran.err
    assert run("serve", "lenet5", "--host", "192.0.2.1").code == 2
    file = store / "lenet5" / "lenet5.fp32.onnx"
    ran = run("serve", "resnet18", "--artifact", file)
    assert ran.code == 2 and file.name in ran.err and "resnet18" in ran.err
    ran = run("serve", "lenet5", "--max-batch", 0)
    assert ran.code == 2


def test_only_the_file_that_was_named(served: Path) -> None:
    file = served / "lenet5" / "lenet5.int8-onnxruntime.onnx"
    with serving(served, "--artifact", file, "--no-page") as server:
        assert [item["name"] for item in server.info["models"]] == ["lenet5", "lenet5.int8-onnxruntime"]


def test_a_choice_is_served_as_it_was_made(served: Path, run: Callable[..., Ran], store: Path) -> None:
    """One with fixed sizes takes batches of one; a file that has changed is refused."""
    shutil.copytree(served, store)
    words = ("optimize", "lenet5", "--backends", "onnxruntime", "--precision", "fp32", "--threads", "1", "--plain")
    assert run(*words, "--budget", "1s").code == 0
    path = store / "lenet5" / "deployment.json"
    choice = dataclasses.replace(load(path), changed={"sizes": {"batch": 1}}, variant="fixed sizes")
    save(store, "lenet5", choice)
    with serving(store, path, "--no-page") as server:
        assert [Path(item["file"]).name for item in server.info["models"]] == [choice.file] * 2
        with contextlib.closing(HTTPConnection(server.address, timeout=60)) as connection:
            connection.request("GET", "/v2/models/lenet5")
            assert json.loads(connection.getresponse().read())["parameters"]["max_batch"] == 1
    save(store, "lenet5", dataclasses.replace(choice, file="lenet5.int8-onnxruntime.onnx"))
    assert run("serve", path).code == 3


def test_a_picture_on_the_page(browser: Any, served: Path, tmp_path: Path) -> None:
    images = open_dataset("digits", split="test")
    assert images.labels is not None
    picture = tmp_path / "digit.png"
    Image.fromarray(np.asarray(images.images[0])[:, :, 0]).save(picture)
    with serving(served, "lenet5") as server:
        page = browser.new_page()
        unexpected: list[str] = []
        page.on("console", lambda message: unexpected.append(message.text))
        page.on("pageerror", lambda error: unexpected.append(str(error)))
        page.on(
            "request", lambda request: unexpected.append(request.url) if server.address not in request.url else None
        )
        page.goto(server.info["url"])
        page.set_input_files("#file", picture)
        page.locator("#answers tbody tr").nth(5).wait_for()
        assert page.locator("#answers thead th").all_inner_texts()[1:] == [
            "torch",
            "lenet5.fp32",
            "lenet5.int8-onnxruntime",
        ]
        best = page.locator("#answers tbody tr").nth(1).locator("td").all_inner_texts()
        assert [text.split()[-1] for text in best] == [str(images.labels[0])] * 3
        assert all(
            text.endswith(" ms") for text in page.locator("#answers tbody tr").nth(0).locator("td").all_inner_texts()
        )
        assert page.locator("#status").inner_text() == "All 3 agree ✓"
        assert [text for text in unexpected if not text.startswith("blob:")] == []
        wrong = tmp_path / "words.png"
        wrong.write_text("no image")
        page.set_input_files("#file", wrong)
        page.locator("#status.error").wait_for()
        assert page.locator("#status").inner_text() and page.locator("#answers").is_hidden()
        page.close()
