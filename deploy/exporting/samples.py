"""Real samples for parity probes: arrays that are ready for the model, or images that are prepared for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.core.errors import DataError
from deploy.core.model import Model
from deploy.core.progress import SILENT, Progress
from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec
from deploy.data.arrays import IMAGES, open_arrays, read_array
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches, image_preprocessing
from deploy.parity.probes import MAX_REAL_SAMPLES

ProbeSamples = Fetches | Dataset
"""Arrays by input name, ready for the model; or images."""


def load_samples(data: str, progress: Progress = SILENT) -> ProbeSamples:
    """Load samples from a file, a folder or a bundled data set.

    A ``.npz`` holds arrays by input name, a ``.npy`` the array of a model with one input. Arrays are used as they are,
    except uint8 arrays and ``images`` in a ``.npz``, which are images.

    Args:
        data: path of an array file or of a folder of images, or the name of a bundled data set. Of images, at most
            `MAX_REAL_SAMPLES` are opened, evenly spaced.
        progress: receives progress messages.

    Returns:
        Arrays by input name (the array of a ``.npy`` under ``""``) or images.

    Raises:
        DataError: not an array file, or images that cannot be read.
        UnknownNameError: neither a name nor a path.
    """
    path = Path(data)
    if path.suffix not in (".npy", ".npz"):
        return open_dataset(data, limit=MAX_REAL_SAMPLES, progress=progress)
    with open_arrays(path) as opened:
        arrays = {name: read_array(opened, name) for name in opened}
    if set(arrays) & set(IMAGES) or any(value.dtype == np.uint8 for value in arrays.values()):
        return open_dataset(data, limit=MAX_REAL_SAMPLES, progress=progress)
    return arrays


def digest_of(arrays: Fetches) -> str:
    """Return the SHA-256 of arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def fit_samples(samples: ProbeSamples, model: Model, inputs: Sequence[TensorSpec]) -> Fetches:
    """Convert what `load_samples` returned to arrays by input name; images are prepared for the model."""
    if isinstance(samples, Dataset):
        images, _ = next(batches(samples, image_preprocessing(model), MAX_REAL_SAMPLES))
        samples = {inputs[0].name: images}
    return fit_arrays(samples, inputs)


def fit_arrays(samples: Fetches, inputs: Sequence[TensorSpec]) -> Fetches:
    """Return arrays by input name, converted to the types of the inputs; an array under ``""`` is for a single input.

    Raises:
        DataError: names, types or shapes do not fit the inputs, or there are fewer samples than a fixed batch.
    """
    if set(samples) == {""} and len(inputs) == 1:
        samples = {inputs[0].name: samples[""]}
    if set(samples) != {spec.name for spec in inputs}:
        expected = ", ".join(spec.name for spec in inputs)
        raise DataError(f"the data has the arrays {', '.join(samples) or 'none'}; the model has the inputs {expected}.")
    for spec in inputs:
        shape, dtype = samples[spec.name].shape, samples[spec.name].dtype
        if dtype.kind not in "fiub":
            raise DataError(f"samples of type {dtype} do not fit {spec}.")
        fits = len(shape) == len(spec.shape) and all(
            isinstance(dim, str) or size == dim for size, dim in zip(shape[1:], spec.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(f"samples of shape {list(shape)} do not fit {spec}; the first axis counts samples.")
        if shape[0] == 0 or (isinstance(spec.shape[0], int) and shape[0] < spec.shape[0]):
            raise DataError(f"{shape[0]} samples are fewer than one batch of {spec}.")
    return {spec.name: samples[spec.name].astype(spec.dtype, copy=False) for spec in inputs}
