"""Histograms of every activation in one pass over the data, in memory that does not grow with the data."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.graph import (
    depthwise_inputs,
    element_count,
    first_counted,
    is_large,
    tensor_types,
    tensors_to_observe,
)
from calibration.observations import Observation, Observations
from calibration.session import TensorSession
from deploy.core.errors import DataError
from deploy.core.runner import Feeds

Array = NDArray[Any]

OBSERVED_BYTES = 48 << 20
"""Memory for the activations of one batch, which decides the batch size; two batches are in memory at once."""

EARLY = 0.75
"""Fraction of the samples after which the histograms are copied, to measure how far ranges still change."""


def batch_size(model: onnx.ModelProto, max_size: int = 32) -> int:
    """Return the number of samples in a batch of a prepared graph.

    The size that the graph fixes, or as many samples, up to ``max_size``, as keep the activations within
    `OBSERVED_BYTES`.
    """
    types = tensor_types(model)
    first = first_counted(model)
    if first is not None and first.shape.dim[0].dim_value:
        return int(first.shape.dim[0].dim_value)
    sample_bytes = 4 * sum(element_count(types[name]) for name in tensors_to_observe(model)[0])
    return int(np.clip(OBSERVED_BYTES // max(sample_bytes, 1), 1, max_size))


class Collector:
    """Builds histograms batch by batch; one batch runs while the values of the previous one are counted.

    Args:
        model: a float32 graph from `calibration.prepare`.
        samples: total number of samples, if known; without it the stability of the ranges is not measured.
        folder: folder of the graph's external data.
    """

    def __init__(self, model: onnx.ModelProto, *, samples: int | None = None, folder: Path | None = None) -> None:
        observed, self._shared = tensors_to_observe(model)
        by_channel = depthwise_inputs(model)
        self._depthwise = tuple(name for name in observed if name in by_channel)
        self._session = TensorSession(model, observed, folder=folder, low_memory=is_large(model))
        self._tensors = {name: Observation() for name in observed}
        self._samples = samples
        self._pool = ThreadPoolExecutor(1)
        self._running: tuple[Feeds, Future[dict[str, Array]]] | None = None
        self._counted = 0

    def add(self, batch: Feeds) -> None:
        """Start to run a batch and count the values of the previous one.

        Raises:
            DataError: a tensor of the previous batch contains NaN or infinity.
        """
        previous, self._running = self._running, None
        values = None if previous is None else previous[1].result()
        self._running = (batch, self._pool.submit(self._session.run, batch))
        if previous is not None and values is not None:
            self._count(previous[0], values)

    def finish(self) -> Observations:
        """Count the last batch and return the histograms, about 64 KiB a tensor.

        Raises:
            DataError: there were no samples, or as for `add`.
        """
        if self._running is not None:
            batch, running = self._running
            self._running = None
            self._count(batch, running.result())
        if not self._counted:
            raise DataError("there are no calibration samples.")
        return Observations(
            tensors=self._tensors, shared=self._shared, samples=self._counted, depthwise=self._depthwise
        )

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _count(self, batch: Feeds, values: dict[str, Array]) -> None:
        size = len(next(iter(batch.values())))
        for name, item in self._tensors.items():
            try:
                _add(item, values.pop(name) if name in values else batch[name])
            except ValueError as exc:
                first, last = self._counted, self._counted + size - 1
                raise DataError(f"tensor {name!r} contains {exc} on samples {first} to {last}.") from exc
        self._counted += size
        if self._samples and self._counted >= EARLY * self._samples:
            for item in self._tensors.values():
                item.early = item.early or item.all.copy()


def collect(model: onnx.ModelProto, feeds: Iterable[Feeds], *, samples: int | None = None) -> Observations:
    """Run every batch once and return the histograms of all activations; see `Collector`.

    Batches are arrays by input name, with the samples along the first axis.

    Raises:
        DataError: there were no samples, or a tensor contains NaN or infinity.
    """
    collector = Collector(model, samples=samples)
    try:
        for batch in feeds:
            collector.add(batch)
        return collector.finish()
    finally:
        collector.close()


def _add(item: Observation, value: Array) -> None:
    """Add the values of a batch to an observation."""
    if value.ndim != 4 or not value.size:
        item.all.add(value)
        return
    flat = value.reshape(*value.shape[:2], -1)
    ends = np.stack([flat.min(axis=2).min(axis=0), flat.max(axis=2).max(axis=0)])
    item.all.add(value, (float(ends[0].min()), float(ends[1].max())))  # saves another pass over the values
    if item.channels is not None:
        ends = np.stack([np.minimum(ends[0], item.channels[0]), np.maximum(ends[1], item.channels[1])])
    item.channels = ends
