"""Average precision, overlap of classes of pixels, their intervals and paired comparisons."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest

from deploy.data.outlines import Outline, run_lengths
from deploy.data.truth import IGNORED, Truth
from deploy.evaluation.average_precision import average_precision
from deploy.evaluation.overlap import confusion, mean_overlap
from deploy.evaluation.score import ScoreComparison, resamples
from deploy.tasks.detections import Detections

CLASSES = ("circle", "square", "triangle")
SIZE = (90, 120)


def scene(random: np.random.RandomState, most: int = 5) -> Truth:
    count = random.randint(most + 1)
    corner, side = random.uniform(0, 60, (count, 2)), random.uniform(3, 30, (count, 2))
    return Truth(
        size=SIZE,
        boxes=np.concatenate([corner, corner + side], axis=1).astype(np.float32),
        labels=random.randint(len(CLASSES), size=count),
        crowd=random.rand(count) < 0.1,
    )


def guesses(random: np.random.RandomState, truth: Truth, noise: float = 3) -> Detections:
    """Return three guesses for each box, and some for nothing."""
    other = scene(random)
    boxes = np.concatenate([np.repeat(truth.boxes, 3, axis=0), other.boxes])
    labels = np.concatenate([np.repeat(truth.labels, 3), other.labels])
    boxes = boxes + random.uniform(0, noise, boxes.shape)
    scores = np.sort(random.rand(len(boxes)))[::-1]
    return Detections(boxes=boxes.astype(np.float32), scores=scores.astype(np.float32), labels=labels)


@pytest.fixture(scope="module")
def case() -> tuple[list[Detections], list[Truth]]:
    random = np.random.RandomState(0)
    truths = [scene(random) for _ in range(40)]
    return [guesses(random, truth) for truth in truths], truths


def by_pycocotools(
    found: list[Detections], truths: list[Truth], masks: list[list[Outline]] | None = None
) -> tuple[float, float, list[float]]:
    """Return mAP, mAP50 and the average precision of every class, by the evaluation that defines them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def row(image: int, box: np.ndarray, label: int) -> dict[str, object]:
        x1, y1, x2, y2 = map(float, box)
        corners = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        return {"image_id": image, "category_id": int(label), **corners}

    rows = [
        {**row(image, *pair), "iscrowd": int(crowd)}
        for image, truth in enumerate(truths)
        for *pair, crowd in zip(truth.boxes, truth.labels, truth.crowd, strict=True)
    ]
    results = [
        {**row(image, box, label), "score": float(score)}
        for image, item in enumerate(found)
        for box, score, label in zip(item.boxes, item.scores, item.labels, strict=True)
    ]
    if masks is not None:
        for row_, mask in zip(rows, (mask for truth in truths for mask in truth.masks or ()), strict=True):
            row_["segmentation"] = mask
        for row_, mask in zip(results, (mask for item in masks for mask in item), strict=True):
            row_.update(segmentation=mask, area=1.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": index, "height": SIZE[0], "width": SIZE[1]} for index in range(len(truths))],
            "annotations": [{"id": number, **item} for number, item in enumerate(rows, 1)],
            "categories": [{"id": index} for index in range(len(CLASSES))],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox" if masks is None else "segm")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return evaluation.stats[0], evaluation.stats[1], [precision[:, :, index].mean() for index in range(len(CLASSES))]


def test_average_precision_agrees_with_pycocotools(case: tuple[list[Detections], list[Truth]]) -> None:
    score = average_precision(*case, CLASSES)
    expected = by_pycocotools(*case)
    assert 0.1 < score.value < score.second < 0.95
    assert score.value == pytest.approx(expected[0], abs=1e-6)
    assert score.second == pytest.approx(expected[1], abs=1e-6)
    assert list(score.per_class.values()) == pytest.approx(expected[2], abs=1e-6)


def oval(box: np.ndarray) -> np.ndarray:
    """Return the pixels of the oval in a box."""
    x1, y1, x2, y2 = box
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    down, right = (2 * rows - y1 - y2) / (y2 - y1), (2 * columns - x1 - x2) / (x2 - x1)
    pixels: np.ndarray = down**2 + right**2 <= 1
    return pixels


def test_average_precision_of_masks_agrees_with_pycocotools(case: tuple[list[Detections], list[Truth]]) -> None:
    found, truths = case

    def outline(number: int, box: np.ndarray) -> Outline:
        x1, y1, x2, y2 = map(float, box)
        polygon = [[x1, (y1 + y2) / 2, (x1 + x2) / 2, y1, x2, (y1 + y2) / 2, (x1 + x2) / 2, y2]]
        return polygon if number % 2 else run_lengths(oval(box))

    shown = [
        dataclasses.replace(truth, masks=tuple(outline(number, box) for number, box in enumerate(truth.boxes)))
        for truth in truths
    ]
    masks = [[run_lengths(oval(box)) for box in item.boxes] for item in found]
    score = average_precision(found, shown, CLASSES, masks=masks)
    expected = by_pycocotools(found, shown, masks)
    boxes = average_precision(found, truths, CLASSES)
    assert (score.metric, score.second_metric) == ("mask mAP", "mAP") and 0.1 < score.value < 0.95
    assert score.value == pytest.approx(expected[0], abs=1e-6) and score.value != pytest.approx(boxes.value, abs=1e-3)
    assert list(score.per_class.values()) == pytest.approx(expected[2], abs=1e-6)
    assert (score.second, score.second_interval) == (boxes.value, boxes.interval)


def test_a_resample_is_the_metric_of_the_images_it_draws(case: tuple[list[Detections], list[Truth]]) -> None:
    found, truths = case
    score = average_precision(found, truths, CLASSES)
    drawn = resamples(40, len(CLASSES))
    assert len(drawn) == len(score.draws) == 1000
    for index in (0, 7):
        chosen = drawn[index]
        expected, _, _ = by_pycocotools([found[image] for image in chosen], [truths[image] for image in chosen])
        assert score.draws[index] == pytest.approx(expected, abs=1e-6)
    assert score.interval[0] < score.value < score.interval[1]


def test_the_comparison_is_paired(case: tuple[list[Detections], list[Truth]]) -> None:
    found, truths = case
    random = np.random.RandomState(1)
    worse = [
        Detections(
            boxes=item.boxes + random.uniform(0, 2, item.boxes.shape).astype(np.float32),
            scores=item.scores,
            labels=item.labels,
        )
        for item in found
    ]
    first, second = (average_precision(item, truths, CLASSES) for item in (found, worse))
    comparison = ScoreComparison.of(first, second)
    low, high = comparison.difference_interval
    assert comparison.worse and low < comparison.difference < high < 0
    assert high - low < first.interval[1] - first.interval[0], "the same images are hard for both"
    same = ScoreComparison.of(first, first)
    assert not same.worse and same.difference_interval == (0, 0)
    assert not ScoreComparison.of(second, first).worse


def test_images_that_show_nothing() -> None:
    nothing = Truth(
        size=SIZE, boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), crowd=np.zeros(0, bool)
    )
    none = Detections(boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64))
    score = average_precision([none] * 3, [nothing] * 3, CLASSES)
    assert (score.value, score.per_class) == (0, {})
    box = Truth(
        size=SIZE, boxes=np.asarray([[1, 1, 9, 9]], np.float32), labels=np.zeros(1, np.int64), crowd=np.zeros(1, bool)
    )
    assert average_precision([none] * 2, [box, nothing], CLASSES).per_class == {"circle": 0}
    hit = Detections(boxes=box.boxes, scores=np.ones(1, np.float32), labels=box.labels)
    score = average_precision([hit, none], [box, nothing], CLASSES)
    assert score.value == pytest.approx(1) and score.second == pytest.approx(1)
    # a detection in a picture that shows nothing counts as wrong
    louder = Detections(boxes=box.boxes, scores=np.full(1, 2, np.float32), labels=box.labels)
    assert average_precision([hit, louder], [box, nothing], CLASSES).value == pytest.approx(0.5)


def test_overlap_of_pixels() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    random = np.random.RandomState(0)
    truths = random.randint(3, size=(20, 8, 9)).astype(np.uint8)
    guess = np.where(random.rand(20, 8, 9) < 0.6, truths, random.randint(3, size=(20, 8, 9))).astype(np.int64)
    score = mean_overlap([confusion(*pair, 3) for pair in zip(guess, truths, strict=True)], CLASSES)
    assert score.value == pytest.approx(jaccard_score(truths.ravel(), guess.ravel(), average="macro"), abs=1e-12)
    assert score.second == pytest.approx(accuracy_score(truths.ravel(), guess.ravel()), abs=1e-12)
    assert score.interval[0] < score.value < score.interval[1]
    chosen = resamples(20, 3)[5]
    expected = jaccard_score(truths[chosen].ravel(), guess[chosen].ravel(), average="macro")
    assert score.draws[5] == pytest.approx(expected, abs=1e-12)


def test_pixels_that_are_not_counted_and_classes_that_do_not_occur() -> None:
    pixels = np.asarray([[0, 0, 1, IGNORED]], np.uint8)
    matrix = confusion(np.asarray([[0, 1, 1, 0]]), pixels, 3)
    score = mean_overlap([matrix], CLASSES)
    assert matrix.sum() == 3 and score.per_class == {"circle": 0.5, "square": 0.5} and score.value == 0.5
    assert mean_overlap([confusion(np.full((1, 4), -1), pixels, 3)], CLASSES).value == 0
