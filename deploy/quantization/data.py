"""Calibration data: samples that set the ranges, and samples that the quantized graph is evaluated on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
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
from deploy.evaluation.predictions import labels_for
from deploy.exporting.samples import digest_of, fit_arrays, images_in, labels_in, load_samples
from deploy.quantization.source import Source

MIN_SAMPLES = 2
"""Smallest number of samples that ranges are taken from."""

MAX_EVIDENCE_SAMPLES = 512
"""Largest number of samples that a quantized graph is evaluated on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSamples:
    """Samples that are fed in batches.

    Attributes:
        summary: name, digest, count and preprocessing, as plain values for a manifest.
        labels: class indices of the model, (count,), int64; None without labels.
        pictures: the images with their boxes or masks; None without them.
        stream: yields batches of at most the given number of samples.
        take: returns the samples at the given indices, in that order.
    """

    count: int
    summary: Mapping[str, Any]
    labels: NDArray[np.int64] | None
    stream: Callable[[int], Iterator[Feeds]]
    take: Callable[[NDArray[np.intp]], CalibrationSamples]
    pictures: Dataset | None = None

    def batches(self, size: int, *, fixed: bool) -> Iterator[Feeds]:
        """Yield batches in order; ``fixed`` drops an incomplete last one, for a graph with a fixed batch size."""
        for batch in self.stream(size):
            if not fixed or len(next(iter(batch.values()))) == size:
                yield batch

    def unscored(self) -> CalibrationSamples:
        """Return the samples without boxes and masks."""
        return dataclasses.replace(self, pictures=None, take=lambda indices: self.take(indices).unscored())

    def head(self, count: int) -> CalibrationSamples:
        """Return the first ``count`` samples, or all if there are fewer."""
        return self if count >= self.count else self.take(np.arange(count))

    def spread(self, count: int) -> CalibrationSamples:
        """Return at most ``count`` samples, evenly spaced."""
        return self if count >= self.count else self.take(evenly(self.count, count))


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationData:
    """Samples that set the ranges, and samples for the evidence; ``apart`` if the two have no sample in common."""

    calibration: CalibrationSamples
    evidence: CalibrationSamples
    apart: bool


def open_data(
    calib: str, source: Source, *, samples: int, held_out: float = 0.0, skip_bad: bool, progress: Progress
) -> CalibrationData:
    """Open the data given by ``--calib`` and divide it; at most ``samples`` are for calibration.

    ``held_out`` is the share that is left for the evidence at least, where the data has no test split.
    """
    loaded = load_samples(calib, progress) if calib.endswith((".npy", ".npz")) else None
    if isinstance(loaded, dict):
        if skip_bad:
            raise UsageError(f"--skip-bad is only used with a folder of images, not with {calib}.")
        images = images_in(loaded, source.inputs, Path(calib))
        if images is None:
            labels = labels_in(loaded, source.inputs)
            data = _from_arrays(calib, fit_arrays(loaded, source.inputs), labels, samples, held_out, progress)
        else:
            data = _from_images(calib, source, lambda: _divide(images, samples, held_out))
    else:
        data = _from_images(calib, source, lambda: _split(calib, samples, held_out, skip_bad, progress))
    if not data.apart:
        progress.note("the quantized graph is evaluated on the calibration samples: there are no others")
    return data


def _from_images(calib: str, source: Source, divide: Callable[[], tuple[Dataset, Dataset, bool]]) -> CalibrationData:
    if source.preprocessing is None:
        inputs = "; ".join(map(str, source.inputs))
        if len(source.inputs) == 1 and len(source.inputs[0].shape) == 4:
            height = source.inputs[0].shape[2]
            size = height if isinstance(height, int) else 224
            raise UsageError(
                f"{calib}: how an image becomes the input of {source.model} ({inputs}) is not known.",
                f"--preprocess crop={size} --preprocess mean=0.5 --preprocess std=0.5, with the values of its training",
            )
        raise UsageError(
            f"{calib}: {source.model} takes {inputs}, not images.", "give its inputs by name in a .npz file"
        )
    train, test, apart = divide()
    spec = source.inputs[0]
    return CalibrationData(
        calibration=_image_samples(train, spec, source.preprocessing, None).unscored(),
        evidence=_image_samples(test, spec, source.preprocessing, _labels(test, source)),
        apart=apart,
    )


def _split(
    calib: str, samples: int, held_out: float, skip_bad: bool, progress: Progress
) -> tuple[Dataset, Dataset, bool]:
    """Return images for calibration, images for evaluation, and whether the two are disjoint."""
    limit = samples + MAX_EVIDENCE_SAMPLES
    images = open_dataset(calib, split="train", limit=limit, skip_bad=skip_bad, progress=progress)
    if images.split == "train" and len(images) >= MIN_SAMPLES:
        test = open_dataset(calib, split="test", limit=MAX_EVIDENCE_SAMPLES, skip_bad=skip_bad, progress=progress)
        return images.spread(samples), test, True
    return _divide(images, samples, held_out)


def _divide(images: Dataset, samples: int, held_out: float) -> tuple[Dataset, Dataset, bool]:
    """Return evenly spaced images for calibration, others for evaluation, and whether there are others."""
    images = images.spread(samples + MAX_EVIDENCE_SAMPLES)
    if len(images) < MIN_SAMPLES:
        raise DataError(f"{images.name}: {len(images)} image; calibration needs at least {MIN_SAMPLES}.")
    samples = _at_most(samples, len(images), held_out)
    if len(images) <= samples:
        return images, images, False
    chosen = evenly(len(images), samples)
    return images.take(chosen), images.take(np.setdiff1d(np.arange(len(images)), chosen)), True


def _at_most(samples: int, total: int, held_out: float) -> int:
    """Return how many samples of all are for calibration at most."""
    return max(min(samples, int(total * (1.0 - held_out))), MIN_SAMPLES) if held_out else samples


def _image_samples(
    dataset: Dataset, spec: TensorSpec, preprocessing: Preprocessing, labels: NDArray[np.int64] | None
) -> CalibrationSamples:
    def stream(size: int) -> Iterator[Feeds]:
        for images, _ in batches(dataset, preprocessing, size):
            yield {spec.name: images.astype(spec.dtype, copy=False)}

    def take(indices: NDArray[np.intp]) -> CalibrationSamples:
        chosen = None if labels is None else labels[indices]
        return _image_samples(dataset.take(indices), spec, preprocessing, chosen)

    return CalibrationSamples(
        count=len(dataset),
        summary={**dataset.summary(), "preprocessing": dataclasses.asdict(preprocessing)},
        labels=labels,
        stream=stream,
        take=take,
        pictures=None if dataset.truths is None else dataset,
    )


def _labels(dataset: Dataset, source: Source) -> NDArray[np.int64] | None:
    """Return the labels as class indices of the model; None if they do not match its outputs."""
    shape = source.outputs[0].shape if source.outputs else ()
    classes = shape[-1] if len(shape) == 2 else None
    if dataset.labels is None or not isinstance(classes, int):
        return None
    try:
        return labels_for(dataset, classes, source.labels, source.model)[0]
    except DataError:
        return None


def _from_arrays(
    calib: str,
    arrays: Fetches,
    labels: NDArray[np.int64] | None,
    samples: int,
    held_out: float,
    progress: Progress,
) -> CalibrationData:
    count = min(len(values) for values in arrays.values() if values.ndim)
    if labels is not None and len(labels) != count:
        raise DataError(f"{calib}: {len(labels)} labels for {count} samples.")
    if count < MIN_SAMPLES:
        raise DataError(f"{calib}: {count} sample; calibration needs at least {MIN_SAMPLES}.")
    for name, values in arrays.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise DataError(f"{calib}: input {name!r} holds values that are not finite.")
    progress.note(f"{calib}: fed without preprocessing; give images as uint8 arrays or a folder to have them prepared")
    chosen = evenly(count, _at_most(samples, count, held_out))
    rest = np.setdiff1d(np.arange(count), chosen)[:MAX_EVIDENCE_SAMPLES]
    apart = len(rest) >= MIN_SAMPLES

    def select(indices: NDArray[np.intp]) -> CalibrationSamples:
        def stream(size: int) -> Iterator[Feeds]:
            for start in range(0, len(indices), size):
                rows = indices[start : start + size]
                yield {name: values[rows] if values.ndim else values for name, values in arrays.items()}

        summary = {"name": calib.rpartition("/")[2], "images": len(indices), "digest": digest_of(arrays)}
        chosen = None if labels is None else labels[indices]
        return CalibrationSamples(
            count=len(indices), summary=summary, labels=chosen, stream=stream, take=lambda inner: select(indices[inner])
        )

    return CalibrationData(calibration=select(chosen), evidence=select(rest if apart else chosen), apart=apart)
