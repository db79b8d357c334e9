"""Real samples for parity probes: arrays that are ready for the model, or images that are prepared for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.core.model import Model
from deploy.core.progress import SILENT, Progress
from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec
from deploy.data.arrays import IMAGES, LABELS, images_of, open_arrays, read_array
from deploy.data.collection import open_dataset
from deploy.data.dataset import Dataset
from deploy.data.preprocess import batches, image_preprocessing
from deploy.parity.probes import MAX_REAL_SAMPLES

ProbeSamples = Fetches | Dataset
"""Arrays by input name, ready for the model; or images."""


def load_samples(data: str, progress: Progress = SILENT) -> ProbeSamples:
    """Load samples from a file, a folder or a bundled data set.

    A ``.npz`` holds arrays by input name, a ``.npy`` the array of a model with one input. Whether an array is the input
    itself or images for it depends on the model, see `images_in`.

    Args:
        data: path of an array file or of a folder of images, or the name of a bundled data set. Of images in a folder,
            at most `MAX_REAL_SAMPLES` are opened, evenly spaced.
        progress: receives progress messages.

    Returns:
        Arrays by name (the array of a ``.npy`` under ``""``) or images.

    Raises:
        DataError: not an array file, or images that cannot be read.
        UnknownNameError: neither a name nor a path.
    """
    path = Path(data)
    if path.suffix not in (".npy", ".npz"):
        return open_dataset(data, limit=MAX_REAL_SAMPLES, progress=progress)
    with open_arrays(path) as opened:
        return {name: read_array(opened, name) for name in opened}


def images_in(arrays: Fetches, inputs: Sequence[TensorSpec], path: Path = Path("data.npz")) -> Dataset | None:
    """Return the images that arrays hold for a model; None if they are its inputs, or its input is not (N, C, H, W).

    An array is an input if it has its name and shape, or no name, unless it holds uint8 for an input of floats.
    Otherwise the array ``images`` or ``x``, or one without a name, holds images, and ``labels`` or ``y`` their
    labels.

    Args:
        arrays: by name, see `load_samples`.
        inputs: of the model.
        path: for messages.

    Raises:
        DataError: the images cannot be read.
    """
    spec = inputs[0]
    if len(inputs) != 1 or len(spec.shape) != 4:
        return None
    name = next((name for name in ("", spec.name, *IMAGES) if name in arrays), None)
    if name is None:
        return None
    values = arrays[name]
    is_input = name == "" or (name == spec.name and _fits(values.shape, spec))
    if is_input and (values.dtype != np.uint8 or not spec.dtype.startswith("float")):
        return None
    labels = next((arrays[name] for name in LABELS if name in arrays and name != spec.name), None)
    return images_of(values, labels, path)


def labels_in(arrays: Fetches, inputs: Sequence[TensorSpec]) -> NDArray[np.int64] | None:
    """Return the class indices that are beside the inputs of a model: ``labels`` or ``y``, (count,); None if absent."""
    names = {spec.name for spec in inputs}
    found = next((arrays[name] for name in LABELS if name in arrays and name not in names), None)
    return found.astype(np.int64) if found is not None and found.ndim == 1 and found.dtype.kind in "iu" else None


def digest_of(arrays: Fetches) -> str:
    """Return the SHA-256 of arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name}\0{values.dtype.str}\0{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def fit_samples(samples: ProbeSamples, model: Model, inputs: Sequence[TensorSpec]) -> Fetches:
    """Convert what `load_samples` returned to arrays by input name; images are prepared for the model."""
    if not isinstance(samples, Dataset):
        found = images_in(samples, inputs)
        samples = samples if found is None else found.spread(MAX_REAL_SAMPLES)
    if isinstance(samples, Dataset):
        images, _ = next(batches(samples, image_preprocessing(model), MAX_REAL_SAMPLES))
        samples = {inputs[0].name: images}
    return fit_arrays(samples, inputs)


def fit_arrays(samples: Fetches, inputs: Sequence[TensorSpec]) -> Fetches:
    """Return arrays by input name, converted to the types of the inputs; an array under ``""`` is for a single input.

    Labels beside them are left out. The value of an input without dimensions is the same for all samples and comes
    last.

    Raises:
        DataError: names, types or shapes do not fit the inputs, or there are fewer samples than a fixed batch.
    """
    names = [spec.name for spec in inputs]
    if set(samples) == {""} and len(inputs) == 1:
        samples = {names[0]: samples[""]}
    samples = {name: values for name, values in samples.items() if name in names or name not in LABELS}
    if set(samples) != set(names):
        expected = ", ".join(names)
        raise DataError(f"the data has the arrays {', '.join(samples) or 'none'}; the model has the inputs {expected}.")
    for spec in inputs:
        shape, dtype = samples[spec.name].shape, samples[spec.name].dtype
        if dtype.kind not in "fiub":
            raise DataError(f"samples of type {dtype} do not fit {spec}.")
        if not _fits(shape, spec):
            counted = "; the first axis counts samples" if spec.shape else "; it is one value for all samples"
            raise DataError(f"samples of shape {list(shape)} do not fit {spec}{counted}.")
        if spec.shape and (shape[0] == 0 or (isinstance(spec.shape[0], int) and shape[0] < spec.shape[0])):
            raise DataError(f"{shape[0]} samples are fewer than one batch of {spec}.")
    if not any(spec.shape for spec in inputs):
        raise DataError("no input of the model has an axis that counts samples.")
    ordered = sorted(inputs, key=lambda spec: not spec.shape)
    return {spec.name: samples[spec.name].astype(spec.dtype, copy=False) for spec in ordered}


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Return whether an array has the shape of an input, apart from the number of samples."""
    return len(shape) == len(spec.shape) and all(
        isinstance(dim, str) or size == dim for size, dim in zip(shape[1:], spec.shape[1:], strict=True)
    )
