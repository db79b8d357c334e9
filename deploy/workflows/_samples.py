"""Real samples for parity probes, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.core.errors import DataError
from deploy.core.runner import Fetches
from deploy.core.tensors import TensorSpec


def load_samples(path: str | None) -> Fetches | None:
    """Arrays by input name from ``.npz``, or the array of a ``.npy`` for a model with one input (under ``""``).

    Raises:
        DataError: not an array file.
    """
    if path is None:
        return None
    try:
        loaded = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise DataError(f"{path}: not a .npy or .npz file of plain arrays: {exc}.") from exc
    return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}


def fit_samples(samples: Fetches | None, inputs: Sequence[TensorSpec]) -> Fetches | None:
    """Samples under the names of the inputs, each checked against its input's shape.

    Raises:
        DataError: they do not fit.
    """
    if samples is None:
        return None
    if set(samples) == {""} and len(inputs) == 1:
        samples = {inputs[0].name: samples[""]}
    wanted = ", ".join(spec.name for spec in inputs)
    if set(samples) != {spec.name for spec in inputs}:
        raise DataError(f"the samples hold {', '.join(samples) or 'nothing'}; the model takes {wanted}.")
    for spec in inputs:
        found = samples[spec.name].shape
        fits = len(found) == len(spec.shape) and all(
            isinstance(dim, str) or size == dim for size, dim in zip(found[1:], spec.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(f"samples of shape {list(found)} do not fit {spec}; the first axis counts samples.")
    return samples
