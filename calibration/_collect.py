"""One pass over the data: a histogram of every activation, in memory that does not grow with the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibration._graph import elements, types
from calibration._histogram import Histogram
from calibration._observe import plan
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


def collect(
    model: onnx.ModelProto,
    feeds: Iterable[Feeds],
    *,
    samples: int | None = None,
    threads: int = 0,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Observations:
    """Run every batch once and count what flows.

    Args:
        model: a float32 graph, as `prepare` returns it.
        feeds: batches: arrays by input name, the first axis samples.
        samples: how many samples all batches hold together, where that is known; without it the stability of the
            ranges is not told.
        threads: of ONNX Runtime within an operator; 0 leaves it to ONNX Runtime.
        advance: told after every batch how many samples of how many are done.

    Returns:
        Histograms by tensor; memory is that of some 64 KiB a tensor and of one batch's activations.

    Raises:
        DataError: no samples, or a tensor became NaN or infinite (it and the samples are named).
        BackendError: ONNX Runtime cannot run the graph on the feeds.
    """
    observed, shared = plan(model)
    session = _session(model, observed, threads)
    inputs = {item.name for item in session.get_inputs()}
    computed = [name for name in observed if name not in inputs]
    found = {name: Observation() for name in observed}
    done = 0
    for batch, values in _ran_ahead(session, computed, feeds):
        count = len(next(iter(batch.values())))
        for name in observed:
            _add(name, found[name], values.pop(name, None), batch, (done, done + count - 1))
        done += count
        if samples and any(item.early is None for item in found.values()) and done >= LATE * samples:
            for item in found.values():
                item.early = item.all.copy()
        advance(done, samples or done)
    if not done:
        raise DataError("there is not one sample to calibrate with.")
    return Observations(tensors=found, shared=shared, samples=done)


def _ran_ahead(
    session: ort.InferenceSession, computed: list[str], feeds: Iterable[Feeds]
) -> Iterator[tuple[Feeds, dict[str, Array]]]:
    """Every batch with its activations; the next is run while this one is counted."""
    with ThreadPoolExecutor(1) as pool:
        batches = iter(feeds)
        batch = next(batches, None)
        running = None if batch is None else pool.submit(_run, session, computed, batch)
        while batch is not None and running is not None:
            values = running.result()
            following = next(batches, None)
            running = None if following is None else pool.submit(_run, session, computed, following)
            yield batch, values
            batch = following


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
