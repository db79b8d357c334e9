"""Detectors with their preprocessing and postprocessing in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import deploy
from deploy.core.errors import ModelError, UsageError
from deploy.core.model import Preprocessing
from deploy.data.placement import Placement
from deploy.data.preprocess import prepare
from deploy.tasks.detections import read_detections
from tests.conftest import Ran  # type: ignore[import-not-found,unused-ignore]

SIDE = 64
POSTPROCESSING = {"score_threshold": 0.3, "iou_threshold": 0.4, "candidates": 60, "detections": 20}


class Raw(nn.Module):
    """64 candidates of 3 classes, [n, 64, 8]: center, size, objectness, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(16, 8, 1)
        with torch.no_grad():
            self.head.weight.mul_(12)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        y = self.head(self.body(images))
        rows, columns = torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij")
        grid = torch.stack([columns, rows]).float() * 8 + 4
        parts = [grid + y[:, :2].tanh() * 8, (y[:, 2:4].tanh() + 1.5) * 14, (y[:, 4:] + 1).sigmoid()]
        return torch.cat(parts, 1).flatten(2).mT


class Yolo8(Raw):
    def forward(self, images: torch.Tensor) -> Any:
        raw = super().forward(images)
        return torch.cat([raw[..., :4], raw[..., 5:]], 2).mT


class Fcos(Raw):
    def forward(self, images: torch.Tensor) -> Any:
        raw = super().forward(images)
        center, half = raw[..., :2], raw[..., 2:4] / 2
        return {"boxes": torch.cat([center - half, center + half], 2), "scores": raw[..., 5:]}


class Detr(Raw):
    def forward(self, images: torch.Tensor) -> Any:
        raw = super().forward(images)
        return {"logits": (raw[..., 4:] - 0.5) * 6, "pred_boxes": raw[..., :4] / SIDE}


class EndToEnd(Raw):
    def forward(self, images: torch.Tensor) -> Any:
        raw = super().forward(images)
        best, label = raw[..., 5:].max(2, keepdim=True)
        return torch.cat([raw[..., :4], best, label.to(best)], 2)


def _module(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind().eval()


def _run(path: Path, images: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def _pictures(count: int, height: int = SIDE, width: int = SIDE) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(count).integers(0, 256, (count, 5, 6, 3)).astype(np.uint8)
    return np.repeat(np.repeat(coarse, -(-height // 5), 1), -(-width // 6), 2)[:, :height, :width]


FORMS = [
    (Raw, "yolo", ()),
    pytest.param(Yolo8, "yolo", (), marks=pytest.mark.slow),
    (Fcos, "auto", ()),
    (Detr, "auto", ("a", "b", "c")),
    pytest.param(Detr, "detr", ("a", "b", "c", "d"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "form", "labels"), FORMS, ids=lambda item: getattr(item, "__name__", None))
def test_the_file_returns_what_is_selected_outside_of_it(
    tmp_path: Path, kind: type[nn.Module], form: Any, labels: tuple[str, ...]
) -> None:
    module = _module(kind)
    pipeline = deploy.GraphPipeline(
        parts=("postprocessing",), postprocessing=deploy.Postprocessing(kind=form, **POSTPROCESSING)
    )
    done = deploy.export(
        module, f"images:batch,3,{SIDE},{SIDE}:float32:0..1", artifacts=tmp_path, pipeline=pipeline, labels=labels,
        probes="quick",
    )  # fmt: skip
    assert done.verdict == "pass", done.parity.reasons
    manifest = done.artifact.manifest
    assert [spec.name for spec in manifest.outputs] == ["boxes", "scores", "labels", "count"]
    assert manifest.postprocessing is not None and manifest.postprocessing["kind"] == "none"
    assert any("postprocessing in the graph" in note for note in done.notes)
    operators = {node.op_type for node in onnx.load(done.artifact.path).graph.node}
    assert not operators & {"NonZero", "NonMaxSuppression"}
    assert ("Loop" in operators) == (kind is not Detr)
    shown = "detr" if kind is Detr else "fcos" if kind is Fcos else "yolo"
    outside = deploy.Postprocessing(kind=shown, **POSTPROCESSING)
    found = 0
    for count in (1, 2, 3, 5):
        images = _pictures(count).transpose(0, 3, 1, 2).astype(np.float32) / 255
        with torch.no_grad():
            raw = module(torch.from_numpy(images))
        outputs = {name: value.numpy() for name, value in (raw if isinstance(raw, Mapping) else {"y": raw}).items()}
        wanted = read_detections(outputs, outside, (SIDE, SIDE), len(labels) or None)
        result = _run(done.artifact.path, images)
        given = read_detections(result, deploy.Postprocessing(kind="none"), (SIDE, SIDE))
        for index, (one, two) in enumerate(zip(wanted, given, strict=True)):
            np.testing.assert_array_equal(one.labels, two.labels)
            np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)
            np.testing.assert_allclose(one.boxes, two.boxes, atol=1e-3)
            assert not result["boxes"][index, len(two) :].any() and not result["scores"][index, len(two) :].any()
            found += len(two)
    assert found > 20


@pytest.mark.slow
def test_suppression_by_the_operator_gives_the_same(tmp_path: Path) -> None:
    images, found = _pictures(3).transpose(0, 3, 1, 2).astype(np.float32) / 255, []
    for suppression in ("fixed", "operator"):
        pipeline = deploy.GraphPipeline(
            parts=("postprocessing",),
            postprocessing=deploy.Postprocessing(kind="fcos", **POSTPROCESSING),
            suppression=suppression,  # type: ignore[arg-type]
        )
        text = f"images:batch,3,{SIDE},{SIDE}:float32:0..1"
        done = deploy.export(_module(Fcos), text, artifacts=tmp_path / suppression, pipeline=pipeline, probes="quick")
        assert done.verdict == "pass", done.parity.reasons
        operators = {node.op_type for node in onnx.load(done.artifact.path).graph.node}
        assert ("NonMaxSuppression" in operators) == (suppression == "operator")
        found.append(_run(done.artifact.path, images))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


def test_outputs_that_are_detections_get_the_common_form(tmp_path: Path) -> None:
    pipeline = deploy.GraphPipeline(
        parts=("postprocessing",), postprocessing=deploy.Postprocessing(kind="none", **POSTPROCESSING)
    )
    module = _module(EndToEnd)
    images = f"images:batch,3,{SIDE},{SIDE}:float32:0..1"
    done = deploy.export(module, images, artifacts=tmp_path, pipeline=pipeline, probes="quick")
    assert done.verdict == "pass"
    inputs = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    result = _run(done.artifact.path, inputs.numpy())
    with torch.no_grad():
        scores = module(inputs)[..., 4].numpy()
    assert (result["count"] == np.minimum((scores > 0.3).sum(1), 20)).all()
    np.testing.assert_allclose(result["scores"][0], np.sort(scores[0])[::-1][:20], atol=1e-5)


@pytest.mark.parametrize("letterbox", [pytest.param(None, marks=pytest.mark.slow), 114])
def test_from_pictures_of_mixed_sizes_to_boxes_in_their_pixels(tmp_path: Path, letterbox: int | None) -> None:
    module = _module(Fcos)
    recipe = Preprocessing(crop=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3, letterbox=letterbox)
    changes = ["crop=64", "mean=0.5,0.5,0.5", "std=0.25,0.25,0.25", f"letterbox={letterbox}"]
    done = deploy.export(
        module,
        f"images:batch,3,{SIDE},{SIDE}",
        artifacts=tmp_path,
        pipeline=deploy.GraphPipeline(
            parts=("preprocessing", "postprocessing"),
            postprocessing=deploy.Postprocessing(kind="fcos", **POSTPROCESSING),
        ),
        preprocess=changes,
        probes="quick",
    )
    assert done.verdict == "pass", done.parity.reasons
    (spec,) = done.artifact.manifest.inputs
    assert spec.dtype == "uint8" and spec.shape == ("batch", "height", "width", 3)
    assert done.artifact.manifest.preprocessing is None
    found = 0
    for height, width in ((50, 120), (130, 97), (64, 64), (31, 40)):
        pictures = _pictures(2, height, width)
        given = read_detections(_run(done.artifact.path, pictures), deploy.Postprocessing(kind="none"), (0, 0))
        place = Placement.of((height, width), recipe)
        for picture, detections in zip(pictures, given, strict=True):
            with torch.no_grad():
                raw = module(torch.from_numpy(prepare(picture, recipe)[None]))
            outputs = {name: value.numpy() for name, value in raw.items()}
            outside = deploy.Postprocessing(kind="fcos", **POSTPROCESSING)
            (wanted,) = read_detections(outputs, outside, (SIDE, SIDE))
            boxes = place.into_picture(wanted.boxes)
            close = [
                np.abs(box - boxes[wanted.labels == label]).max(1).min(initial=9e9) < 1.5
                for box, label in zip(detections.boxes, detections.labels, strict=True)
            ]  # Pillow rounds to bytes, so that some boxes near a threshold differ
            assert np.mean(close or [1.0]) > 0.8, (height, width)
            assert (detections.boxes <= [width, height, width, height]).all() and (detections.boxes >= 0).all()
            found += len(detections)
    assert found > 20


def test_what_the_graph_does_not_contain_is_recorded(nets: Path, run: Callable[..., Ran], tmp_path: Path) -> None:
    request = ("export", f"{nets}:small", "--input", "x:batch,3,32,32", "--postprocess", "yolo", "--json")
    done = run(*request, "--score-threshold", "0.2", "--probes", "quick")
    assert done.code == 0, done.err
    manifest = deploy.Artifact.open(Path(done.json["file"])).manifest
    assert manifest.postprocessing is not None
    assert (manifest.postprocessing["kind"], manifest.postprocessing["score_threshold"]) == ("yolo", 0.2)
    assert [spec.name for spec in manifest.outputs] == ["logits"]


def test_bad_declarations_are_refused(tmp_path: Path) -> None:
    images = f"images:batch,3,{SIDE},{SIDE}"

    def export(kind: type[nn.Module], form: Any, **options: Any) -> None:
        pipeline = deploy.GraphPipeline(
            parts=("postprocessing",), postprocessing=deploy.Postprocessing(kind=form, **POSTPROCESSING)
        )
        deploy.export(_module(kind), images, artifacts=tmp_path, pipeline=pipeline, **options)

    with pytest.raises(UsageError):  # the names do not tell
        export(Raw, "auto")
    with pytest.raises(ModelError):  # another form
        export(Fcos, "detr")
    with pytest.raises(UsageError):  # 3 classes
        export(Fcos, "fcos", labels=("cat", "dog"))
    with pytest.raises(UsageError):
        deploy.GraphPipeline(parts=("decoding",))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        deploy.Postprocessing(kind="yolo", iou_threshold=1.5)
    with pytest.raises(UsageError):  # no sizes are known
        deploy.export(_module(Raw), images, artifacts=tmp_path, pipeline=deploy.GraphPipeline(parts=("preprocessing",)))


def test_the_artifact_builds_the_same_model_again(nets: Path, run: Callable[..., Ran]) -> None:
    source = nets.read_text(encoding="utf-8") + (
        "\n\nclass Boxes(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.body = nn.Conv2d(3, 7, 4, 4)\n    def forward(self, x):\n"
        "        y = self.body(x).flatten(2).mT\n        low = y[..., :2].sigmoid() * 20\n"
        "        boxes = torch.cat([low, low + y[..., 2:4].exp() * 9], 2)\n"
        "        return {'boxes': boxes, 'scores': y[..., 4:].sigmoid()}\n\n\n"
        "def boxes(): return seeded(Boxes)\n"
    )
    nets.write_text(source, encoding="utf-8")
    model = ("--input", "x:batch,3,32,32", "--with", "postprocessing", "--candidates", "40", "--probes", "quick")
    done = run("export", f"{nets}:boxes", *model, "--json")
    assert done.code == 0, done.err
    checked = run("check", f"{nets}:boxes", "--probes", "quick", "--json")
    assert checked.code == 0 and checked.json["parity"]["verdict"] == "pass", checked.err
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    built = run("trt", "build", Path(done.json["file"]), "--runtime", "tensorrt-rtx", "--json")
    assert built.code == 0, built.err
