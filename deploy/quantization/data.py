"""What a graph is calibrated on, and what it is judged on afterwards: images prepared for it, or ready arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError, UsageError
from deploy.core.model import Preprocessing
from deploy.core.progress import Progress
from deploy.core.runner import Feeds, Fetches
from deploy.core.tensors import TensorSpec
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset, evenly
from deploy.data.preprocess import batches
from deploy.evaluation.labels import labels_for
from deploy.exporting.samples import digest_of, fit_arrays, load_samples
from deploy.models.request import parse_options, typed

JUDGED = 512
"""Samples on which a quantized graph is judged at the most."""

FEWEST = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSamples:
    """Samples that can be fed, a batch at a time.

    Attributes:
        summary: name, digest, how many, how they were prepared: plain values for a manifest.
        labels: indices of the model's classes, one for each sample; None where there are none.
    """

    count: int
    summary: Mapping[str, Any]
    labels: NDArray[np.int64] | None
    stream: Callable[[int], Iterator[Feeds]]

    def batches(self, size: int, *, whole: bool) -> Iterator[Feeds]:
        """Batches in order; with ``whole``, for a graph whose batch is fixed, a rest that fills none is left out."""
        for batch in self.stream(size):
            if not whole or len(next(iter(batch.values()))) == size:
                yield batch

    def head(self, count: int) -> CalibrationSamples:
        """At most the first ``count``."""

        def stream(size: int) -> Iterator[Feeds]:
            done = 0
            for batch in self.stream(min(size, count)):
                left = count - done
                yield {name: values[:left] for name, values in batch.items()}
                done += len(next(iter(batch.values())))
                if done >= count:
                    return

        labels = None if self.labels is None else self.labels[:count]
        return dataclasses.replace(self, count=min(count, self.count), labels=labels, stream=stream)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationData:
    """Samples to calibrate with and samples to judge on.

    Attributes:
        apart: none of the latter is among the former.
    """

    calibration: CalibrationSamples
    evidence: CalibrationSamples
    apart: bool


def open_data(
    data: str,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    names: tuple[str, ...],
    model: str,
    *,
    samples: int,
    skip_bad: bool,
    progress: Progress,
) -> CalibrationData:
    """Open what follows ``--calib``.

    Args:
        data: a folder of images, a bundled data set, ``.npy`` or ``.npz``.
        inputs: of the graph.
        preprocessing: how images become its input; None where it does not take images.
        names: of the model's classes.
        model: its name, for messages.
        samples: to calibrate with, at the most.
        skip_bad: leave unreadable images out.
        progress: told what was chosen.

    Raises:
        DataError: fewer than two samples, or they do not fit.
        UsageError: images for a graph that does not take them.
    """
    if data.endswith((".npy", ".npz")):
        loaded = load_samples(data, progress)
        if isinstance(loaded, dict):
            return _arrays(data, fit_arrays(loaded, inputs), samples, progress)
    if preprocessing is None:
        takes = "; ".join(map(str, inputs))
        raise UsageError(f"{model} takes {takes}, not images.", "give its inputs by name in a .npz file")
    train, test, apart = _divided(data, samples, skip_bad, progress)
    return CalibrationData(
        calibration=_images(train, inputs[0], preprocessing, None),
        evidence=_images(test, inputs[0], preprocessing, (names, model)),
        apart=apart,
    )


def _divided(data: str, samples: int, skip_bad: bool, progress: Progress) -> tuple[Dataset, Dataset, bool]:
    """Images to calibrate with, images to judge on, and whether they are others."""
    most = samples + JUDGED
    whole = open_dataset(data, split="train", limit=most, skip_bad=skip_bad, progress=progress)
    if len(whole) < FEWEST:
        raise DataError(f"{whole.name}: {len(whole)} image is too few to calibrate with.")
    if whole.split == "train":
        test = open_dataset(data, split="test", limit=JUDGED, skip_bad=skip_bad, progress=progress)
        return whole.spread(samples), test, True
    if len(whole) <= samples:
        return whole, whole, False
    chosen = evenly(len(whole), samples)
    return whole.take(chosen), whole.take(np.setdiff1d(np.arange(len(whole)), chosen)), True


def _images(
    dataset: Dataset, spec: TensorSpec, preprocessing: Preprocessing, known: tuple[tuple[str, ...], str] | None
) -> CalibrationSamples:
    labels = None
    if known is not None and dataset.labels is not None:
        labels = _labels(dataset, *known)

    def stream(size: int) -> Iterator[Feeds]:
        for images, _ in batches(dataset, preprocessing, size):
            yield {spec.name: images.astype(spec.dtype, copy=False)}

    return CalibrationSamples(
        count=len(dataset),
        summary={**dataset.summary(), "preprocessing": dataclasses.asdict(preprocessing)},
        labels=labels,
        stream=stream,
    )


def _labels(dataset: Dataset, names: tuple[str, ...], model: str) -> NDArray[np.int64] | None:
    """The labels as the model's classes, where it knows them by name or by number."""
    try:
        return labels_for(dataset, len(names), names, model)[0] if names else None
    except DataError:
        return None


def _arrays(data: str, arrays: Fetches, samples: int, progress: Progress) -> CalibrationData:
    count = min(map(len, arrays.values()))
    if count < FEWEST:
        raise DataError(f"{data}: {count} sample is too few to calibrate with.")
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise DataError(f"{data}: input {name!r} holds values that are not finite.")
    progress.note(f"{data}: fed as it is; images that need preparing are given as uint8, or as a folder")
    chosen = evenly(count, samples)
    rest = np.setdiff1d(np.arange(count), chosen)[:JUDGED]
    apart = len(rest) >= FEWEST

    def some(indices: NDArray[np.intp]) -> CalibrationSamples:
        def stream(size: int) -> Iterator[Feeds]:
            for start in range(0, len(indices), size):
                yield {name: values[indices[start : start + size]] for name, values in arrays.items()}

        summary = {"name": data.rpartition("/")[2], "images": len(indices), "digest": digest_of(arrays)}
        return CalibrationSamples(count=len(indices), summary=summary, labels=None, stream=stream)

    return CalibrationData(calibration=some(chosen), evidence=some(rest if apart else chosen), apart=apart)


def override(preprocessing: Preprocessing | None, changes: Sequence[str]) -> Preprocessing | None:
    """Preprocessing with ``key=value`` changes: ``resize=256``, ``crop=224,224``, ``mean=0.5,0.5,0.5``.

    Raises:
        UsageError: no such key, or a value that cannot be.
    """
    if not changes:
        return preprocessing
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    values: dict[str, Any] = {}
    for key, text in parse_options(tuple(changes)).items():
        if key not in known:
            raise UsageError(f"--preprocess {key}: not one of {', '.join(sorted(known))}.")
        parts = tuple(typed(part) for part in text.split(","))
        values[key] = (parts * 2 if key == "crop" and len(parts) == 1 else parts) if key in _TUPLES else parts[0]
    if preprocessing is None and not {"crop", "mean", "std"} <= set(values):
        raise UsageError("the model has no preprocessing of its own: give --preprocess crop=…, mean=… and std=….")
    made = dataclasses.replace(preprocessing, **values) if preprocessing else Preprocessing(**values)
    if len(made.crop) != 2 or len(made.mean) != len(made.std):
        raise UsageError("--preprocess: crop takes two sizes, mean and std one value for each channel.")
    return made


_TUPLES = ("crop", "mean", "std")
