"""Outputs of a float graph, or of its quantized versions, scored by the boxes or masks of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.core.errors import DataError
from deploy.core.runner import Fetches
from deploy.data.dataset import Dataset
from deploy.evaluation.pictures import RunOutputs, judged_by, score_outputs
from deploy.evaluation.score import FEWEST, Score
from deploy.quantization.source import Source
from deploy.tasks.postprocessing import Postprocessing


def score_of(source: Source, dataset: Dataset, outputs: Sequence[Fetches], size: int) -> Score:
    """Return the score of outputs, with intervals over few resamples: a search computes it for every layer.

    Args:
        source: the float graph, whose manifest says how outputs are read.
        dataset: images with boxes or masks.
        outputs: of batches of ``size`` images in order; the last batch may be smaller or left out.
        size: images in a batch.

    Raises:
        DataError: the boxes or masks do not fit the model.
        BackendError: the outputs are not those of the task.
        MissingPackageError: the package that scores boxes is not installed.
    """
    manifest, preprocessing = source.manifest, source.preprocessing
    if preprocessing is None:
        raise DataError(f"{source.model}: how an image becomes its input is not known.")
    recorded = manifest.postprocessing if manifest else None
    judged = judged_by(
        outputs[0],
        source.inputs,
        name=source.model,
        data=dataset.name,
        task=manifest.task if manifest else None,
        declared=None if recorded is None else Postprocessing.from_dict(recorded),
        labels=source.labels,
        preprocessing=preprocessing,
    )

    def batches() -> Iterator[RunOutputs]:
        for number, fetches in enumerate(outputs):
            start = number * size
            yield RunOutputs(range(start, min(start + size, len(dataset))), preprocessing.crop, fetches)

    return score_outputs(batches(), dataset, judged, FEWEST)[0]
