"""One pass over the data: a histogram of every activation, in memory that does not grow with the data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration.graph import elements, types
from calibration.histogram import Histogram
from calibration.observe import plan
from deploy.core.errors import BackendError, DataError
from deploy.core.runner import Feeds

Array = NDArray[Any]

OBSERVED_BYTES = 48 << 20
"""Activations of one batch, of which two are in memory at once; the size of batches follows from it."""

LATE = 0.75
"""Share of the samples after which the histograms are remembered, to tell how much the rest still changed."""


@dataclass(slots=True)
class Observation:
    """What was seen of one tensor.

    Attributes:
        all: of every sample.
        early: of the first three quarters of them.
        channels: smallest and largest value of each channel, (2, C), of a tensor (N, C, H, W); None for others.
    """

    all: Histogram = field(default_factory=Histogram)
    early: Histogram | None = None
    channels: Array | None = None

    @property
    def dead(self) -> int:
        """Channels that never changed."""
        return 0 if self.channels is None else int((self.channels[0] == self.channels[1]).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Observations:
    """What was seen of a graph.

    Attributes:
        tensors: by name, in execution order.
        shared: tensors that have the range of another.
        samples: how many were run.
    """

    tensors: Mapping[str, Observation]
    shared: Mapping[str, str]
    samples: int


def batch_size(model: onnx.ModelProto, most: int = 32) -> int:
    """How many samples fit: the size that the graph fixes, or as many as keep the activations in `OBSERVED_BYTES`."""
    kinds = types(model)
    first = next((kinds[value.name] for value in model.graph.input if value.name in kinds), None)
    if first is not None and len(first.shape.dim) and first.shape.dim[0].dim_value:
        return int(first.shape.dim[0].dim_value)
    each = 4 * sum(elements(kinds[name]) for name in plan(model)[0])
    return int(np.clip(OBSERVED_BYTES // max(each, 1), 1, most))


class Collector:
    """Counts what flows, batch by batch; while one is counted the next can run.

    Args:
        model: a float32 graph, as `prepare` returns it.
        samples: how many samples all batches hold together, where that is known; without it the stability of the
            ranges is not told.
        threads: of ONNX Runtime within an operator; 0 leaves it to ONNX Runtime.

    Raises:
        BackendError: ONNX Runtime cannot open the graph.
    """

    def __init__(self, model: onnx.ModelProto, *, samples: int | None = None, threads: int = 0) -> None:
        self._observed, self._shared = plan(model)
        self._session = _session(model, self._observed, threads)
        inputs = {item.name for item in self._session.get_inputs()}
        self._computed = [name for name in self._observed if name not in inputs]
        self._found = {name: Observation() for name in self._observed}
        self._samples = samples
        self._pool = ThreadPoolExecutor(1)
        self._running: tuple[Feeds, Future[dict[str, Array]]] | None = None
        self.done = 0

    def add(self, batch: Feeds) -> None:
        """Begin to run a batch, and count the one before.

        Raises:
            DataError: a tensor of that became NaN or infinite (it and the samples are named).
            BackendError: ONNX Runtime cannot run the graph on it.
        """
        before, self._running = self._running, None
        values = None if before is None else before[1].result()
        self._running = (batch, self._pool.submit(_run, self._session, self._computed, batch))
        if before is not None and values is not None:
            self._count(before[0], values)

    def finish(self) -> Observations:
        """Count the last batch.

        Returns:
            Histograms by tensor; memory is that of some 64 KiB a tensor and of one batch's activations.

        Raises:
            DataError: no samples, or as `add`.
            BackendError: as `add`.
        """
        if self._running is not None:
            batch, running = self._running
            self._running = None
            self._count(batch, running.result())
        if not self.done:
            raise DataError("there is not one sample to calibrate with.")
        return Observations(tensors=self._found, shared=self._shared, samples=self.done)

    def close(self) -> None:
        """Free the thread."""
        self._pool.shutdown()

    def _count(self, batch: Feeds, values: dict[str, Array]) -> None:
        count = len(next(iter(batch.values())))
        for name in self._observed:
            _add(name, self._found[name], values.pop(name, None), batch, (self.done, self.done + count - 1))
        self.done += count
        every = self._samples
        if every and any(item.early is None for item in self._found.values()) and self.done >= LATE * every:
            for item in self._found.values():
                item.early = item.all.copy()


def collect(
    model: onnx.ModelProto, feeds: Iterable[Feeds], *, samples: int | None = None, threads: int = 0
) -> Observations:
    """Run every batch once and count what flows, in this process.

    Args:
        model: as for `Collector`.
        feeds: batches: arrays by input name, the first axis samples.
        samples: as for `Collector`.
        threads: as for `Collector`.

    Raises:
        DataError: as `Collector.finish`.
        BackendError: as `Collector.add`.
    """
    collector = Collector(model, samples=samples, threads=threads)
    try:
        for batch in feeds:
            collector.add(batch)
        return collector.finish()
    finally:
        collector.close()


def _run(session: ort.InferenceSession, computed: list[str], batch: Feeds) -> dict[str, Array]:
    try:
        return dict(zip(computed, session.run(computed, dict(batch)), strict=True))
    except Exception as exc:
        shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in batch.items())
        raise BackendError(f"ONNX Runtime failed on {shapes}: {str(exc).splitlines()[0][:300]}") from exc


def _session(model: onnx.ModelProto, observed: list[str], threads: int) -> ort.InferenceSession:
    """A session that gives out the observed tensors; idle threads do not spin while values are counted."""
    opened = copy.deepcopy(model)
    given = {value.name for value in (*opened.graph.input, *opened.graph.output)}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in observed if name not in given)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(opened.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise BackendError(f"ONNX Runtime cannot open the graph: {str(exc).splitlines()[0][:300]}") from exc


def _add(name: str, item: Observation, value: Array | None, batch: Feeds, at: tuple[int, int]) -> None:
    value = batch[name] if value is None else value
    ends = None
    if value.ndim == 4 and value.size:
        flat = value.reshape(*value.shape[:2], -1)
        ends = np.stack([flat.min(axis=2).min(axis=0), flat.max(axis=2).max(axis=0)])
    try:  # the ends of the channels are those of the whole: it is not gone through once more
        item.all.add(value, None if ends is None else (float(ends[0].min()), float(ends[1].max())))
    except ValueError as exc:
        raise DataError(f"tensor {name!r} holds {exc} on samples {at[0]} to {at[1]}.") from exc
    if ends is not None:
        if item.channels is not None:
            ends = np.stack([np.minimum(ends[0], item.channels[0]), np.maximum(ends[1], item.channels[1])])
        item.channels = ends
