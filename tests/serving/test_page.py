"""The demo page of detectors and of networks for the classes of pixels, in a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.serving.answers import Answer, agreement, answer
from deploy.tasks.detections import Detections
from tests.conftest import Ran
from tests.serving.conftest import serving

NETS = '''
import torch
from torch import nn


class Spots(nn.Module):
    """A box for each quarter of a picture of 32 x 32; red ones are of class 0, green ones of class 1."""

    def __init__(self):
        super().__init__()
        self.sharp = nn.Parameter(torch.tensor(6.0))
        low = torch.tensor([[0.0, 0.0], [16.0, 0.0], [0.0, 16.0], [16.0, 16.0]])
        self.register_buffer("grid", torch.cat((low, low + 16), 1))

    def forward(self, image):
        color = nn.functional.avg_pool2d(image, 16)[:, :2].flatten(2).transpose(1, 2)
        boxes = self.grid.expand(len(image), 4, 4) + 0 * color[..., :1]
        return {"boxes": boxes, "scores": torch.sigmoid(self.sharp * color)}


class Pixels(nn.Module):
    """The class of a pixel is its color."""

    def __init__(self):
        super().__init__()
        self.color = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.color.weight.copy_(torch.eye(3)[:, :, None, None])
            self.color.bias.zero_()

    def forward(self, image):
        return self.color(image)


class Objects(nn.Module):
    """Two objects, by their color: red ones are of class 0, green ones of class 1; with masks."""

    def __init__(self):
        super().__init__()
        self.sharp = nn.Parameter(torch.tensor(20.0))
        self.register_buffer("places", torch.tensor([[0.0, 0, 16, 16], [16, 16, 32, 32]]))

    def forward(self, image):
        masks = torch.sigmoid(self.sharp * (image[0, :2] - 0.5))
        scores = masks.flatten(1).amax(1)
        labels = torch.arange(2) + 0 * scores.to(torch.int64)
        return {"boxes": self.places + 0 * scores[:, None], "scores": scores, "labels": labels, "masks": masks[:, None]}


def objects():
    return Objects().eval()


def spots():
    return Spots().eval()


def pixels():
    return Pixels().eval()
'''


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Red at the top left, green at the bottom right, black elsewhere."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16, 0] = pixels[16:, 16:, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def shown(
    browser: Any, run: Callable[..., Ran], store: Path, tmp_path: Path, picture: Path
) -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """Export a network of `NETS` and show the picture to it."""
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    stack = contextlib.ExitStack()

    def show(name: str, batch: str = "batch") -> tuple[Any, list[str]]:
        done = run("export", f"{tmp_path / 'nets.py'}:{name}", "--input", f"image:{batch},3,32,32", "--name", name)
        assert done.code == 0, done.err
        server = stack.enter_context(serving(store, name))
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.info["url"])
        page.set_input_files("#file", picture)
        page.locator(".drawn").nth(1).wait_for()
        return page, problems

    with stack:
        yield show


def test_boxes(shown: Callable[..., tuple[Any, list[str]]]) -> None:
    page, problems = shown("spots")
    assert page.locator("#status").inner_text() == "Both agree ✓"
    for column in range(2):
        cell = page.locator(".drawn").nth(column)
        boxes = cell.locator("rect")
        assert boxes.count() == 2
        area, first = cell.bounding_box(), boxes.nth(0).bounding_box()
        assert first["width"] == pytest.approx(area["width"] / 2, abs=4)
    texts = page.locator(".found").nth(0).locator("li").all_inner_texts()
    assert sorted(text.split()[0] for text in texts) == ["0", "1"]
    assert problems == []
    page.close()


def test_classes_of_pixels(shown: Callable[..., tuple[Any, list[str]]]) -> None:
    page, problems = shown("pixels")
    assert page.locator(".drawn .mask").count() == 2
    texts = page.locator(".found").nth(0).locator("li").all_inner_texts()
    assert [text.split()[0] for text in texts] == ["0", "1"] and texts[0].endswith("75 %"), texts
    assert page.locator("#status").inner_text() == "Both agree ✓" and problems == []
    page.close()


def test_masks_of_objects(shown: Callable[..., tuple[Any, list[str]]]) -> None:
    page, problems = shown("objects", "1")
    assert page.locator("#status").inner_text() == "Both agree ✓"
    assert page.locator(".drawn rect").count() == 4 and page.locator(".drawn .mask").count() == 2
    colors = page.evaluate(
        """async () => {
            const image = document.querySelector(".drawn .mask");
            await image.decode();
            const canvas = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
            canvas.drawImage(image, 0, 0);
            return [[4, 4], [28, 4], [28, 28]].map(([x, y]) => [...canvas.getImageData(x, y, 1, 1).data]);
        }"""
    )
    assert colors[0][3] == colors[2][3] == 255 and colors[1][3] == 0, "transparent beside the objects"
    assert colors[0] != colors[2] and problems == []
    page.close()


def test_the_agreement_of_masks() -> None:
    masks = np.zeros((2, 8, 8), np.float32)
    masks[0, :4], masks[1, 4:] = 1, 1
    outputs = {
        "boxes": np.array([[0, 0, 8, 4], [0, 4, 8, 8]], np.float32),
        "scores": np.array([0.9, 0.8], np.float32),
        "labels": np.array([1, 0]),
    }
    other = masks.copy()
    other[0, :, :5] = 0  # the box is the same, and most of the mask is not
    task = "instance-segmentation"
    one, two = (answer({**outputs, "masks": item[:, None]}, task, (), None, (8, 8)) for item in (masks, other))
    assert agreement(one, one) == 1.0 and agreement(one, two) == 0.5
    assert one.shown["mask"].startswith("data:image/png") and len(one.shown["boxes"]) == 2
    without = answer(outputs, task, (), None, (8, 8))
    assert "mask" not in without.shown and agreement(one, without) == 1.0, "boxes are compared"


def _found(*rows: tuple[float, float, float, float, int]) -> Answer:
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    labels = np.array([row[4] for row in rows], np.int64)
    found = Detections(boxes=boxes, scores=np.ones(len(rows), np.float32), labels=labels)
    return Answer(shown={}, compared=found)


def test_the_agreement_of_boxes() -> None:
    one = _found((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))
    assert agreement(one, one) == 1.0 and agreement(_found(), _found()) == 1.0
    assert agreement(one, _found((1, 0, 10, 10, 0))) == 0.5
    assert agreement(one, _found((0, 0, 10, 10, 1), (20, 20, 30, 30, 0))) == 0.0, "of other classes"
    assert agreement(one, _found()) == 0.0
    twice = _found((0, 0, 10, 10, 0), (0, 0, 10, 9, 0))
    assert agreement(one, twice) == 0.5, "a box counts once"


def test_the_agreement_of_classes_and_pixels() -> None:
    logits = np.array([[0.0, 2.0, 1.0]], np.float32)
    one, two = (answer({"y": values}, "classification", (), None, (4, 4)) for values in (logits, -logits))
    assert agreement(one, one) == 1.0 and agreement(one, two) == 0.0
    broken = answer({"y": logits * np.nan}, "classification", (), None, (4, 4))
    assert broken.shown == {"top": []} and agreement(one, broken) is None
    planes = np.zeros((1, 2, 4, 4), np.float32)
    planes[0, 1, 0] = 1
    other = planes.copy()
    other[0, 1, 0, 0] = -1
    one, two = (answer({"y": values}, "semantic-segmentation", (), None, (4, 4)) for values in (planes, other))
    assert agreement(one, two) == 15 / 16
    single = answer({"y": planes[:, 1:] - 0.5}, "semantic-segmentation", ("back", "front"), None, (4, 4))
    assert [item["label"] for item in single.shown["classes"]] == ["back", "front"]
