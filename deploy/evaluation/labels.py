"""Labels of a data set as outputs of a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deploy.core.errors import DataError
from deploy.data.dataset import Dataset


def labels_for(dataset: Dataset, outputs: int, names: tuple[str, ...], model: str) -> tuple[NDArray[np.int64], str]:
    """Return labels as indices of the model's outputs, and how they were matched: ``name``, ``index`` or ``position``.

    They are matched by name if the model knows all classes of the data; used as they are if they are indices; else
    matched by position, if there are as many classes as outputs.

    Raises:
        DataError: the images have no labels, or the labels cannot be matched.
    """
    labels = dataset.labeled()
    if len(names) == outputs and not dataset.indexed and set(dataset.classes) <= set(names):
        index = np.asarray([names.index(name) for name in dataset.classes], dtype=np.int64)
        return index[labels], "name"
    if dataset.indexed and len(dataset.classes) <= outputs:
        return labels, "index"
    if not dataset.indexed and len(dataset.classes) == outputs:
        return labels, "position"
    raise DataError(
        f"{dataset.name} has {len(dataset.classes)} classes, and {model} has {outputs} outputs.",
        f"fine-tune the model on this data: deploy train {model} --data DATA",
    )
