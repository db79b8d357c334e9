"""torchvision's detectors for a batch of pictures: the same modules and arithmetic, in tensors of fixed size.

torchvision's own classes take a list of pictures, loop over it, and return lists whose lengths depend on the pictures.
Here all pictures have one size, and the detections have the form of `deploy.tasks.detector.Detector`. They are equal
to those of torchvision where at most ``candidates`` boxes of a picture exceed the score threshold, and otherwise where
the detections are found among so many.

Source: torchvision, ``models/detection``: ``ssd.py``, ``retinanet.py``, ``fcos.py``, ``rpn.py``, ``roi_heads.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import boxes as box_ops

from deploy.onnx_graph.topk import topk
from deploy.tasks.detector import padded, rows, take
from deploy.tasks.operators import quotient
from deploy.tasks.suppression import suppress

Tensor = torch.Tensor

CANDIDATES = 1000
"""Boxes of a picture that suppression considers."""

_EMPTY = 1e-2
"""Side in pixels below which Faster R-CNN drops a box."""

_TINY = 1e-6
"""Area below which a box is on the lowest level anyway; the logarithm of 0 is not finite."""


def applies(module: torch.nn.Module) -> bool:
    """Return whether a module is a detector of torchvision that `BatchedDetector` runs."""
    return type(module) in _HEADS


def has_keypoints(module: torch.nn.Module) -> bool:
    """Return whether a module is a detector of torchvision that also returns keypoints."""
    return isinstance(module, detection.KeypointRCNN)


def has_masks(module: torch.nn.Module) -> bool:
    """Return whether a module is a detector of torchvision that also returns masks."""
    return isinstance(module, detection.MaskRCNN)


class BatchedDetector(torch.nn.Module):
    """A detector of torchvision that takes pictures [n, 3, height, width] with values in 0..1.

    Args:
        model: the detector; its modules and weights are used as they are.
        candidates: boxes of a picture that suppression considers.
    """

    def __init__(self, model: torch.nn.Module, candidates: int = CANDIDATES) -> None:
        super().__init__()
        self.model, self.candidates = model, candidates

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return ``boxes`` [n, k, 4] in pixels of the input, ``scores`` and ``labels`` [n, k], and ``count`` [n].

        Mask R-CNN also returns ``masks`` [n, k, height, width] in 0..1, as large as the input.
        """
        model: Any = self.model
        size = (int(image.shape[2]), int(image.shape[3]))
        inner, pictures = _transformed(model.transform, image, size)
        features = model.backbone(pictures)
        maps = {"0": features} if isinstance(features, Tensor) else features
        scores, pick = _HEADS[type(model)](model, maps, pictures, inner, self.candidates)
        nms, score, most = _limits(model)
        best, index = topk(scores, min(self.candidates, scores.shape[1]))
        boxes, labels = pick(index)
        valid = suppress(boxes, labels, best > score, nms)
        inner_boxes, best, labels, valid = take(boxes, best, labels, valid, most)
        boxes = inner_boxes * _ratios(boxes, size, inner)
        found = padded(boxes, best, labels, valid)
        if has_masks(model):
            masks = _masks(model.roi_heads, maps, inner_boxes, labels, inner)
            found["masks"] = torch.where(valid[..., None, None], pasted(masks, boxes, size), 0.0)
        return found


Candidates = tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]
"""Scores [n, m], -1 for boxes that do not count; and what returns boxes [n, k, 4] and labels [n, k] from an index of
the scores, [n, k]."""


def _limits(model: Any) -> tuple[float, float, int]:
    """Return the IoU threshold, the score threshold and the most detections of a detector."""
    owner = getattr(model, "roi_heads", model)
    return owner.nms_thresh, owner.score_thresh, owner.detections_per_img


def _transformed(transform: Any, image: Tensor, size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """Return the size after resizing, without padding, and the normalized, resized and padded pictures."""
    mean, std = (image.new_tensor(values).reshape(-1, 1, 1) for values in (transform.image_mean, transform.image_std))
    image = (image - mean) / std
    if transform.fixed_size is not None:
        inner = (transform.fixed_size[1], transform.fixed_size[0])
    else:
        factor = min(transform.min_size[-1] / min(size), transform.max_size / max(size))
        inner = (int(size[0] * factor), int(size[1] * factor))
    image = F.interpolate(image, size=inner, mode="bilinear", align_corners=False)
    height, width = (-side % transform.size_divisible for side in inner)
    return inner, F.pad(image, (0, width, 0, height))


def _ratios(boxes: Tensor, size: tuple[int, int], inner: tuple[int, int]) -> Tensor:
    """Return the factors of x and y, twice, from resized pictures to those of the input."""
    height, width = (torch.tensor(own) / torch.tensor(other) for own, other in zip(size, inner, strict=True))
    return torch.stack([width, height, width, height]).to(boxes)


def _anchors(generator: Any, pictures: Tensor, size: tuple[int, int], maps: Sequence[Tensor]) -> Tensor:
    """Return the anchors of one picture, [a, 4]; they are the same for all."""
    found: Tensor = generator(ImageList(pictures, [size]), list(maps))[0]
    return found


def _of_all(boxes: Tensor, like: Tensor) -> Tensor:
    return boxes.expand(like.shape[0], -1, -1)


def _decoded(coder: Any, codes: Tensor, anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes within the picture, [n, a, 4], from codes [n, a, 4] and anchors of the same shape."""
    decode = getattr(coder, "decode_single", None) or coder.decode
    boxes = decode(codes.reshape(-1, 4), anchors.reshape(-1, 4)).reshape(codes.shape)
    clipped: Tensor = box_ops.clip_boxes_to_image(boxes, size)
    return clipped


def _ssd(model: Any, maps: dict[str, Tensor], pictures: Tensor, size: tuple[int, int], wanted: int) -> Candidates:
    found = model.head(list(maps.values()))
    codes = found["bbox_regression"]
    anchors = _of_all(_anchors(model.anchor_generator, pictures, size, list(maps.values())), codes)
    scores = F.softmax(found["cls_logits"], dim=-1)[..., 1:].mT  # [n, c - 1, a]
    scores = torch.where(scores > model.score_thresh, scores, -1.0)
    order: Tensor | None = None
    if wanted > model.topk_candidates:  # fewer are the best of their class, too
        scores, index = topk(scores, min(model.topk_candidates, scores.shape[2]))
        order = index.flatten(1)
    width = scores.shape[2]

    def pick(index: Tensor) -> tuple[Tensor, Tensor]:
        label = quotient(index, width)
        row = index - label * width if order is None else order.gather(1, index)
        return _decoded(model.box_coder, rows(codes, row), rows(anchors, row), size), label + 1

    return scores.flatten(1), pick


def _levels(model: Any, maps: dict[str, Tensor], pictures: Tensor, size: tuple[int, int], wanted: int) -> Candidates:
    """Return the best candidates of every level of RetinaNet and FCOS."""
    levels = list(maps.values())
    found = model.head(levels)
    codes = found["bbox_regression"]
    anchors = _of_all(_anchors(model.anchor_generator, pictures, size, levels), codes)
    scores = found["cls_logits"].sigmoid()
    if "bbox_ctrness" in found:
        scores = torch.sqrt(scores * found["bbox_ctrness"].sigmoid())
    classes = scores.shape[2]
    scores = torch.where(scores > model.score_thresh, scores, -1.0).flatten(1)
    order: Tensor | None = None
    if wanted > model.topk_candidates:  # fewer are the best of their level, too
        each = model.anchor_generator.num_anchors_per_location()
        counts = [level.shape[2] * level.shape[3] * n * classes for level, n in zip(levels, each, strict=True)]
        best, places, start = [], [], 0
        for part, count in zip(torch.split(scores, counts, 1), counts, strict=True):
            value, index = topk(part, min(model.topk_candidates, count))
            best.append(value)
            places.append(index + start)
            start += count
        scores, order = torch.cat(best, 1), torch.cat(places, 1)

    def pick(index: Tensor) -> tuple[Tensor, Tensor]:
        place = index if order is None else order.gather(1, index)
        row = quotient(place, classes)
        return _decoded(model.box_coder, rows(codes, row), rows(anchors, row), size), place - row * classes

    return scores, pick


def _faster_rcnn(
    model: Any, maps: dict[str, Tensor], pictures: Tensor, size: tuple[int, int], wanted: int
) -> Candidates:
    proposals, valid = _proposals(model.rpn, list(maps.values()), pictures, size)
    heads, batch, count = model.roi_heads, proposals.shape[0], proposals.shape[1]
    pooled = _pooled(heads.box_roi_pool, maps, proposals, size)
    logits, codes = heads.box_predictor(heads.box_head(pooled))
    classes = logits.shape[1]
    boxes = heads.box_coder.decode_single(codes, proposals.reshape(-1, 4)).reshape(batch, count * classes, 4)
    boxes = box_ops.clip_boxes_to_image(boxes, size).reshape(batch, count, classes, 4)[:, :, 1:]
    scores = F.softmax(logits, -1).reshape(batch, count, classes)[:, :, 1:]
    large = ((boxes[..., 2:] - boxes[..., :2]) >= _EMPTY).all(-1)
    counts = (scores > heads.score_thresh) & large & valid.unsqueeze(2)

    def pick(index: Tensor) -> tuple[Tensor, Tensor]:
        return rows(boxes.flatten(1, 2), index), index - quotient(index, classes - 1) * (classes - 1) + 1

    return torch.where(counts, scores, -1.0).flatten(1), pick


def _proposals(rpn: Any, maps: list[Tensor], pictures: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the proposals [n, k, 4] of a region proposal network, and which of them are proposals, [n, k]."""
    objectness, codes = rpn.head(maps)
    counts = [level.shape[1] * level.shape[2] * level.shape[3] for level in objectness]
    parts = []
    anchors = torch.split(_anchors(rpn.anchor_generator, pictures, size, maps), counts)
    for logits, code, anchor in zip(objectness, codes, anchors, strict=True):
        code = code.reshape(code.shape[0], -1, 4, code.shape[2], code.shape[3]).permute(0, 3, 4, 1, 2).flatten(1, 3)
        flat = logits.permute(0, 2, 3, 1).flatten(1)
        best, index = topk(flat, min(rpn.pre_nms_top_n(), flat.shape[1]))
        boxes = _decoded(rpn.box_coder, rows(code, index), rows(_of_all(anchor, code), index), size)
        scores = best.sigmoid()
        large = ((boxes[..., 2:] - boxes[..., :2]) >= rpn.min_size).all(-1)
        kept = suppress(boxes, None, large & (scores >= rpn.score_thresh), rpn.nms_thresh)
        parts.append((boxes, torch.where(kept, scores, -1.0)))
    boxes, scores = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    best, index = topk(scores, min(rpn.post_nms_top_n(), scores.shape[1]))
    return rows(boxes, index), best >= 0


def _masks(heads: Any, maps: dict[str, Tensor], boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks of boxes [n, k, 4] within the boxes, for their labels, [n, k, m, m] in 0..1."""
    logits = heads.mask_predictor(heads.mask_head(_pooled(heads.mask_roi_pool, maps, boxes, size)))
    wanted = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    masks: Tensor = logits.gather(1, wanted).sigmoid().reshape(*labels.shape, *logits.shape[2:])
    return masks


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks [n, k, m, m] in the place of their boxes [n, k, 4], [n, k, *size].

    torchvision resizes each mask to its box, whose size depends on the picture. A bilinear resize is a product with the
    weights of the rows and one with those of the columns, which here are those of the whole picture.
    """
    padded_size = masks.shape[-1] + 2
    half = (boxes[..., 2:] - boxes[..., :2]) * 0.5 * (padded_size / masks.shape[-1])
    center = (boxes[..., 2:] + boxes[..., :2]) * 0.5
    low, high = ((center + sign * half).long().to(boxes) for sign in (-1, 1))
    columns, rows_of_box = (
        _resizing(low[..., axis], high[..., axis], length, padded_size) for axis, length in ((0, size[1]), (1, size[0]))
    )
    return rows_of_box @ F.pad(masks, (1, 1, 1, 1)) @ columns.mT


def _resizing(low: Tensor, high: Tensor, length: int, count: int) -> Tensor:
    """Return the weights [n, k, length, count] of a resize from ``count`` values to the pixels low..high of a line."""
    pixels = torch.arange(length).to(low)
    place = pixels - low.unsqueeze(2)
    sides = (high - low + 1).clamp(min=1).unsqueeze(2)
    source = ((place + 0.5) * (count / sides) - 0.5).clamp(0, count - 1)
    weights = (1 - (source.unsqueeze(3) - torch.arange(count).to(low)).abs()).clamp(min=0)
    inside = (place >= 0) & (place < sides)
    return torch.where(inside.unsqueeze(3), weights, 0.0)


def _pooled(pool: Any, maps: dict[str, Tensor], boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pooled features [n * k, channels, *size] of boxes [n, k, 4], each of the level for its size.

    Every box is pooled from every level, and one result is selected, so that all sizes are fixed.
    """
    levels = [value for name, value in maps.items() if name in pool.featmap_names]
    steps = [round(math.log2(size[0] / level.shape[2])) for level in levels]
    results = [_aligned(level, boxes / 2**step, pool) for level, step in zip(levels, steps, strict=True)]
    area = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).flatten()
    scale = torch.log2(torch.sqrt(area.clamp(min=_TINY)) / pool.canonical_scale)
    wanted = torch.floor(pool.canonical_level + scale + 1e-6).clamp(steps[0], steps[-1])
    chosen = results[0]
    for number, result in enumerate(results[1:], 1):  # torchvision numbers levels so, whatever their steps are
        chosen = torch.where((wanted == steps[0] + number).reshape(-1, 1, 1, 1), result, chosen)
    return chosen


def _aligned(features: Tensor, boxes: Tensor, pool: Any) -> Tensor:
    """Return what `torchvision.ops.roi_align` does for boxes in the coordinates of the features, within the picture.

    TensorRT has no operator for it without a plug-in, and one for samples of a grid.
    """
    height, width = pool.output_size
    each, count = pool.sampling_ratio, boxes.shape[1]
    side = torch.clamp(boxes[..., 2:] - boxes[..., :2], min=1)
    columns = (torch.arange(width * each) + 0.5) / (width * each)
    rows_of_box = (torch.arange(height * each) + 0.5) / (height * each)
    x = boxes[..., 0:1] + side[..., 0:1] * columns  # n x k x columns
    y = boxes[..., 1:2] + side[..., 1:2] * rows_of_box
    inside = (x <= features.shape[3]).unsqueeze(2) & (y <= features.shape[2]).unsqueeze(3)
    x, y = (2 * x + 1) / features.shape[3] - 1, (2 * y + 1) / features.shape[2] - 1
    x = x.unsqueeze(2).expand(-1, -1, height * each, -1)
    y = y.unsqueeze(3).expand(-1, -1, -1, width * each)
    grid = torch.stack([x, y], -1).flatten(1, 2)  # n x (k * rows) x columns x 2
    samples = F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
    means = F.avg_pool2d(torch.where(inside.flatten(1, 2).unsqueeze(1), samples, 0.0), each)
    return means.reshape(means.shape[0], -1, count, height, width).transpose(1, 2).flatten(0, 1)


_HEADS = {
    detection.ssd.SSD: _ssd,
    detection.RetinaNet: _levels,
    detection.FCOS: _levels,
    detection.FasterRCNN: _faster_rcnn,
    detection.MaskRCNN: _faster_rcnn,
}
"""What turns feature maps into candidates, by class."""
