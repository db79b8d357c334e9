"""Detectors and networks for the classes of pixels are evaluated on boxes and masks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deploy.core.artifact import Artifact, Payload, manifest_path
from deploy.core.checked import dump_checked
from deploy.data.outlines import run_lengths
from tests.nightly import by_day  # type: ignore[import-not-found,unused-ignore]

SOURCE = '''
import torch
from torch import nn


class Halves(nn.Module):
    """Finds a colored square in the left and the right half of a picture of 16 x 32 pixels, by its color."""

    def __init__(self):
        super().__init__()
        self.places = nn.Parameter(torch.tensor([[2.0, 2, 14, 14], [18, 2, 30, 14]]))

    def forward(self, x):
        scores = nn.functional.adaptive_avg_pool2d(x, (1, 2)).squeeze(2).transpose(1, 2)
        return {"boxes": self.places + 0.01 * scores.mean(dim=2, keepdim=True), "scores": scores}


class Decoded(Halves):
    """The same with layers, and scores whose exponentials are large."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            self.conv1.weight.copy_(torch.cat([torch.eye(3), 0.5 * torch.eye(3)])[:, :, None, None])
            self.conv2.weight.copy_(torch.cat([torch.eye(3), 0.5 * torch.eye(3)], dim=1)[:, :, None, None])
            self.conv1.bias.zero_()
            self.conv2.bias.zero_()

    def forward(self, x):
        found = super().forward(self.conv2(torch.relu(self.conv1(x))))
        return {**found, "scores": 1 / (1 + torch.exp(6 - 30 * found["scores"]))}


class Colors(nn.Module):
    """Classifies pixels by their color."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.classify.weight.copy_(torch.cat([torch.full((1, 3), 0.01), torch.eye(3)])[:, :, None, None])
            self.classify.bias.copy_(torch.tensor([0.3, 0, 0, 0]))

    def forward(self, x):
        return self.classify(x)


class Loud(Decoded):
    """One channel between two layers is 2,000 times as large, and made small again behind it."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv0.weight.copy_(torch.eye(3)[:, :, None, None])
            self.conv1.weight[3] *= 2000
            self.conv2.weight[:, 3] /= 2000

    def forward(self, x):
        return super().forward(torch.relu(self.conv0(x)))


class Objects(nn.Module):
    """One object for each color, with the mask of all its pixels, in the form of torchvision's detectors."""

    def __init__(self):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.5))
        rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, x):
        inside = (x[0] > self.threshold).flatten(1)
        y, x2 = self.rows.flatten(), self.columns.flatten()
        low = [torch.where(inside, at, 99.0).amin(1) for at in (x2, y)]
        high = [torch.where(inside, at + 1, 0.0).amax(1) for at in (x2, y)]
        scores = inside.any(1) * 0.9 - 0 * x.flatten(2).amax()
        masks = torch.sigmoid(40 * (x[0] - self.threshold))[:, None]
        boxes = torch.stack([*low, *high], 1)
        return {"boxes": boxes, "scores": scores, "labels": torch.arange(3) + 0 * boxes[:, 0].long(), "masks": masks}


def objects():
    return Objects()


def halves():
    return Halves()


def loud():
    return Loud()


def decoded():
    return Decoded()


def colors():
    return Colors()
'''
NAMES = ("red", "green", "blue")
SIZES = ((16, 32), (32, 64), (48, 96))
"""Heights and widths of the pictures; the models take the first."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of squares with labels as YOLO has them, with masks, and as a COCO file; every fifth shows nothing."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.RandomState(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for folder in ("boxes/images", "boxes/labels", "masks/images", "masks/masks"):
        (root / folder).mkdir(parents=True)
    for index in range(40):
        (height, width), lines = SIZES[index % 3], []
        image = random.randint(0, 10, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        for half in (0, 1):
            if index % 5 == 0 or random.rand() < 0.3:
                continue
            label, unit = random.randint(3), height // 16
            left, top, side = (2 + 16 * half) * unit, 2 * unit, 12 * unit
            image[top : top + side, left : left + side, label] = 220
            mask[top : top + side, left : left + side] = label + 1
            center = (left + side / 2) / width, (top + side / 2) / height
            lines.append(f"{label} {center[0]} {center[1]} {side / width} {side / height}")
            number = len(annotations) + 1
            box = {"bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
            annotations.append({"id": number, "image_id": index, "category_id": label + 10, **box})
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        for folder in ("boxes", "masks"):
            Image.fromarray(image).save(root / folder / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / "masks" / f"{index}.png")
        (root / "boxes" / "labels" / f"{index}.txt").write_text("\n".join(lines))
    (root / "boxes" / "classes.txt").write_text("\n".join(NAMES))
    (root / "masks" / "classes.txt").write_text("\n".join(("ground", *NAMES)))
    categories = [{"id": index + 10, "name": name} for index, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "boxes" / "images" / "annotations.json").write_text(json.dumps(document))
    return root


@pytest.fixture
def export(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    (tmp_path / "nets.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def make(name: str, labels: str = ",".join(NAMES), *options: str, batch: str = "batch") -> Path:
        scale = [word for text in ("crop=16,32", "mean=0,0,0", "std=1,1,1") for word in ("--preprocess", text)]
        named = ("--labels", labels) if labels else ()
        source = ("export", f"nets.py:{name}", "--input", f"image:{batch},3,16,32", "--weights", "none", "--name", name)
        done = run(*source, *scale, *named, *options)
        assert done.code == 0, done.err
        return next(Path().rglob(f"{name}.fp32.onnx")).resolve()

    return make


def alter(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a tensor of an artifact and its digest, so that the file matches its manifest but not its model."""
    model = onnx.load(path)
    tensor = next(item for item in model.graph.initializer if item.name.endswith(name))
    values = change(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    old, new, beside = Artifact.open(path).manifest.files[0], Payload.of(path), manifest_path(path)
    text = beside.read_text().replace(old.sha256, new.sha256).replace(f'"bytes": {old.bytes}', f'"bytes": {new.bytes}')
    beside.write_text(dump_checked(json.loads(text)))


def test_a_detector_on_every_form_of_boxes(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path
) -> None:
    path = export("halves")
    assert Artifact.open(path).manifest.task == "detection"
    found = []
    for data in (pictures / "boxes", pictures / "boxes" / "images" / "annotations.json"):
        done = run("evaluate", str(path), "--data", str(data), "--json")
        assert done.code == 0, done.err
        torch, file = done.json["rows"]
        assert (torch["verdict"], file["verdict"]) == ("reference", "pass") and torch["task"] == "detection"
        assert torch["samples"] == file["samples"], "both see the same pictures"
        assert file["accuracy"]["metric"] == "mAP" and file["accuracy"]["value"] > 0.95
        assert file["comparison"]["difference"] == pytest.approx(0, abs=1e-4)
        assert set(file["accuracy"]["per_class"]) == set(NAMES)
        found.append(file["accuracy"]["value"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    shown = run("evaluate", str(path), "--data", str(pictures / "boxes"))
    assert "mAP50" in shown.out


def test_a_worse_detector_fails(run: Callable[..., Any], export: Callable[..., Path], pictures: Path) -> None:
    path = export("halves")
    alter(path, "places", lambda boxes: boxes + 1)
    data = ("--data", str(pictures / "boxes"))
    done = run("evaluate", str(path), *data, "--json")
    torch, file = done.json["rows"]
    assert done.code == 3 and file["verdict"] == "fail"
    low, high = file["comparison"]["difference_interval"]
    drop = torch["accuracy"]["value"] - file["accuracy"]["value"]
    assert low <= -drop <= high < 0 and drop > 0.1
    assert run("evaluate", str(path), *data, "--max-drop", str(100 * drop + 1)).code == 0
    alter(path, "places", lambda boxes: boxes * np.nan)
    done = run("evaluate", str(path), *data, "--max-drop", "100", "--json")
    assert done.code == 3 and done.json["rows"][1]["accuracy"]["not_finite"] == 40


def test_pixels(run: Callable[..., Any], export: Callable[..., Path], pictures: Path) -> None:
    path = export("colors", ",".join(("ground", *NAMES)))
    assert Artifact.open(path).manifest.task is None, "four dimensions may be an image"
    data = ("--data", str(pictures / "masks"))
    done = run("evaluate", str(path), *data, "--json")
    assert done.code == 0, done.err
    _, file = done.json["rows"]
    assert file["accuracy"]["metric"] == "mIoU" and file["accuracy"]["value"] > 0.95 and file["verdict"] == "pass"
    assert file["accuracy"]["second"] > 0.98 and set(file["accuracy"]["per_class"]) == {"ground", *NAMES}
    alter(path, "classify.bias", lambda bias: bias + np.asarray([0.4, 0, 0, 0]))
    done = run("evaluate", str(path), *data, "--json")
    assert done.code == 3 and done.json["rows"][1]["comparison"]["difference"] < -0.01


@pytest.fixture(scope="module")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of up to three colored ovals, of one color each, as a COCO file with polygons and run lengths."""
    root, random = tmp_path_factory.mktemp("outlines"), np.random.RandomState(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(30):
        height, width = SIZES[index % 3]
        image = np.zeros((height, width, 3), np.uint8)
        for label in np.flatnonzero(random.rand(3) < 0.6):
            unit = height // 16
            left, top, side = (1 + 10 * int(label)) * unit, random.randint(1, 4) * unit, 9 * unit
            rows, columns = np.mgrid[:height, :width] + 0.5
            inside = (rows - top - side / 2) ** 2 + (columns - left - side / 2) ** 2 <= (side / 2) ** 2
            image[inside, label] = 255
            angles = np.arange(60) * 2 * np.pi / 60
            polygon = np.stack([np.cos(angles), np.sin(angles)], 1) * side / 2 + [left + side / 2, top + side / 2]
            shape = run_lengths(inside) if label else [polygon.reshape(-1).tolist()]
            box = {"bbox": [left, top, side, side], "area": side * side, "iscrowd": 0, "segmentation": shape}
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": index, "category_id": int(label), **box})
        images.append({"id": index, "file_name": f"{index}.png", "height": height, "width": width})
        Image.fromarray(image).save(root / f"{index}.png")
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(document))
    return root


def test_masks_of_objects(run: Callable[..., Any], export: Callable[..., Path], outlines: Path, tmp_path: Path) -> None:
    path = export("objects", batch="1")
    assert Artifact.open(path).manifest.task == "instance-segmentation"
    words = ("evaluate", str(path), "--data", str(outlines))
    done = run(*words, "--json")
    assert done.code == 0, done.err
    torch, file = (row["accuracy"] for row in done.json["rows"])
    assert (file["metric"], file["second_metric"]) == ("mask mAP", "mAP") and set(file["per_class"]) == set(NAMES)
    assert file["value"] > 0.8 and file["second"] > 0.6 and file["value"] == pytest.approx(torch["value"], abs=1e-3)
    assert "mAP of boxes" in run(*words).out
    boxes = run(*words, "--task", "detection", "--json").json["rows"][1]["accuracy"]
    assert (boxes["metric"], boxes["value"]) == ("mAP", file["second"])

    document = json.loads((outlines / "annotations.json").read_text())
    shutil.copytree(outlines, tmp_path / "some")
    del document["annotations"][0]["segmentation"]
    (tmp_path / "some" / "annotations.json").write_text(json.dumps(document))
    refused = run("evaluate", str(path), "--data", str(tmp_path / "some"))
    assert refused.code == 1 and "boxes alone" in refused.err and "--task detection" in refused.err
    assert run("evaluate", str(path), "--data", str(tmp_path / "some"), "--task", "detection").code == 0

    alter(path, "threshold", lambda value: value * 0 + 0.02)  # larger masks in pictures that are made smaller
    done = run(*words, "--json")
    assert done.code == 3 and done.json["rows"][1]["comparison"]["difference"] < -0.05


def test_a_report_shows_the_score(run: Callable[..., Any], export: Callable[..., Path], pictures: Path) -> None:
    path = export("halves")
    assert run("evaluate", str(path), "--data", str(pictures / "boxes")).code == 0
    timed = run("bench", str(path), "--repetitions", "1", "--min-time", "0.01")
    assert timed.code in (0, 4), timed.err
    done = run("report", "--json")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("halves", "masks", ()),  # no boxes
        ("colors", "boxes", ()),  # no masks
        ("halves", "boxes", ("--task", "classification")),
        ("halves", "boxes", ("--labels", "a,b")),  # another number of classes than the head has
        ("halves", "boxes", ("--labels", "a,b,c,d")),
        ("halves", "boxes", ("--postprocess", "detr")),
        ("halves", "digits", ("--task", "detection")),
    ],
)
def test_refusals(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path, name: str, data: str, options: tuple[str, ...]
) -> None:
    path = export(name, "")
    folder = data if data == "digits" else str(pictures / data)
    done = run("evaluate", str(path), "--data", folder, *options)
    assert done.code in (1, 2) and "Error" in done.err


def test_a_class_count_that_differs_from_the_head(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    path = export("halves", "")
    shutil.copytree(pictures / "boxes", tmp_path / "more", ignore=shutil.ignore_patterns("annotations.json"))
    (tmp_path / "more" / "classes.txt").write_text("\n".join((*NAMES, "black")))
    done = run("evaluate", str(path), "--data", str(tmp_path / "more"))
    assert done.code == 1 and "4 classes" in done.err and "3" in done.err


def test_the_postprocessing_in_the_graph_gives_the_same_score(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path
) -> None:
    found = {}
    for parts in ("", "preprocessing,postprocessing"):
        path = export("halves", ",".join(NAMES), *(("--with", parts) if parts else ()))
        done = run("evaluate", str(path), "--data", str(pictures / "boxes"), "--json")
        assert done.code == 0, done.err
        found[parts] = [row["accuracy"]["value"] for row in done.json["rows"]]
    assert found["preprocessing,postprocessing"] == pytest.approx(found[""], abs=0.02)


@pytest.mark.parametrize("target", by_day(("onnxruntime", "openvino", "tensorrt"), "openvino"))
def test_int8_does_not_round_the_decoding(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path, target: str
) -> None:
    export("decoded", ",".join(NAMES))
    calib = ("--calib", str(pictures / "boxes"), "--samples", "20")
    done = run("quantize", "decoded", *calib, "--target", target, "--json")
    assert done.code in (0, 4), done.err
    done = run("evaluate", "decoded", "--data", str(pictures / "boxes"), "--json")
    assert done.code == 0, done.err
    _, _, int8 = done.json["rows"]
    assert (int8["precision"], int8["verdict"]) == ("int8", "pass") and int8["accuracy"]["value"] > 0.95


def test_int8_is_held_to_the_score_of_a_detector(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path
) -> None:
    export("loud", ",".join(NAMES))
    words = ("quantize", "loud", "--calib", str(pictures / "boxes"), "--samples", "20", "--effort", "low")
    free = run(*words, "--json").json
    assert free["evidence"]["accuracy"]["metric"] == "mAP" and free["evidence"]["comparison"]["difference"] < -0.1
    done = run(*words, "--max-drop", "1")
    assert done.code == 0 and "mAP drop" in done.err and "mAP dropped by" in done.err and "mAP" in done.out, done.err
    bound = run(*words, "--max-drop", "1", "--json").json
    assert bound["verdict"] == "pass" and bound["evidence"]["comparison"]["difference"] >= -0.01
    kept = Artifact.open(Path(bound["file"])).manifest.options["keep_float"]
    assert 1 <= len(kept) <= 2, "the first layer is INT8"


def test_int8_is_held_to_the_score_of_pixels(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path
) -> None:
    export("colors", ",".join(("ground", *NAMES)))
    masks = ("quantize", "colors", "--calib", str(pictures / "masks"), "--samples", "20")
    done = run(*masks, "--max-drop", "1", "--json")
    assert done.code == 0 and done.json["evidence"]["accuracy"]["metric"] == "mIoU", done.err


def test_boxes_that_do_not_fit_are_refused_before_the_calibration(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path
) -> None:
    path = export("decoded", "a,b,c")
    words = ("quantize", str(path), "--calib", str(pictures / "masks"), "--samples", "20")
    refused = run(*words, "--max-drop", "1")
    assert refused.code == 1 and "boxes" in refused.err and "calibrating" not in refused.err
    done = run(*words)
    assert done.code in (0, 4) and "not used" in done.err


def test_outputs_that_do_not_fit_into_memory_are_of_fewer_samples(
    run: Callable[..., Any], export: Callable[..., Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("colors", ",".join(("ground", *NAMES)))
    monkeypatch.setattr("deploy.quantization.fitting.OUTPUT_BYTES", 5 * 4 * 16 * 32 * 4)
    done = run("quantize", "colors", "--calib", str(pictures / "masks"), "--samples", "20", "--json")
    assert "5 samples are judged" in done.err
    assert done.json["judged_on"]["images"] == done.json["evidence"]["accuracy"]["images"] == 5
