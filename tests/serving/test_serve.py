"""What is served and what is refused; the page in a real browser."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.data.collection import open_dataset
from tests.conftest import Ran
from tests.serving.conftest import serving


def test_untrained_weights_are_refused(run: Callable[..., Ran], store: Path) -> None:
    assert run("export", "lenet5", "--weights", "none").code == 0
    ran = run("serve", "lenet5")
    assert ran.code == 1 and "untrained" in ran.err and "--allow-untrained" in ran.err
    with serving(store, "lenet5", "--allow-untrained", "--no-page") as server:
        code, err = server.stop()
    assert code == 0 and "untrained" in err


def test_a_model_that_takes_no_pictures_has_no_page(run: Callable[..., Ran], nets: Path, store: Path) -> None:
    assert run("export", f"{nets}:two", "--input", "a:batch,8", "--input", "b:batch,6").code == 0
    with serving(store, "nets-two") as server:
        assert not server.told["page"]
        code, err = server.stop()
    assert code == 0 and "there is no page" in err


def test_an_assumed_preprocessing_is_said(run: Callable[..., Ran], nets: Path, store: Path) -> None:
    assert run("export", f"{nets}:small", "--input", "x:batch,3,8,8").code == 0
    with serving(store, "nets-small") as server:
        assert server.told["page"]
        _, err = server.stop()
    assert "nothing says how" in err and "resized to 8 x 8" in err


def test_what_was_changed_is_not_served(run: Callable[..., Ran], served: Path, store: Path) -> None:
    import shutil

    shutil.copytree(served, store)
    path = store / "lenet5" / "lenet5.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ran = run("serve", "lenet5")
    assert ran.code == 3 and "manifest" in ran.err


def test_mistakes(run: Callable[..., Ran], served: Path, store: Path) -> None:
    import shutil

    assert "deploy export lenet5" in run("serve", "lenet5").err
    shutil.copytree(served, store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("serve", "lenet5", "--port", taken.getsockname()[1])
    assert ran.code == 2 and "cannot be used" in ran.err and "--port 0" in ran.err
    assert run("serve", "lenet5", "--host", "192.0.2.1").code == 2
    ran = run("serve", "lenet5", "--max-batch", 0)
    assert ran.code == 2


def test_only_the_file_that_was_named(served: Path) -> None:
    file = served / "lenet5" / "lenet5.int8-onnxruntime.onnx"
    with serving(served, "--artifact", file, "--no-page") as server:
        assert [item["name"] for item in server.told["models"]] == ["lenet5", "lenet5.int8-onnxruntime"]


def test_a_picture_on_the_page(browser: Any, served: Path, tmp_path: Path) -> None:
    images = open_dataset("digits", split="test")
    assert images.labels is not None
    picture = tmp_path / "digit.png"
    Image.fromarray(np.asarray(images.images[0])[:, :, 0]).save(picture)
    with serving(served, "lenet5") as server:
        page = browser.new_page()
        told: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if server.address not in request.url else None)
        page.goto(server.told["url"])
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
        assert [text for text in told if not text.startswith("blob:")] == []
        wrong = tmp_path / "words.png"
        wrong.write_text("no picture")
        page.set_input_files("#file", wrong)
        page.locator("#status.error").wait_for()
        assert "cannot be read" in page.locator("#status").inner_text()
        page.close()
