"""Masks of objects in every form of outputs, and where their pixels are in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.core.model import Preprocessing
from deploy.data.placement import Placement, prepare_pixels
from deploy.tasks.detections import THRESHOLD, read_detections
from deploy.tasks.postprocessing import Postprocessing

READY = Postprocessing(kind="none")


def ready(count: int, side: int = 8) -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    low = random.uniform(0, 3, (count, 2))
    return {
        "boxes": np.concatenate([low, low + 3], axis=1).astype(np.float32),
        "scores": np.linspace(0.2, 0.9, count, dtype=np.float32),  # the last one first
        "labels": np.arange(count),
        "masks": random.rand(count, 1, side, side).astype(np.float32),
    }


@pytest.mark.parametrize("count", [0, 3])
def test_masks_of_one_picture_follow_their_scores(count: int) -> None:
    outputs = ready(count)
    (found,) = read_detections(outputs, READY, (8, 8))
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks, outputs["masks"][::-1, 0])
    np.testing.assert_array_equal(found.labels, outputs["labels"][::-1])


def test_masks_of_fixed_size_end_at_the_count() -> None:
    outputs = {name: np.stack([value, value]) for name, value in ready(4).items()}
    first, second = read_detections({**outputs, "count": np.array([[3], [0]])}, READY, (8, 8))
    assert first.masks is not None and second.masks is not None
    np.testing.assert_array_equal(first.masks, outputs["masks"][0, :3, 0])
    assert second.masks.shape == (0, 8, 8)


@pytest.mark.parametrize("threshold", [0.05, 1.0])
def test_logits_of_masks_are_resized_and_follow_their_queries(threshold: float) -> None:
    """Two of three queries find something, the second one with the higher score; with a threshold of 1, none does."""
    logits = np.full((1, 3, 2), -9, np.float32)
    logits[0, 0, 1], logits[0, 2, 0] = 1, 3
    masks = np.full((1, 3, 4, 4), -8, np.float32)
    masks[0, 0, :2], masks[0, 2, 2:] = 8, 8
    outputs = {"logits": logits, "pred_boxes": np.full((1, 3, 4), 0.5, np.float32), "pred_masks": masks}
    form = Postprocessing(kind="detr", score_threshold=threshold)
    (found,) = read_detections(outputs, form, (16, 16), classes=2)
    assert found.masks is not None and found.masks.shape == (len(found), 16, 16)
    if threshold == 1.0:
        assert len(found) == 0
        return
    assert found.labels.tolist() == [0, 1]
    lower, upper = found.masks > THRESHOLD
    assert lower[9:].all() and not lower[:7].any() and upper[:7].all() and not upper[9:].any()


@pytest.mark.parametrize(
    "changes", [{}, {"letterbox": 114}, {"resize": 40}], ids=["stretched", "letterboxed", "cropped"]
)
def test_a_mask_comes_back_into_the_picture(changes: dict[str, int]) -> None:
    rows, columns = np.mgrid[:60, :90]
    inside = (rows - 25) ** 2 + (columns - 50) ** 2 < 18**2
    recipe = Preprocessing(crop=(32, 32), mean=(0.0,), std=(1.0,), **changes)  # type: ignore[arg-type]
    prepared = (prepare_pixels(inside.astype(np.uint8), recipe) == 1).astype(np.float32)
    found = Placement.of((60, 90), recipe).mask_in_picture(prepared) > THRESHOLD
    assert found.shape == inside.shape
    seen = inside if "resize" not in changes else inside & found.any(axis=0) & found.any(axis=1)[:, None]
    assert (found & seen).sum() / (found | seen).sum() > 0.9
    assert prepared.any()
