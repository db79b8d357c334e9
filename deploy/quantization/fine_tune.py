"""Train the weights of a Q/DQ graph so that it answers as the float graph does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from deploy.core.errors import ModelError, UsageError
from deploy.core.runner import Feeds
from deploy.onnx_graph.graph import OnnxModule
from deploy.quantization.fake_quantization import FakeQuantized
from deploy.support import onnx_file

Batches = Callable[[NDArray[np.intp], int], Iterator[Feeds]]
"""Called with indices of samples, in order, and a batch size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """How a Q/DQ graph is trained.

    Attributes:
        epochs: passes over the samples.
        lr: largest learning rate of Adam; it falls to 0 by a cosine.
        batch_size: samples per step.
        seed: of the order of the samples.
    """

    epochs: int
    lr: float = 5e-4
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError("epochs and batch size must be at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"learning rate {self.lr} is not a positive number.")


def fine_tune(
    path: Path,
    prepared: Path,
    samples: int,
    batches: Batches,
    options: FineTuning,
    advance: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> list[float]:
    """Train the weights of a Q/DQ file in place, with the float graph as the teacher (distillation; no labels).

    The loss is the squared error of each output, divided by the variance of the teacher's, averaged over outputs.

    Args:
        path: the Q/DQ file; it is written anew with the best weights.
        prepared: the float graph that it was made from.
        samples: their number.
        batches: yields inputs.
        options: see `FineTuning`.
        advance: receives the number of steps done, of all steps, and the loss.

    Returns:
        The mean loss of each epoch.

    Raises:
        ModelError: an operator cannot be evaluated in PyTorch, or the loss is not finite.
    """
    floats = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(prepared).graph.initializer}
    teacher = OnnxModule(onnx_file.load(prepared), prepared.parent)
    student = FakeQuantized(path, floats)
    optimizer = torch.optim.Adam(student.trained(), lr=options.lr)
    order = np.random.default_rng(options.seed)
    steps = math.ceil(samples / options.batch_size)
    losses: list[float] = []
    for epoch in range(options.epochs):
        total = 0.0
        for step, feeds in enumerate(batches(order.permutation(samples), options.batch_size)):
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * options.lr * (1 + math.cos(math.pi * done / (steps * options.epochs)))
            inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in teacher.inputs]
            with torch.no_grad():
                wanted = teacher(*inputs)
            loss = _distance(student(*inputs), wanted)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(f"{path.name}: the loss is {value} after {done} steps.", "use a smaller --lr")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += value
            advance(done + 1, steps * options.epochs, value)
        losses.append(total / steps)
    student.save(path)
    return losses


def _distance(outputs: Any, wanted: Any) -> torch.Tensor:
    """Return the squared error of float outputs as a share of their variance over samples."""
    parts = []
    for name, target in wanted.items():
        if target.is_floating_point():
            varying = target - target.mean(0, keepdim=True) if target.dim() and len(target) > 1 else target
            signal = varying.square().mean()
            if float(signal) > 0.0:
                parts.append((outputs[name] - target).square().mean() / signal)
    if not parts:
        raise ModelError("no floating-point output depends on the input, so there is nothing to train for.")
    return torch.stack(parts).mean()
