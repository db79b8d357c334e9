"""The task of a model: what its outputs mean, which decides the metric and the postprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from deploy.core.errors import UsageError
from deploy.core.tensors import TensorSpec

Task = Literal["classification", "detection", "instance-segmentation", "semantic-segmentation"]
TASKS: tuple[Task, ...] = get_args(Task)


def as_task(text: str) -> Task:
    """Return the task of a name.

    Raises:
        UsageError: there is no such task.
    """
    for task in TASKS:
        if task == text:
            return task
    raise UsageError(f"task {text!r} is not one of {', '.join(TASKS)}.")


def class_count(outputs: Sequence[TensorSpec]) -> int | None:
    """Return the number of classes that the outputs show, None if they do not.

    It is the second dimension of an output for each pixel, the last one of the ``scores`` of candidates, and otherwise
    the last one of the first output. Detections do not show it, and logits of a detector may have one more.
    """
    if not outputs:
        return None
    named = {spec.name: spec.shape for spec in outputs}
    if "boxes" in named or "pred_boxes" in named:
        shape = named.get("scores", ())
        size = shape[-1] if len(shape) == 3 else None
    else:
        first = outputs[0].shape
        size = first[1] if len(first) == 4 else first[-1] if first else None
    return size if isinstance(size, int) else None


def named_task(outputs: Sequence[TensorSpec]) -> Task | None:
    """Return the task that the names of the outputs show, None if they show none; see `task_of`."""
    names = {spec.name for spec in outputs}
    if {"boxes", "scores"} <= names or {"pred_boxes", "logits"} <= names:
        return "instance-segmentation" if names & {"masks", "pred_masks"} else "detection"
    return None


def task_of(declared: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Task | None:
    """Return the task that is declared, else the one that the outputs show; None if they show none.

    - outputs ``boxes`` and ``scores``, or ``pred_boxes`` and ``logits``: detection; with ``masks`` or ``pred_masks``,
      instance segmentation;
    - a float output [samples, classes, height, width], the first one, of an image: semantic segmentation;
    - a float output [samples, classes], the first one: classification.

    The raw output of a YOLO detector is a tensor with three dimensions, which may be anything: its task is declared.

    Raises:
        UsageError: the declared task does not exist.
    """
    if declared is not None:
        return as_task(declared)
    named = named_task(outputs)
    if named is not None:
        return named
    if not outputs or not outputs[0].dtype.startswith(("float", "bfloat")):
        return None
    image = len(inputs) == 1 and len(inputs[0].shape) == 4
    if len(outputs[0].shape) == 4 and image:
        return "semantic-segmentation"
    return "classification" if len(outputs[0].shape) == 2 else None
