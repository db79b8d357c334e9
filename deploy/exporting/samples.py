"""Real samples for parity probes: prepared arrays, or images that are prepared as the model wants them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.core.errors import DataError
from deploy.core.model import Model
from deploy.core.progress import SILENT, Progress
from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec
from deploy.data.arrays import IMAGES
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches, image_preprocessing
from deploy.parity.probes import MOST_REAL

ProbeSamples = Fetches | Dataset
"""Arrays by input name, ready for the model; or images."""


def load_samples(data: str | None, progress: Progress = SILENT) -> ProbeSamples | None:
    """Arrays by input name from ``.npz``; the array of a ``.npy`` for a model with one input (under ``""``); images.

    Arrays are fed as they are, but for uint8 and for ``images`` in an ``.npz``, which are images.

    Args:
        data: an array file, a folder of images, or the name of a bundled data set; of images at most `MOST_REAL` are
            opened, evenly spaced.
        progress: told what was chosen.

    Raises:
        DataError: not an array file, or images that cannot be read.
        UnknownNameError: neither a name nor a path.
    """
    if data is None:
        return None
    path = Path(data)
    if path.suffix not in (".npy", ".npz"):
        return open_dataset(data, limit=MOST_REAL, progress=progress)
    if not path.is_file():  # a pipe would make the program wait for ever
        raise DataError(f"{path}: there is no such file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path}: not a .npy or .npz file of plain arrays: {exc}.") from exc
    if set(arrays) & set(IMAGES) or any(value.dtype == np.uint8 for value in arrays.values()):
        return open_dataset(data, limit=MOST_REAL, progress=progress)
    return arrays


def digest_of(arrays: Fetches) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def fit_samples(samples: ProbeSamples | None, model: Model, inputs: Sequence[TensorSpec]) -> Fetches | None:
    """Samples under the names of the inputs: images prepared for the model, arrays checked against the shapes.

    Raises:
        DataError: they do not fit.
        UsageError: images for a model that does not take them.
    """
    if samples is None:
        return None
    if isinstance(samples, Dataset):
        images, _ = next(batches(samples, image_preprocessing(model), MOST_REAL))
        samples = {inputs[0].name: images}
    return fit_arrays(samples, inputs)


def fit_arrays(samples: Fetches, inputs: Sequence[TensorSpec]) -> Fetches:
    """Arrays under the names of the inputs, each of its input's type, checked against its shape.

    Raises:
        DataError: they do not fit.
    """
    if set(samples) == {""} and len(inputs) == 1:
        samples = {inputs[0].name: samples[""]}
    wanted = ", ".join(spec.name for spec in inputs)
    if set(samples) != {spec.name for spec in inputs}:
        raise DataError(f"the samples hold {', '.join(samples) or 'nothing'}; the model takes {wanted}.")
    for spec in inputs:
        found = samples[spec.name].shape
        if samples[spec.name].dtype.kind not in "fiub":
            raise DataError(f"samples of type {samples[spec.name].dtype} do not fit {spec}.")
        fits = len(found) == len(spec.shape) and all(
            isinstance(dim, str) or size == dim for size, dim in zip(found[1:], spec.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(f"samples of shape {list(found)} do not fit {spec}; the first axis counts samples.")
        if found[0] == 0 or (isinstance(spec.shape[0], int) and found[0] < spec.shape[0]):
            raise DataError(f"{found[0]} samples are fewer than one batch of {spec}.")
    return {spec.name: samples[spec.name].astype(spec.dtype, copy=False) for spec in inputs}
