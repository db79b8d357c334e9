"""Train the weights of a Q/DQ graph so that it answers as the float graph does."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from deploy.core.backend import ONNX, RunSettings
from deploy.core.errors import DataError, ModelError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.core.runner import Feeds
from deploy.onnx_graph.graph import OnnxModule
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.fake_quantization import FakeQuantized
from deploy.quantization.fine_tuning import FineTuning, Tuned
from deploy.quantization.search import Quantizer
from deploy.support import onnx_file
from deploy.support.runtime import runtime_of, simulated

JUDGED = 256
"""Largest number of samples, a tenth of all, that choose the best epoch and are not trained on."""

WARM_UP = 0.2
"""Share of the steps with a rising learning rate."""

COMPARED = 64
"""Number of samples on which the file is compared with the module."""

LEAST_DB = 20.0
"""Below this ratio, the file does not compute what the module did. Single values differ where they lie between two
steps of a rounding."""

Batches = Callable[[NDArray[np.intp], int], Iterator[Feeds]]
"""Called with indices of samples, in order, and a batch size."""


def fine_tuned(
    quantizer: Quantizer,
    keep_float: Collection[str],
    training: CalibrationSamples,
    options: FineTuning,
    progress: Progress,
) -> Tuned:
    """Write the quantized graph, train its weights in the file, and compare the file with the module.

    Raises:
        ModelError: see `fine_tune`, or the file does not compute what the module did.
    """
    path = quantizer.write(keep_float)
    size, fixed = batch_of(quantizer.graph)
    options = replace(options, batch_size=size) if fixed else options

    def batches(order: NDArray[np.intp], size: int) -> Iterator[Feeds]:
        return training.take(order).batches(size, fixed=fixed)

    with progress.stage("training the weights"):
        losses = fine_tune(
            path,
            quantizer.prepared,
            training.count,
            batches,
            options,
            size if fixed else 1,
            lambda done, total, loss: progress.advance(done, total, f"loss {loss:.4g}"),
        )
    with progress.stage("comparing with the module"):
        few = training.spread(max(COMPARED, size)).batches(size if fixed else COMPARED, fixed=fixed)
        ratio = _ratio(path, next(few), quantizer.target)
    if ratio < LEAST_DB:
        raise ModelError(f"{path.name}: the file differs from the module that was trained: {ratio:.1f} dB.")
    return Tuned(samples=training.count, options=options, losses=tuple(losses), module_db=ratio)


def _ratio(path: Path, feeds: Feeds, target: str) -> float:
    """Return the smallest ratio in dB over the outputs of a file and its module."""
    module = FakeQuantized(path)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in module.inputs))
    runtime = runtime_of(ONNX, target) or simulated()
    with IsolatedRunner(runtime.backend.name) as runner:
        runner.open(path, **runtime.options(RunSettings()))
        actual = runner.run(feeds)
    ratios = [math.inf]
    for name, value in expected.items():
        if value.is_floating_point():
            noise = float(np.square(actual[name] - value.numpy()).mean())
            ratios.append(10 * math.log10(float(value.square().mean()) / noise) if noise else math.inf)
    return min(ratios)


def fine_tune(
    path: Path,
    prepared: Path,
    samples: int,
    batches: Batches,
    options: FineTuning,
    least: int = 1,
    advance: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> list[float]:
    """Train the weights of a Q/DQ file in place, with the float graph as the teacher (distillation; no labels).

    The loss is the squared error of each output, divided by the variance of the teacher's, averaged over outputs.

    Args:
        path: the Q/DQ file; it is written anew with the weights of the best epoch, if one is better than the start.
        prepared: the float graph that it was made from.
        samples: their number.
        batches: yields inputs.
        options: see `FineTuning`.
        least: smallest number of samples that ``batches`` makes a batch of.
        advance: receives the number of steps done, of all steps, and the loss.

    Returns:
        The mean loss on samples apart, at first and after each epoch.

    Raises:
        DataError: too few samples.
        ModelError: an operator cannot be evaluated in PyTorch, or the loss is not finite.
    """
    floats = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(prepared).graph.initializer}
    teacher = OnnxModule(onnx_file.load(prepared), prepared.parent)
    student = FakeQuantized(path, floats)
    optimizer = torch.optim.Adam(student.trained())
    draws = np.random.default_rng(options.seed)
    everything = draws.permutation(samples)
    judged, learned = np.split(everything, [max(min(samples // 10, JUDGED), least)])
    if len(learned) < least:
        raise DataError(f"{samples} samples are too few to train on.")
    steps = max(math.ceil(len(learned) / options.batch_size), 1)

    def loss_of(feeds: Feeds) -> torch.Tensor:
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in teacher.inputs]
        with torch.no_grad():
            wanted = teacher(*inputs)
        return _distance(student(*inputs), wanted)

    def judge() -> float:
        with torch.no_grad():
            return float(np.mean([float(loss_of(feeds)) for feeds in batches(judged, options.batch_size)]))

    losses = [judge()]
    for epoch in range(options.epochs):
        for step, feeds in enumerate(batches(draws.permutation(learned), options.batch_size)):
            done = epoch * steps + step
            rate = options.lr * _schedule(done / (steps * options.epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(feeds)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(f"{path.name}: the loss is {value} after {done} steps.", "use a smaller --lr")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            advance(done + 1, steps * options.epochs, value)
        losses.append(judge())
        if losses[-1] <= min(losses):
            student.save(path)
    return losses


def _schedule(progress: float) -> float:
    """Return the share of the largest learning rate: a linear warm-up, since Adam's first steps are of full size."""
    return min(progress / WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * progress))


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
