"""Real samples for parity probes, from arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.core.errors import DataError
from deploy.core.runner import Fetches


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
