"""Mean average precision of boxes and of masks, as COCO defines it, by faster-coco-eval."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.extras import require
from deploy.data.outlines import Outline
from deploy.data.truth import Truth
from deploy.evaluation.score import RESAMPLES, Score, percentiles, resamples
from deploy.tasks.detections import Detections

MOST = 100
"""Detections of an image that count, as in COCO: those with the highest scores."""
_HALF = 0
"""Index of the overlap 0.5 among the thresholds."""


def average_precision(
    found: Sequence[Detections],
    truths: Sequence[Truth],
    classes: Sequence[str],
    not_finite: int = 0,
    most: int = RESAMPLES,
    masks: Sequence[Sequence[Outline]] | None = None,
) -> Score:
    """Return the mAP of boxes or of masks, with intervals over resamples of the images.

    What was found in every image is matched once; a resample only counts the matches anew.

    Args:
        found: detections of every image in pixels of the image; labels are indices of ``classes``, others do not count.
        truths: what every image shows.
        classes: names of the classes. One that no image shows does not count.
        not_finite: number of images with outputs that are not finite.
        most: number of resamples.
        masks: of the detections of every image, run lengths; then the truths have masks. The metric is ``mask mAP``,
            and the mAP of the boxes is the second one.

    Raises:
        MissingPackageError: faster-coco-eval is not installed.
    """
    boxes = _Matches(found, truths, len(classes))
    main = boxes if masks is None else _Matches(found, truths, len(classes), masks)
    drawn = resamples(len(truths), len(classes), most)
    per_class = main.per_class(np.arange(len(truths)))  # [thresholds, classes], NaN for a class without boxes
    value, half = _means(per_class)
    draws = np.asarray([_means(main.per_class(indices)) for indices in drawn])
    second, second_draws = half, draws[:, 1]
    if main is not boxes:
        second = _means(boxes.per_class(np.arange(len(truths))))[0]
        second_draws = np.asarray([_means(boxes.per_class(indices))[0] for indices in drawn])
    shown = {name: float(per_class[:, index].mean()) for index, name in enumerate(classes)}
    return Score(
        images=len(truths),
        metric="mAP" if main is boxes else "mask mAP",
        value=value,
        interval=percentiles(draws[:, 0]),
        second_metric="mAP50" if main is boxes else "mAP",
        second=second,
        second_interval=percentiles(second_draws),
        per_class={name: share for name, share in shown.items() if not np.isnan(share)},
        not_finite=not_finite,
        draws=draws[:, 0],
    )


def _means(per_class: NDArray[np.float64]) -> tuple[float, float]:
    """Return mAP and mAP50 from the average precision of each threshold and class; 0 if no image shows anything."""
    known = per_class[:, ~np.isnan(per_class[0])]
    return (float(known.mean()), float(known[_HALF].mean())) if known.size else (0.0, 0.0)


class _Matches:
    """Detections of every image, matched with what it shows, by their boxes or their masks."""

    def __init__(
        self,
        found: Sequence[Detections],
        truths: Sequence[Truth],
        classes: int,
        masks: Sequence[Sequence[Outline]] | None = None,
    ) -> None:
        require("detection")
        from faster_coco_eval import COCO, COCOeval_faster

        truth = COCO(_document(truths, classes, masks is not None))
        detections = truth.loadRes(_results(found, classes, masks))
        kind = "bbox" if masks is None else "segm"
        self._evaluation = COCOeval_faster(truth, detections, kind, print_function=_silent, separate_eval=True)
        parameters = self._evaluation.params
        parameters.areaRng, parameters.areaRngLbl, parameters.maxDets = [[0, 1e10]], ["all"], [MOST]
        self._evaluation.evaluate()
        self._images, self._classes = len(truths), classes
        self._matched = np.empty(classes * self._images, object)  # one item for every image of every class
        self._matched[:] = self._evaluation._evalImgs_cpp

    def per_class(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the average precision of some images, [thresholds, classes]; an image may occur several times."""
        again = copy.copy(self._evaluation)
        again._evalImgs_cpp = self._matched.reshape(self._classes, self._images)[:, indices].ravel().tolist()
        again.accumulate()
        precision = np.asarray(again.eval["precision"])[..., 0, 0]  # thresholds x recalls x classes
        average: NDArray[np.float64] = np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))
        return average


def _silent(*_: object) -> None:
    pass


def _document(truths: Sequence[Truth], classes: int, masks: bool) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        corners = [_corner(box) for box in truth.boxes.tolist()]
        if masks:
            corners = [item | {"segmentation": mask} for item, mask in zip(corners, truth.masks or (), strict=True)]
        for corner, label, crowd in zip(corners, truth.labels.tolist(), truth.crowd.tolist(), strict=True):
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": image, "category_id": label, "iscrowd": int(crowd), **corner})
    return {
        "images": [{"id": index, "height": item.size[0], "width": item.size[1]} for index, item in enumerate(truths)],
        "annotations": annotations,
        "categories": [{"id": index, "name": str(index)} for index in range(classes)],
    }


def _results(
    found: Sequence[Detections], classes: int, masks: Sequence[Sequence[Outline]] | None
) -> list[dict[str, Any]]:
    rows = []
    for image, item in enumerate(found):
        corners = [_corner(box) for box in item.boxes.tolist()]
        if masks is not None:
            corners = [row | {"segmentation": mask} for row, mask in zip(corners, masks[image], strict=True)]
        for corner, score, label in zip(corners, item.scores.tolist(), item.labels.tolist(), strict=True):
            if 0 <= label < classes:
                rows.append({"image_id": image, "category_id": label, "score": score, **corner})
    return rows


def _corner(box: Sequence[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
