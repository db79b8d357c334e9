"""The task of a model, and detections from every form of outputs."""

import numpy as np
import pytest

from deploy.core.errors import DeployError, UsageError
from deploy.core.tensors import TensorSpec
from deploy.tasks.detections import Outputs, postprocessing_of, read_detections
from deploy.tasks.postprocessing import Postprocessing
from deploy.tasks.task import class_count, task_of

IMAGE = (TensorSpec(name="x", dtype="float32", shape=("batch", 3, 8, 8)),)


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("batch", *shape))


@pytest.mark.parametrize(
    ("outputs", "task", "classes"),
    [
        ((spec("logits", 10),), "classification", 10),
        ((spec("out", 21, 8, 8), spec("aux", 21, 8, 8)), "semantic-segmentation", 21),
        ((spec("boxes", 5, 4), spec("scores", 5, 3)), "detection", 3),
        ((spec("boxes", 5, 4), spec("labels", 5, dtype="int64"), spec("scores", 5)), "detection", None),
        ((spec("boxes", 5, 4), spec("scores", 5), spec("masks", 5, 8, 8)), "instance-segmentation", None),
        ((spec("logits", 5, 4), spec("pred_boxes", 5, 4)), "detection", None),
        ((spec("output", 84, 100),), None, 100),
        ((spec("tokens", 7, dtype="int64"),), None, 7),
        ((), None, None),
    ],
)
def test_the_outputs_show_the_task(outputs: tuple[TensorSpec, ...], task: str | None, classes: int | None) -> None:
    assert task_of(None, IMAGE, outputs) == task
    assert class_count(outputs) == classes
    assert task_of("detection", IMAGE, outputs) == "detection"


def test_an_unknown_task() -> None:
    with pytest.raises(UsageError, match="detection"):
        task_of("detecting", IMAGE, ())


BOXES = np.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], np.float32)
SCORES = np.asarray([[0.6, 0.02], [0.7, 0.5], [0.1, 0.9]], np.float32)
"""Of two classes; the first two boxes overlap by more than half."""


def forms() -> dict[str, tuple[Outputs, Postprocessing]]:
    centers = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)
    logits = np.log(SCORES / (1 - SCORES))
    tall = np.concatenate([centers, SCORES], axis=1).T
    wide = np.concatenate([centers, np.full((3, 1), 0.5, np.float32), 2 * SCORES], axis=1)
    padding = np.zeros((60, wide.shape[1]), np.float32)
    return {
        "fcos": ({"boxes": BOXES[None], "scores": SCORES[None]}, Postprocessing(kind="fcos")),
        "yolov8": ({"output": np.concatenate([tall, padding[:, :6].T], axis=1)[None]}, Postprocessing(kind="yolo")),
        "yolov5": ({"output": np.concatenate([wide, padding])[None]}, Postprocessing(kind="yolo")),
        "detr": ({"logits": logits[None], "pred_boxes": centers[None] / 32}, Postprocessing(kind="detr")),
    }


@pytest.mark.parametrize("form", ["fcos", "yolov8", "yolov5", "detr"])
def test_raw_outputs(form: str) -> None:
    outputs, postprocessing = forms()[form]
    (found,) = read_detections(outputs, postprocessing, (32, 32))
    kept = [(0.9, 1, 2), (0.7, 0, 1), (0.5, 1, 1), (0.1, 0, 2)]
    if form == "detr":  # suppresses nothing
        kept.insert(2, (0.6, 0, 0))
    assert found.labels.tolist() == [label for _, label, _ in kept]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in kept], atol=1e-6)
    np.testing.assert_allclose(found.boxes, BOXES[[box for *_, box in kept]], atol=1e-4)


def test_detections_of_one_picture_and_of_fixed_size() -> None:
    scores, labels = np.asarray([0.2, 0.9, 0.4], np.float32), np.asarray([3, 1, 2])
    (found,) = read_detections(
        {"boxes": BOXES, "scores": scores, "labels": labels}, Postprocessing(kind="none"), (32, 32)
    )
    assert found.labels.tolist() == [1, 2, 3] and (found.boxes[0] == BOXES[1]).all()
    fixed = {
        "boxes": np.stack([BOXES, BOXES]),
        "scores": np.asarray([[0.9, 0.4, 0], [0, 0, 0]], np.float32),
        "labels": np.zeros((2, 3), np.int64),
        "count": np.asarray([2, 0]),
    }
    first, second = read_detections(fixed, Postprocessing(kind="none"), (32, 32))
    assert (len(first), len(second)) == (2, 0) and second.boxes.shape == (0, 4)
    rows = np.concatenate([BOXES, scores[:, None], labels[:, None]], axis=1)[None]
    (found,) = read_detections({"output": rows}, Postprocessing(kind="none"), (32, 32))
    assert found.labels.tolist() == [1, 2, 3]


def test_the_names_show_the_form() -> None:
    for form in ("fcos", "detr"):
        shown = postprocessing_of(forms()[form][0])
        assert shown is not None and shown.kind == form
    shown = postprocessing_of(("boxes", "labels", "scores"))
    assert shown is not None and shown.kind == "none" and postprocessing_of(("output",)) is None


@pytest.mark.parametrize("kind", ["fcos", "detr", "none"])
def test_outputs_of_another_form(kind: str) -> None:
    with pytest.raises(DeployError):
        read_detections({"output": np.zeros((1, 84, 100), np.float32)}, Postprocessing(kind=kind), (32, 32))  # type: ignore[arg-type]


def test_the_stable_topk_has_one_definition() -> None:
    """Two modules once defined it, and the one that was imported last replaced the other."""
    import torch

    import deploy.onnx_graph.operators.gather
    from deploy.onnx_graph.topk import topk

    values, indices = topk(torch.tensor([[1.0, 3, 3, 2]]), 2)
    assert deploy.onnx_graph.operators.gather and values.tolist() == [[3, 3]] and indices.tolist() == [[1, 2]]
