"""Tuning of the quantized layers: what is tried depends on the effort, and what helps is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.adjustment import Adjustments
from calibration.graph import is_large
from calibration.walk import walk_samples
from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.core.runner import Feeds
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.search import Quantizer
from deploy.quantization.worker import GraphChild, outline

CHOICE_SAMPLES = 64
"""Number of calibration samples on which methods are compared."""

_METHODS = {"bias correction": False, "bias correction and rounding": True}
_TRIED: dict[str, tuple[str, ...]] = {"low": (), "medium": ("bias correction",), "high": tuple(_METHODS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedMethod:
    """A method that was tried; the SQNR is that of the worst output on calibration samples, None if undefined.

    Attributes:
        layers: number of layers that the method changed.
        kept: the file was made with it.
    """

    method: str
    layers: int
    before_db: float | None
    after_db: float | None
    kept: bool


def rewritten(
    samples: CalibrationSamples, child: GraphChild, prepared: Path, effort: str, progress: Progress
) -> dict[str, list[str]]:
    """Equalize and smooth the prepared graph, unless the effort is low; return the scaled tensors by method."""
    if effort == "low":
        return {}
    size, fixed = batch_of(outline(prepared))
    chosen = _picked(samples, _spread(np.arange(samples.count), max(CHOICE_SAMPLES, size)))
    with progress.stage("scaling channels"):
        found = child.rewrite(chosen.batches(size, fixed=fixed), samples=chosen.count)
    for method, tensors in found.items():
        progress.note(f"{method}: the channels of {len(tensors)} tensors are scaled; the float function is the same")
    return found


def tune(
    quantizer: Quantizer,
    samples: CalibrationSamples,
    child: GraphChild,
    runner: IsolatedRunner,
    effort: str,
    progress: Progress,
) -> tuple[TriedMethod, ...]:
    """Give the quantizer the adjustments with the highest SQNR on calibration samples, or none.

    ``samples`` are those of the calibration. If there are enough, methods are not compared on the samples that the
    adjustments are computed from.
    """
    tried = _TRIED[effort]
    if not tried:
        return ()
    if is_large(quantizer.graph):
        progress.note(f"{', '.join(tried)}: left out, since the graph and its samples would not fit into memory")
        return ()
    size, fixed = batch_of(quantizer.graph)
    least = size if fixed else 1
    every = np.arange(samples.count)
    chosen = _spread(every, max(walk_samples(quantizer.graph), least))
    others = np.setdiff1d(every, chosen)
    feeds = _picked(samples, chosen)
    with progress.stage("comparing methods"):
        enough = len(others) >= max(CHOICE_SAMPLES // 2, least)
        judge = quantizer.judge(
            runner, _picked(samples, _spread(others if enough else every, max(CHOICE_SAMPLES, size)))
        )
        before = best = judge.measure(quantizer.write(()), progress).sqnr_db
        kept: Adjustments = {}
        results: list[tuple[str, Adjustments, float | None]] = []
        for method in tried:
            adjustments = _adjusted(quantizer, feeds, child, method, progress)
            quantizer.adjust(adjustments)
            after = judge.measure(quantizer.write(()), progress).sqnr_db if adjustments else before
            results.append((method, adjustments, after))
            if after is not None and best is not None and after > best:
                kept, best = adjustments, after
            quantizer.adjust({})
        quantizer.adjust(kept)
    return tuple(
        TriedMethod(
            method=method, layers=len(found), before_db=before, after_db=after, kept=bool(kept) and found is kept
        )
        for method, found, after in results
    )


def _adjusted(
    quantizer: Quantizer, samples: CalibrationSamples, child: GraphChild, method: str, progress: Progress
) -> Adjustments:
    """Return the adjustments by a method; none if ONNX Runtime cannot run parts of the graph."""
    size, fixed = batch_of(quantizer.graph)
    path = quantizer.write_float32((), child.folder)
    try:
        return child.tune(path, samples.batches(size, fixed=fixed), rounding=_METHODS[method], samples=samples.count)
    except BackendCrashedError:
        raise
    except BackendError as exc:
        progress.warn(f"{method} is left out: {exc}")
        return {}


def _spread(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Return at most ``count`` of the indices, evenly spaced."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, count).astype(np.intp))]


def _picked(samples: CalibrationSamples, indices: NDArray[np.intp]) -> CalibrationSamples:
    """Return the samples with these indices, in ascending order."""

    def stream(size: int) -> Iterator[Feeds]:
        start, left = 0, None
        for batch in samples.stream(size):
            count = next(len(values) for values in batch.values() if values.ndim)
            inside = indices[(indices >= start) & (indices < start + count)] - start
            start += count
            if not len(inside):
                continue
            single = {name: values for name, values in batch.items() if not values.ndim}
            chosen = {name: values[inside] for name, values in batch.items() if values.ndim}
            left = chosen if left is None else {name: np.concatenate([left[name], chosen[name]]) for name in chosen}
            while len(next(iter(left.values()))) >= size:
                yield {name: values[:size] for name, values in left.items()} | single
                left = {name: values[size:] for name, values in left.items()}
        if left is not None and len(next(iter(left.values()))):
            yield left | single

    labels = None if samples.labels is None else samples.labels[indices]
    return dataclasses.replace(samples, count=len(indices), labels=labels, stream=stream)
