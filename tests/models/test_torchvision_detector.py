"""torchvision's detectors for a batch of pictures return what torchvision returns for a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import deploy
from deploy.core.errors import UsageError
from deploy.models.request import ModelRequest
from deploy.models.resolve import resolve
from deploy.models.torchvision_detector import BatchedDetector

HEADS = ("cls_logits", "cls_score", "classification_head", "bbox", "regression", "rpn.head")


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
    batched = BatchedDetector(module).eval()
    assert {id(value) for value in batched.parameters()} == {id(value) for value in module.parameters()}
    generator, found = torch.Generator().manual_seed(2), 0
    for count in (1, 3):
        images = F.interpolate(torch.rand(count, 3, 12, 12, generator=generator), size=size, mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            wanted, given = module(list(images)), batched(images)
        for index, one in enumerate(wanted):
            kept = int(given["count"][index])
            assert kept == len(one["scores"])
            scores = given["scores"][index, :kept]
            torch.testing.assert_close(scores, one["scores"], atol=1e-4, rtol=1e-3)
            for row, box in enumerate(one["boxes"]):  # rows of nearly equal scores may change places
                near = (scores - one["scores"][row]).abs() < 1e-4
                apart = (given["boxes"][index, :kept] - box).abs().amax(1)
                assert ((apart < 0.05) & near & (given["labels"][index, :kept] == one["labels"][row])).any()
            found += kept
    assert found


def test_the_thresholds_are_those_of_the_detector() -> None:
    postprocessing = deploy.Postprocessing(kind="auto", score_threshold=0.5)
    pipeline = deploy.GraphPipeline(parts=("postprocessing",), postprocessing=postprocessing)
    request = ModelRequest(name="torchvision/ssdlite320_mobilenet_v3_large", weights="none", pipeline=pipeline)
    with pytest.raises(UsageError):
        resolve(request)


@pytest.mark.slow
def test_masks_and_keypoints_are_refused() -> None:
    pipeline = deploy.GraphPipeline(parts=("postprocessing",))
    request = ModelRequest(name="torchvision/maskrcnn_resnet50_fpn", weights="none", pipeline=pipeline)
    with pytest.raises(UsageError):
        resolve(request)


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
