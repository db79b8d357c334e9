"""What a model answers for one picture, as the demo page shows it: classes, objects, or the classes of the pixels."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.core.errors import BackendError
from deploy.core.model import Preprocessing
from deploy.core.runner import Fetches
from deploy.parity.choices import overlaps
from deploy.tasks.detections import THRESHOLD, Detections, postprocessing_of, read_detections
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import Task

TOP = 5
"""Classes shown per variant."""
SCORE, BOXES = 0.3, 30
"""Boxes that are shown have at least this score, and are at most so many."""
SAME = 0.5
"""Overlap (intersection over union) from which two boxes or masks of a class are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer of one model for one picture.

    Attributes:
        shown: plain values for the page: ``top``; ``boxes``, of objects with masks also ``mask``; or ``mask`` and
            ``classes``.
        compared: what `agreement` compares: an index, detections, or an index for each pixel.
    """

    shown: dict[str, Any]
    compared: int | Detections | NDArray[np.int64] | None


def answer(
    outputs: Fetches,
    task: Task | None,
    labels: Sequence[str],
    postprocessing: Postprocessing | None,
    size: tuple[int, int],
) -> Answer:
    """Read the outputs for one picture.

    Args:
        outputs: of a batch of one.
        task: of the model; None for classes.
        labels: names of the classes; numbers are shown where there are too few.
        postprocessing: of a detector; None: as the names of its outputs show.
        size: height and width of the input in pixels.

    Raises:
        BackendError: the outputs are not those of the task.
    """
    if task in ("detection", "instance-segmentation"):
        form = postprocessing or postprocessing_of(outputs)
        if form is None:
            raise BackendError(f"the outputs {', '.join(outputs)} are not detections.")
        return _boxes(read_detections(outputs, form, size)[0], labels, size)
    first = next(iter(outputs.values()))
    return _mask(first[0], labels) if task == "semantic-segmentation" else _classes(first, labels)


def agreement(first: Answer, other: Answer) -> float | None:
    """Return the share of an answer that is the same as another: of one class, of the boxes, or of the pixels.

    A box is the same if there is one of its class that overlaps it by `SAME`; where both answers have masks, the masks
    must overlap. Each counts once, and the share is of the larger number of boxes. None if one has no answer.
    """
    one, two = first.compared, other.compared
    if isinstance(one, Detections) and isinstance(two, Detections):
        most = max(len(one), len(two))
        return _matched(one, two) / most if most else 1.0
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return float(np.mean(one == two)) if one.shape == two.shape else None
    return float(one == two) if isinstance(one, int) and isinstance(two, int) else None


def picture_of(sample: NDArray[np.float32], preprocessing: Preprocessing) -> str:
    """Return what a model receives (channels x height x width) as a picture, before the normalization: a data URL."""
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    pixels = np.clip(np.rint(255 * (sample * std + mean)), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return _url(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]))


def color_of(index: int) -> str:
    """Return the color of a class, ``#rrggbb``; neighbors differ."""
    red, green, blue = _color(index)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _color(index: int) -> tuple[int, int, int]:
    hue = (index * 0.618034) % 1.0  # the golden ratio spreads hues
    parts = colorsys.hls_to_rgb(hue, 0.5 if index % 2 else 0.62, 0.75)
    return tuple(int(255 * part) for part in parts)  # type: ignore[return-value]


def _classes(logits: NDArray[Any], labels: Sequence[str]) -> Answer:
    """Return the most probable classes of the first sample, by softmax in float64; none if a logit is not finite."""
    row = logits.reshape(len(logits), -1)[0].astype(np.float64)
    if not np.isfinite(row).all():
        return Answer(shown={"top": []}, compared=None)
    weights = np.exp(row - row.max())
    probabilities = weights / weights.sum()
    named = labels if len(labels) == len(row) else ()
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    top = [
        {"index": int(index), "label": _name(index, named), "probability": float(probabilities[index])}
        for index in order
    ]
    return Answer(shown={"top": top}, compared=int(order[0]))


def _boxes(found: Detections, labels: Sequence[str], size: tuple[int, int]) -> Answer:
    kept = np.flatnonzero(found.scores >= SCORE)[:BOXES]
    chosen = Detections(
        boxes=found.boxes[kept],
        scores=found.scores[kept],
        labels=found.labels[kept],
        masks=None if found.masks is None else found.masks[kept],
    )
    height, width = size
    shares = np.clip(chosen.boxes / np.array([width, height, width, height], np.float32), 0.0, 1.0)
    boxes = [
        {
            "box": [round(float(end), 4) for end in box],
            "label": _name(label, labels),
            "score": float(score),
            "color": color_of(int(label)),
        }
        for box, score, label in zip(shares, chosen.scores, chosen.labels, strict=True)
    ]
    painted = {} if chosen.masks is None else {"mask": _objects(chosen.masks > THRESHOLD, chosen.labels)}
    return Answer(shown={"boxes": boxes, **painted}, compared=chosen)


def _objects(masks: NDArray[np.bool_], labels: NDArray[np.int64]) -> str:
    """Return the masks of objects [k, h, w] in the colors of their classes, transparent elsewhere: a data URL."""
    pixels = np.zeros((*masks.shape[1:], 4), np.uint8)
    for mask, label in zip(masks[::-1], labels[::-1], strict=True):  # the highest score on top
        pixels[mask] = (*_color(int(label)), 255)
    return _url(Image.fromarray(pixels))


def _mask(logits: NDArray[Any], labels: Sequence[str]) -> Answer:
    """Return the class of every pixel: as a picture in colors, and the share of each class."""
    classes: NDArray[np.int64] = (logits.argmax(0) if len(logits) > 1 else logits[0] > 0).astype(np.int64)
    count = max(len(logits), 2)
    named = labels if len(labels) == count else ()
    palette = np.array([_color(index) for index in range(count)], np.uint8)
    found, areas = np.unique(classes, return_counts=True)
    shares = sorted(zip(areas / classes.size, found, strict=True), key=lambda pair: (-pair[0], pair[1]))[:TOP]
    listed = [
        {"label": _name(index, named), "share": float(share), "color": color_of(int(index))} for share, index in shares
    ]
    return Answer(shown={"mask": _url(Image.fromarray(palette[classes])), "classes": listed}, compared=classes)


def _matched(one: Detections, two: Detections) -> int:
    """Return how many objects have a counterpart, the best overlap first."""
    if not len(one) or not len(two):
        return 0
    shared = overlaps(one.boxes, two.boxes)
    if one.masks is not None and two.masks is not None and one.masks.shape[1:] == two.masks.shape[1:]:
        shared = _mask_overlaps(one.masks, two.masks)
    overlap = np.where(one.labels[:, None] == two.labels[None, :], shared, 0.0)
    matched = 0
    while overlap.max() >= SAME:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[row, :] = overlap[:, column] = 0.0
        matched += 1
    return matched


def _mask_overlaps(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersections over unions of masks [k, h, w] and [m, h, w], [k, m]; 0 of two empty ones."""
    first, second = ((masks > THRESHOLD).reshape(len(masks), -1).astype(np.float32) for masks in (one, two))
    both = first @ second.T
    either = first.sum(axis=1)[:, None] + second.sum(axis=1)[None, :] - both
    share: NDArray[np.float32] = both / np.maximum(either, 1)
    return share


def _name(index: Any, labels: Sequence[str]) -> str:
    return labels[int(index)] if 0 <= int(index) < len(labels) else str(int(index))


def _url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
