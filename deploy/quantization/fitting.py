"""What of the samples can be used to judge a graph: as many as fit into memory with their outputs, and their truths."""

from __future__ import annotations

import onnx

from deploy.core.errors import BackendError, DataError, MissingPackageError
from deploy.core.isolated import IsolatedRunner
from deploy.core.progress import Progress
from deploy.quantization.cache import batch_of
from deploy.quantization.data import CalibrationSamples
from deploy.quantization.evidence import Judge
from deploy.quantization.source import Source

OUTPUT_BYTES = 1 << 30
"""Memory for the outputs of one graph on all samples; the float graph's and those of a quantized one are kept."""


def fitting(
    samples: CalibrationSamples,
    source: Source,
    graph: onnx.ModelProto,
    runner: IsolatedRunner,
    target: str,
    *,
    scored: bool,
    progress: Progress,
) -> CalibrationSamples:
    """Run the float graph on one batch and return the samples that it can be judged on.

    Boxes and masks that cannot be scored are left out with a note, or an error if ``scored``.

    Raises:
        DataError: the boxes or masks do not fit the model, or there is no whole batch.
        BackendError: the graph cannot be run, or its outputs are not those of its task.
        MissingPackageError: the package that scores boxes is not installed.
    """
    size, fixed = batch_of(graph)
    first = samples.head(size if fixed else 1)
    judge = Judge(runner, source, first, size=size, fixed=fixed, target=target)
    most = max(size if fixed else 1, OUTPUT_BYTES // max(1, judge.sample_bytes))
    if samples.count > most:
        progress.note(
            f"{source.model}: the outputs of a sample take {judge.sample_bytes / 1e6:.0f} MB, so {most} samples are "
            f"judged in place of {samples.count}"
        )
        samples = samples.spread(most)
    if samples.pictures is None:
        return samples
    try:
        _ = judge.quality
    except (DataError, BackendError, MissingPackageError) as exc:
        if scored:
            raise
        progress.note(f"boxes and masks are not used: {exc.message}")
        return samples.unscored()
    return samples
