"""torchvision's detectors for a batch of pictures return what torchvision returns for a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

import deploy
from deploy.core.errors import UsageError
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.models.torchvision_detector import BatchedDetector, pasted

HEADS = ("cls_logits", "cls_score", "classification_head", "bbox", "regression", "rpn.head", "mask_fcn_logits")


def _request(name: str, **options: str) -> ModelRequest:
    return ModelRequest(name=f"torchvision/{name}", weights="none", options=options)


def _detecting(request: ModelRequest, gain: float) -> torch.nn.Module:
    """Return a detector whose heads differ enough from each other to find something."""
    module = resolve(request).module
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.dim() > 1 and any(head in name for head in HEADS):
                value.normal_(0, gain * value.shape[1:].numel() ** -0.5, generator=generator)
            elif name.endswith("bias") and any(head in name for head in HEADS):
                value.normal_(0, 0.1, generator=generator)
    return module


@pytest.mark.parametrize(
    ("request_", "gain", "size"),
    [
        (_request("ssdlite320_mobilenet_v3_large", num_classes="4", score_thresh="0.3"), 0.3, (96, 128)),
        (_request("fasterrcnn_mobilenet_v3_large_320_fpn", num_classes="4"), 3.0, (160, 192)),
        pytest.param(
            _request("maskrcnn_resnet50_fpn", num_classes="4", min_size="96"), 0.02, (80, 96), marks=pytest.mark.slow
        ),
        pytest.param(
            _request("fcos_resnet50_fpn", min_size="96", num_classes="4"), 1.0, (80, 96), marks=pytest.mark.slow
        ),
        pytest.param(
            _request(
                "retinanet_resnet50_fpn", min_size="128", num_classes="4", score_thresh="0.5", topk_candidates="200"
            ),
            0.1,
            (96, 128),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            _request("ssd300_vgg16", num_classes="3", score_thresh="0.5"), 0.5, (96, 128), marks=pytest.mark.slow
        ),
    ],
    ids=lambda item: item.name if isinstance(item, ModelRequest) else None,
)
def test_equal_to_the_lists_of_torchvision(request_: ModelRequest, gain: float, size: tuple[int, int]) -> None:
    module = _detecting(request_, gain)
    batched, fewer = BatchedDetector(module).eval(), BatchedDetector(module, candidates=150).eval()
    assert {id(value) for value in batched.parameters()} == {id(value) for value in module.parameters()}
    generator, found = torch.Generator().manual_seed(2), 0
    for count in (1, 3):
        images = F.interpolate(torch.rand(count, 3, 12, 12, generator=generator), size=size, mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            wanted, given = module(list(images)), batched(images)
            first = fewer(images)  # boxes of higher scores do not depend on those of lower ones
        for index, kept_first in enumerate(first.pop("count").tolist()):
            assert kept_first
            for name, value in first.items():
                torch.testing.assert_close(value[index, :kept_first], given[name][index, :kept_first])
        for index, one in enumerate(wanted):
            kept = int(given["count"][index])
            assert kept == len(one["scores"])
            scores = given["scores"][index, :kept]
            torch.testing.assert_close(scores, one["scores"], atol=1e-4, rtol=1e-3)
            for row, box in enumerate(one["boxes"]):  # rows of nearly equal scores may change places
                near = (scores - one["scores"][row]).abs() < 1e-4
                apart = (given["boxes"][index, :kept] - box).abs().amax(1)
                equal = (apart < 0.05) & near & (given["labels"][index, :kept] == one["labels"][row])
                assert equal.any()
                if "masks" in one:
                    masks = given["masks"][index, :kept][equal]
                    assert masks.shape[1:] == size
                    torch.testing.assert_close(masks[0], one["masks"][row, 0], atol=1e-3, rtol=0)
            found += kept
    assert found


def test_the_thresholds_are_those_of_the_detector() -> None:
    postprocessing = deploy.Postprocessing(kind="auto", score_threshold=0.5)
    pipeline = deploy.GraphPipeline(parts=("postprocessing",), postprocessing=postprocessing)
    request = ModelRequest(name="torchvision/ssdlite320_mobilenet_v3_large", weights="none", pipeline=pipeline)
    with pytest.raises(UsageError):
        resolve(request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("keypointrcnn_resnet50_fpn", ("postprocessing",)),
        ("maskrcnn_resnet50_fpn", ("preprocessing", "postprocessing")),
    ],
)
def test_what_has_no_form_is_refused(name: str, parts: tuple[Any, ...]) -> None:
    request = ModelRequest(name=f"torchvision/{name}", weights="none", pipeline=deploy.GraphPipeline(parts=parts))
    with pytest.raises(UsageError, match="no form"):
        resolve(request)


def test_masks_are_pasted_as_torchvision_does() -> None:
    """Boxes beyond every edge, without an area, of one pixel, and of the whole picture."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(40, 4, generator=generator)
    low = drawn[:, :2] * torch.tensor([70.0, 54.0]) - 8
    boxes = torch.cat([low, torch.maximum(low, torch.tensor(0.0)) + drawn[:, 2:] * 40], 1)
    more = [[0, 0, 64, 48], [5, 5, 5, 5], [5, 5, 6, 6], [-9, -9, 80, 60], [63, 47, 64, 48], [-0.4, -0.4, 3.6, 2.7]]
    boxes = torch.cat([boxes, torch.tensor(more, dtype=torch.float32)])
    masks = torch.rand(len(boxes), 1, 28, 28, generator=generator)
    wanted = paste_masks_in_image(masks, boxes, (48, 64))[:, 0]
    given = pasted(masks[:, 0].unsqueeze(0), boxes.unsqueeze(0), (48, 64))[0]
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_the_file_has_a_dynamic_batch(tmp_path: Path, name: str) -> None:
    pipeline = deploy.GraphPipeline(
        parts=("postprocessing",), postprocessing=deploy.Postprocessing(kind="auto", candidates=100)
    )
    request = ModelRequest(name=f"torchvision/{name}", weights="none", options={"num_classes": "4"})
    done = deploy.export_model(request, artifacts=tmp_path, pipeline=pipeline, probes="quick")
    assert done.verdict in ("pass", "inconclusive"), done.parity.reasons
    assert done.strategy == "export"
    session = onnxruntime.InferenceSession(str(done.artifact.path), providers=["CPUExecutionProvider"])
    for count in (1, 2, 3, 5):
        images = np.random.default_rng(count).random((count, 3, 320, 320), np.float32)
        assert session.run(["count"], {"image": images})[0].shape == (count,)
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    deploy.build_engine(deploy.BuildRequest(model=done.artifact.path, runtime="tensorrt-rtx"), artifacts=tmp_path)
