"""Tuning of the quantized layers: what is tried depends on the effort, and what helps is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.adjustment import Adjustments
from calibration.graph import is_large
from calibration.walk import walk_samples
from deploy.core.errors import BackendCrashedError, BackendError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.data.dataset import evenly
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
    chosen = samples.spread(max(CHOICE_SAMPLES, size))
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
    chosen = evenly(samples.count, min(samples.count, max(walk_samples(quantizer.graph), least)))
    feeds, others = samples.take(chosen), np.setdiff1d(np.arange(samples.count), chosen)
    with progress.stage("comparing methods"):
        enough = len(others) >= max(CHOICE_SAMPLES // 2, least)
        judge = quantizer.judge(runner, (samples.take(others) if enough else samples).spread(max(CHOICE_SAMPLES, size)))
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
